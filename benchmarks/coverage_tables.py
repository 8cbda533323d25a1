"""The cells of `coverage.py` as CSV, and the tables of docs/statistics.md made of them.

python benchmarks/coverage_tables.py     (again from the CSV, without a simulation)
"""

from __future__ import annotations

import csv
from collections import Counter
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
# At the edge, with so many images, rare events or differing images or fewer, up to this coverage.
EDGE, AT_EDGE = 10, 99.0
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
        count: on average, of a difference: images that differ; of a share: the rarer kind's
            items, or the images out of balance where most have the same balance; of any other
            single value: images.
        attainable: the lowest coverage, not below the 93 wanted, that any interval can have here.
        rejected: p below 0.05, where the two models are equally good.
        possible: how often p can be below 0.05 in any test.
        contradicting: the interval leaves out 0 beside a p of 0.05 or more, or the reverse.
    """

    world: str
    metric: str
    rate: float
    case: str
    images: int
    covered: float
    count: float
    attainable: float
    rejected: float | None = None
    possible: float | None = None
    contradicting: float | None = None

    @property
    def edge(self) -> bool:
        """Whether few images or events decide, so that coverage up to 99 % is in order."""
        return self.count < EDGE or self.images <= EDGE

    @property
    def most(self) -> float:
        """The highest coverage that is wanted."""
        return AT_EDGE if self.edge else COVERED[1]

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
    def measured(name: str) -> float | None:
        return float(cells[name]) if cells[name] else None

    return Row(
        cells["world"],
        cells["metric"],
        float(cells["rate"]),
        cells["case"],
        int(cells["images"]),
        float(cells["covered"]),
        float(cells["count"]),
        float(cells["attainable"]),
        measured("rejected"),
        measured("possible"),
        measured("contradicting"),
    )


def tables(rows: Sequence[Row]) -> str:
    """The page's tables, in Markdown."""
    alone = [row for row in rows if not row.case]
    # How often the longer answer is the chosen one is the pairs' own, whichever model is asked.
    paired = [row for row in rows if row.case and row.metric != "longer_chosen"]
    equal = [row for row in paired if row.rejected is not None]
    alike = [row for row in equal if row.case == ANEW]
    parts = [
        "### Intervals, all cells",
        _bands(
            {
                "one model's value": alone,
                "difference of equally good models": equal,
                "difference of unequal models": [row for row in paired if row.rejected is None],
            }
        ),
        _outside([*alone, *paired]),
        "### p of two equally good models, all cells",
        _rates(equal),
        "### Intervals of one model's values",
        "Percentage that contain the truth: lowest and highest over all rates and worlds.",
        _grid(alone, "metric", lambda row: row.name, _covered),
        "### Intervals of differences",
        "Percentage that contain the truth: lowest and highest over all rates, worlds and second "
        "models.",
        _grid(paired, "metric", lambda row: row.name, _covered),
        "### p by metric",
        "Percentage of data sets with p below 0.05, if all answers are new: lowest and highest "
        "over all rates and worlds.",
        _grid(alike, "metric", lambda row: row.name, _found),
    ]
    return "\n\n".join(parts)


def _by_count(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by how many images or events decide."""
    names = ("below 5", "5 to 10", "10 to 30", "30 or more")
    groups: list[tuple[str, list[Row]]] = [(name, []) for name in names]
    for row in rows:
        groups[sum(row.count >= least for least in (5, 10, 30))][1].append(row)
    return groups


def _bands(kinds: dict[str, list[Row]]) -> str:
    """How many cells lie in which band of coverage."""
    low, high = COVERED
    heads = f"below {low:g}%", f"{low:g} to {high:g}", f"{high:g} to {AT_EDGE:g}", "above"
    lines = [
        f"| interval of | count | {' | '.join(heads)} | above its target | of these, unreachable |",
        "|" + "---|" * 8,
    ]
    for kind, rows in kinds.items():
        for count, cells in _by_count(rows):
            covered = [row.covered for row in cells]
            over = [row for row in cells if row.covered > row.most]
            numbers = (
                sum(c < low for c in covered),
                sum(low <= c <= high for c in covered),
                sum(high < c <= AT_EDGE for c in covered),
                sum(c > AT_EDGE for c in covered),
                len(over),
                sum(row.attainable > row.most for row in over),
            )
            lines.append(f"| {kind} | {count} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def _outside(rows: Sequence[Row]) -> str:
    """Names each cell below the target, and counts those above it that no bound excuses."""
    low = COVERED[0]
    below = [f"{_label(row)} ({row.covered:.1f})" for row in rows if row.covered < low]
    wide = [row for row in rows if too_wide(row)]
    alone, paired = ([row for row in wide if bool(row.case) is case] for case in (False, True))
    return (
        f"Below {low:g}%: {'; '.join(below) if below else 'none'}.\n\n"
        f"Above the target though no bound excludes it, of one model's values: {_counted(alone)}; "
        f"of differences: {_counted(paired)}."
    )


def too_wide(row: Row) -> bool:
    """Whether the interval covers more than is wanted, and no bound says that it has to."""
    return row.covered > row.most >= row.attainable


def too_rare(row: Row) -> bool:
    """Whether p is below 0.05 in too few comparisons, and no bound says that it has to be."""
    return row.rejected is not None and row.rejected < REJECTED[0] <= (row.possible or 0.0)


def _counted(rows: Iterable[Row]) -> str:
    """How many of each metric."""
    names = Counter(row.name for row in rows)
    return ", ".join(f"{name} ({count})" for name, count in names.most_common()) or "none"


def _label(row: Row) -> str:
    case = f", {row.case}" if row.case else ""
    return f"{row.name}, rate {row.rate:g}{case}, {row.images} images"


def _rates(rows: Sequence[Row]) -> str:
    """How often p is below 0.05, by how many images differ."""
    low, high = REJECTED
    lines = [
        f"| images that differ | below {low:g}% | of these, unreachable | {low:g} to {high:g} | "
        f"above {high:g} |",
        "|" + "---|" * 5,
    ]
    for count, cells in _by_count(rows):
        few = [row for row in cells if (row.rejected or 0.0) < low]
        above = sum((row.rejected or 0.0) > high for row in cells)
        unreachable = sum((row.possible or 0.0) < low for row in few)
        fine = len(cells) - len(few) - above
        lines.append(f"| {count} | {len(few)} | {unreachable} | {fine} | {above} |")
    over = [f"{_label(row)} ({row.rejected:.1f})" for row in rows if (row.rejected or 0.0) > high]
    short = [f"{_label(row)} ({row.rejected:.1f})" for row in rows if too_rare(row)]
    told = (
        f"Above {high:g}%: {'; '.join(over) if over else 'none'}. Below {low:g}% though counting "
        f"does not rule {low:g}% out: {'; '.join(short) if short else 'none'}."
    )
    return "\n".join(lines) + "\n\n" + told


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


def write_page(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Replace the tables of the page, which are its end."""
    text = page.read_text(encoding="utf-8")
    write_text_atomic(page, text.partition(BEGIN)[0] + BEGIN + "\n" + tables(rows) + "\n")


if __name__ == "__main__":
    write_page(read_rows())
