"""The cells of `coverage.py` as CSV, and the tables of docs/statistics.md made of them.

python benchmarks/coverage_tables.py     (again from the CSV, without a simulation)
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from veridical.runtime.files import write_text_atomic

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "statistics.md"
CELLS = DOCS / "statistics" / "coverage.csv"
BEGIN = "<!-- tables: benchmarks/coverage.py -->\n"
# What is wanted of intervals, and of p where two models are equally good; percent.
COVERED = (93.0, 97.0)
REJECTED = (3.0, 6.0)
# A cell in which fewer of the data sets can have a p below 0.05 says nothing of the test.
MOSTLY = 95.0
# The second model of `coverage.py` that says everything anew.
ANEW = "all answers anew"


@dataclass(frozen=True)
class Row:
    """One cell of the grid: percent of the data sets in which the value is defined.

    Attributes:
        world: the benchmark and how its answers come about.
        metric: as `scores.json` calls it.
        rate: share of errors; what is an error depends on the world.
        case: the second model; "" where one model's value is estimated.
        images: in each data set.
        covered: intervals that hold the truth.
        rejected: p below 0.05, where the two models are equally good.
        decidable: enough images differ for a p below 0.05.
        contradicting: the interval leaves out 0 beside a p of 0.05 or more, or the reverse.
    """

    world: str
    metric: str
    rate: float
    case: str
    images: int
    covered: float
    rejected: float | None = None
    decidable: float | None = None
    contradicting: float | None = None

    @property
    def name(self) -> str:
        """Benchmark and metric."""
        return f"{self.world.split(',')[0]} {self.metric}"


def write_rows(rows: Iterable[Row], path: Path = CELLS) -> None:
    """Every cell, as CSV; an empty field where there is nothing to measure."""
    names = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            cells = (getattr(row, name) for name in names)
            writer.writerow([f"{cell:g}" if isinstance(cell, float) else cell for cell in cells])


def read_rows(path: Path = CELLS) -> list[Row]:
    """What `write_rows` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> Row:
    measured = ("rejected", "decidable", "contradicting")
    numbers = {name: float(cells[name]) if cells[name] else None for name in measured}
    return Row(
        cells["world"],
        cells["metric"],
        float(cells["rate"]),
        cells["case"],
        int(cells["images"]),
        float(cells["covered"]),
        **numbers,
    )


def tables(rows: Sequence[Row]) -> str:
    """The page's tables, in Markdown."""
    alone = [row for row in rows if not row.case]
    # How often the longer answer is the chosen one is the pairs' own, whichever model is asked.
    paired = [row for row in rows if row.case and row.metric != "longer_chosen"]
    equal = [row for row in paired if row.rejected is not None]
    parts = [
        "### Intervals of one model's values",
        "Percentage that contain the truth: lowest and highest over all rates and worlds.",
        _grid(alone, "metric", lambda row: row.name, _covered),
        _above(alone, "rate", lambda row: f"{row.rate:g}"),
        "### Intervals of differences",
        "Percentage that contain the truth: lowest and highest over all rates, worlds and second "
        "models.",
        _grid(paired, "metric", lambda row: row.name, _covered),
        _above(paired, "second model", lambda row: row.case),
        "### p of two equally good models",
        "Percentage of data sets with p below 0.05, if all answers are new: lowest and highest "
        "over all rates and worlds.",
        _grid([row for row in equal if row.case == ANEW], "metric", lambda row: row.name, _found),
        _reached(equal),
    ]
    return "\n\n".join(parts)


def _grid(
    rows: Sequence[Row], head: str, key: Callable[[Row], str], cell: Callable[[list[Row]], str]
) -> str:
    """A table: a line for each key, a column for each number of images."""
    images = sorted({row.images for row in rows})
    lines = [f"| {head} | " + " | ".join(f"{count} images" for count in images) + " |"]
    lines.append("|" + "---|" * (1 + len(images)))
    for name in dict.fromkeys(key(row) for row in rows):
        own = [row for row in rows if key(row) == name]
        cells = [cell([row for row in own if row.images == count]) for count in images]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _span(numbers: Sequence[float]) -> str:
    low, high = (f"{number:.1f}" for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _covered(rows: list[Row]) -> str:
    return _span([row.covered for row in rows])


def _found(rows: list[Row]) -> str:
    return _span([row.rejected for row in rows if row.rejected is not None])


def _above(rows: Sequence[Row], head: str, key: Callable[[Row], str]) -> str:
    """What lies outside of what is wanted: each cell below it, the share of those above."""
    low, high = COVERED
    below = [
        f"{row.name}, rate {row.rate:g}{', ' + row.case if row.case else ''}, {row.images} images "
        f"({row.covered:.1f})"
        for row in rows
        if row.covered < low
    ]
    told = f"Below {low:g}%: {'; '.join(below) if below else 'none'}."
    share = _grid(
        rows,
        head,
        key,
        lambda cells: f"{sum(row.covered > high for row in cells)} of {len(cells)}",
    )
    return f"{told} Cells above {high:g}%:\n\n{share}"


def _reached(rows: Sequence[Row]) -> str:
    """In how many cells p is below 0.05 as often as is wanted, where it can be and where not."""
    low, high = REJECTED
    above = [f"{row.name}, {row.images} images ({row.rejected:.1f})" for row in rows
             if (row.rejected or 0.0) > high]  # fmt: skip

    def counted(cells: list[Row]) -> str:
        can = [row for row in cells if (row.decidable or 0.0) >= MOSTLY]
        fine = sum(low <= (row.rejected or 0.0) <= high for row in can)
        return f"{fine} of {len(can)} ({len(cells) - len(can)})"

    return (
        f"Above {high:g}%: {'; '.join(above) if above else 'none'}. Cells with {low:g} to "
        f"{high:g}%, of those in which p can be below 0.05 in {MOSTLY:g}% of the data sets or "
        "more, because six images differ; in parentheses, the cells in which it can't:\n\n"
        + _grid(rows, "second model", lambda row: row.case, counted)
    )


def write_page(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Replace the tables of the page, which are its end."""
    text = page.read_text(encoding="utf-8")
    write_text_atomic(page, text.partition(BEGIN)[0] + BEGIN + "\n" + tables(rows) + "\n")


if __name__ == "__main__":
    write_page(read_rows())
