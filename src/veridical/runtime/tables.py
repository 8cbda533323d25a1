"""One table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.files import write_text_atomic

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
          **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells as texts.

    Attributes:
        header: the columns' names.
        rows: as many cells each.
        left: how many columns, from the first, are words; the others are numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    @property
    def markdown(self) -> str:
        """A pipe table."""
        marks = ["---" if n < self.left else "---:" for n in range(len(self.header))]
        lines = [self.header, marks, *self.rows]
        cells = [[markdown_text(cell) for cell in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in cells)

    @property
    def csv(self) -> str:
        """Comma-separated values, as RFC 4180."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.header, *self.rows])
        return text.getvalue()

    @property
    def latex(self) -> str:
        r"""A `tabular` with the rules of booktabs; it needs \usepackage{booktabs}."""
        columns = "l" * self.left + "r" * (len(self.header) - self.left)
        head, *body = (" & ".join(map(latex_text, line)) + r" \\" for line in
                       [self.header, *self.rows])  # fmt: skip
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body,
                 r"\bottomrule", r"\end{tabular}"]  # fmt: skip
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, stem: str) -> None:
        """Write STEM.md, STEM.csv and STEM.tex."""
        for suffix, text in (("md", self.markdown), ("csv", self.csv), ("tex", self.latex)):
            write_text_atomic(folder / f"{stem}.{suffix}", text)


def markdown_text(text: str) -> str:
    """A text that stays one cell of a pipe table, and in which signs stand for themselves."""
    line = " ".join(text.split())
    shown = re.sub(r"[|<&*`]", r"\\\g<0>", line)
    # Within a word it marks nothing.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)


def latex_text(text: str) -> str:
    """A text in which LaTeX's own signs stand for themselves; a minus is a minus."""
    line = " ".join(text.split())
    shown = re.sub(r"[\\~^<>|&%$#_{}]", lambda found: _LATEX[found[0]], line)
    # At the beginning of a row they would belong to the end of the row before.
    shown = f"{{{shown[0]}}}{shown[1:]}" if shown.startswith(("[", "*")) else shown
    return re.sub(r"(?<![\w.])-(?=\d)", r"$-$", shown)
