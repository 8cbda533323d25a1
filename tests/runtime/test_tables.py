"""One table in three forms."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from veridical.runtime.tables import Table, latex_text

TABLE = Table(["what", "n"], [["a|b, c", "-0.5"], ['say "x"', "50%"]])


def test_forms(tmp_path: Path) -> None:
    TABLE.write(tmp_path, "table")
    assert (tmp_path / "table.md").read_text() == (
        '| what | n |\n| --- | ---: |\n| a\\|b, c | -0.5 |\n| say "x" | 50% |\n'
    )
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["what", "n"], *map(list, TABLE.rows)]
    latex = (tmp_path / "table.tex").read_text()
    assert r"\begin{tabular}{lr}" in latex and r"50\% \\" in latex
    assert r"a\textbar{}b, c & $-$0.5 \\" in latex


def test_signs_of_latex_stand_for_themselves() -> None:
    assert latex_text(r"a_b & c\d ~^ 1-2 x-y") == (
        r"a\_b \& c\textbackslash{}d \textasciitilde{}\textasciicircum{} 1-2 x-y"
    )


def test_odd_names_stay_in_their_cells() -> None:
    r"""A line break ends a row, \\ takes a [ or a * behind it, and Markdown drops <tiny>."""
    table = Table(["arm", "n"], [["[dpo]\nnew", "1"], ["*best*", "2"], ["<tiny> _x_ a_b|c", "3"]])
    assert table.markdown.splitlines()[2:] == [
        "| [dpo] new | 1 |",
        r"| \*best\* | 2 |",
        r"| \<tiny> \_x\_ a_b\|c | 3 |",
    ]
    assert table.latex.splitlines()[4:7] == [
        r"{[}dpo] new & 1 \\",
        r"{*}best* & 2 \\",
        r"\textless{}tiny\textgreater{} \_x\_ a\_b\textbar{}c & 3 \\",
    ]
    assert list(csv.reader(io.StringIO(table.csv)))[1:] == table.rows
