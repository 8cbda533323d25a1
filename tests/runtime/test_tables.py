"""One table in three forms."""

from __future__ import annotations

import csv
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
