"""What a comparison says in all: wins, losses and noise by benchmark, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from veridical.eval.benchmark import Benchmark
from veridical.eval.scores import fixed_width
from veridical.runtime.run_files import DifferenceRow
from veridical.runtime.tables import Table
from veridical.scoring.statistics import LEVEL
from veridical.scoring.statistics.several import holm

HOLM: Final = "p_holm"
WIN, LOSS, NOISE, CHANGE = "win", "loss", "noise", "change"


def with_holm(rows: Sequence[DifferenceRow]) -> list[DifferenceRow]:
    """Rows with p corrected for the several arms of a metric; unchanged where there is one arm."""
    if len({row["arm"] for row in rows}) < 2:
        return list(rows)
    found: list[DifferenceRow] = []
    for row in rows:
        alike = [one for one in rows if (one["benchmark"], one["metric"]) ==
                 (row["benchmark"], row["metric"])]  # fmt: skip
        corrected = holm({one["arm"]: one["p"] for one in alike})
        found.append({**row, HOLM: corrected[row["arm"]]})
    return found


def alignment_tax(
    rows: Sequence[DifferenceRow], benchmarks: Sequence[Benchmark]
) -> list[DifferenceRow]:
    """Each benchmark's headline metric as a win, a loss or noise.

    Its p is corrected for all headline metrics and arms (Holm), so that among many benchmarks none
    is won or lost by chance; "change" is one in a metric without a better direction.

    Args:
        rows: differences.
        benchmarks: which the rows are of.
    """
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    headlines = [row for row in rows if row["metric"] == headline_of(by_name[row["benchmark"]])]
    corrected = holm({f"{row['benchmark']} {row['arm']}": row["p"] for row in headlines})
    found: list[DifferenceRow] = []
    for row in headlines:
        p = corrected[f"{row['benchmark']} {row['arm']}"]
        better = by_name[row["benchmark"]].description.metric(row["metric"]).better
        found.append({**row, HOLM: p, "verdict": _verdict(row["value"], p, better)})
    return found


def headline_of(benchmark: Benchmark) -> str:
    """The name of the metric that sums a benchmark up."""
    return benchmark.description.headline


def _verdict(value: float | None, p: float | None, better: str | None) -> str:
    if value is None or p is None or p >= 1 - LEVEL:
        return NOISE
    if better is None:
        return CHANGE
    return WIN if (value > 0) == (better == "higher") else LOSS


def difference_table(rows: Sequence[DifferenceRow], titles: Mapping[str, str]) -> Table:
    """All differences; with Holm's p where there are several arms."""
    corrected = any(HOLM in row for row in rows)
    header = ["benchmark", "metric", "arm", "baseline", "candidate", "difference", "95% interval",
              "p", *(["p (Holm)"] if corrected else [])]  # fmt: skip
    body = [
        [titles[row["benchmark"]], row["metric"], row["arm"], *_numbers(row),
         *([shown_p(row.get(HOLM))] if corrected else [])]
        for row in rows
    ]  # fmt: skip
    return Table(header, body, 3)


def tax_table(rows: Sequence[DifferenceRow], titles: Mapping[str, str]) -> Table:
    """Headline metrics with their verdicts."""
    header = ["benchmark", "metric", "arm", "verdict", "baseline", "candidate", "difference",
              "95% interval", "p (Holm)"]  # fmt: skip
    body = [
        [titles[row["benchmark"]], row["metric"], row["arm"], row["verdict"], *_numbers(row)[:-1],
         shown_p(row[HOLM])]
        for row in rows
    ]  # fmt: skip
    return Table(header, body, 4)


def describe_tax(rows: Sequence[DifferenceRow], titles: Mapping[str, str]) -> list[str]:
    """A line for each arm: what it won and lost, and what is noise."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        parts = []
        for verdict, word in ((WIN, "better"), (LOSS, "worse"), (CHANGE, "changed"),
                              (NOISE, "no difference beyond noise")):  # fmt: skip
            own = [
                titles[r["benchmark"]] for r in rows if (r["arm"], r["verdict"]) == (arm, verdict)
            ]
            parts += [f"{word}: {', '.join(own)}"] if own else []
        lines.append(f"{arm}, headline metrics, p corrected by Holm: {'; '.join(parts)}.")
    return lines


def _numbers(row: DifferenceRow) -> list[str]:
    low, high = (fixed_width(row[name], sign=True).strip() for name in ("low", "high"))
    return [
        fixed_width(row["baseline_value"]).strip(), fixed_width(row["arm_value"]).strip(),
        fixed_width(row["value"], sign=True).strip(), f"[{low}, {high}]", shown_p(row["p"]),
    ]  # fmt: skip


def shown_p(value: float | None) -> str:
    """Four decimals."""
    return "-" if value is None else f"{value:.4f}"
