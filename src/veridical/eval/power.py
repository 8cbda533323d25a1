"""How many items show a difference, and which difference the items at hand show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from scipy import stats

from veridical.eval.compare import find_pairs, read_sides
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.json_types import JsonObject
from veridical.runtime.ranges import Range
from veridical.runtime.runs import start_run
from veridical.runtime.tables import Table
from veridical.scoring.statistics import LEVEL, ClusterSums, Metric
from veridical.scoring.statistics.paired import gains, in_order_of

CHANCE = Range(0, 1, above=True, below=True)


@dataclass(frozen=True)
class Needed:
    """What one metric takes.

    Attributes:
        benchmark: its name; "" for assumed items.
        metric: its name.
        unit: what is counted: images, or items.
        spread: standard deviation of the difference on one unit.
        at_hand: units of the pilot; None without one.
        detectable: the least difference that these show with the wanted power.
        needed: units that show the wanted difference.
    """

    benchmark: str
    metric: str
    unit: str
    spread: float
    at_hand: int | None
    detectable: float | None
    needed: int


def eval_power(
    out: Path,
    baseline: Path | None = None,
    candidate: Path | None = None,
    differing: Annotated[float | None, CHANCE] = None,
    difference: Annotated[float, CHANCE] = 0.02,
    power: Annotated[float, CHANCE] = 0.8,
) -> list[JsonObject]:
    """Say how many images or items it takes to see a difference between two models.

    From a pilot, two evaluations of the same images, for each benchmark's headline metric; or from
    the share of items that one model answers correctly and the other does not. Paired, two-sided
    at 5 %. Writes `power.json`, the table `power` as .md, .csv and .tex, and `run.json`.

    Args:
        out: the folder to write.
        baseline: the folder of a `veridical eval` command, of the pilot.
        candidate: the folder of the same command for the other model.
        differing: instead of a pilot, the share of items on which just one of the two models is
            right. It is at least the difference.
        difference: to be seen, in the metric's own unit: 0.02 is two points of a share.
        power: the chance of seeing it.

    Raises:
        UserError: neither or both of a pilot and a share, or a pilot that does not vary.
    """
    pilot = baseline is not None and candidate is not None
    if pilot == (differing is not None) or (baseline is None) != (candidate is None):
        raise UserError(
            "Give either a pilot, --baseline and --candidate, or --differing, the share of items "
            "on which just one of the two models is right."
        )
    if differing is not None and differing < difference:
        raise UserError(
            f"--differing {differing:g} is less than --difference {difference:g}: two models whose "
            "accuracy differs by that differ on at least as many items."
        )
    options = {"out": out, "baseline": baseline, "candidate": candidate, "differing": differing,
               "difference": difference, "power": power}  # fmt: skip
    inputs = {} if baseline is None or candidate is None else {
        f"{role}/{pair.benchmark.name}": path
        for pair in find_pairs(baseline, candidate) for role, path in pair.inputs.items()
    }  # fmt: skip
    with start_run(out, "eval power", options, inputs) as run:
        if baseline is not None and candidate is not None:
            found = of_pilot(baseline, candidate, difference, power)
        else:
            spread = float(np.sqrt((differing or 0.0) - difference**2))
            found = [Needed("", "accuracy", "items", spread, None, None,
                            units_for(spread, difference, power))]  # fmt: skip
        rows = [asdict(one) for one in found]
        write_json(out / "power.json", {"difference": difference, "power": power, "rows": rows})
        table = power_table(found, difference)
        table.write(out, "power")
        run.finish(metrics=len(rows))
    print(table.markdown, end="")
    print(
        f"needed: to see a difference of {difference:g} with a chance of {power:.0%}, paired, p "
        "below 0.05."
    )
    return rows


def of_pilot(baseline: Path, candidate: Path, difference: float, power: float) -> list[Needed]:
    """What each headline metric takes, by how much its difference varies over images.

    Raises:
        UserError: no headline metric varies.
    """
    found = []
    for pair in find_pairs(baseline, candidate):
        benchmark = pair.benchmark
        ours, theirs = (benchmark.sums(rows) for rows in read_sides(pair))
        formulas = {formula.name: formula for formula in benchmark.formulas}
        formula = formulas.get(benchmark.description.headline)
        spread = None if formula is None else spread_of(ours, theirs, formula)
        if formula is None or not spread:
            why = "is not a formula on sums" if formula is None else "does not vary in this pilot"
            print(f"{benchmark.description.title}: {benchmark.description.headline} {why}.")
            continue
        images = len(ours.clusters)
        found.append(
            Needed(
                benchmark.name, formula.name, "images", spread, images,
                spread * _reach(power) / float(np.sqrt(images)),
                units_for(spread, difference, power),
            )
        )  # fmt: skip
    if not found:
        raise UserError(
            "The two models answer everything alike: a pilot that does not vary says nothing. Take "
            "more images, or assume a share with --differing."
        )
    return found


def spread_of(ours: ClusterSums, theirs: ClusterSums, metric: Metric) -> float:
    """The standard deviation of what one image adds to the difference, for a mean over images."""
    moved = gains(metric, ours.columns, in_order_of(ours, theirs).columns)
    return float((moved * len(moved)).std(ddof=1)) if len(moved) > 1 else 0.0


def units_for(spread: float, difference: float, power: float) -> int:
    """Units that show a difference, by the normal approximation of a paired test."""
    return max(2, int(np.ceil((_reach(power) * spread / difference) ** 2)))


def _reach(power: float) -> float:
    return float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power))


def power_table(rows: Sequence[Needed], difference: float) -> Table:
    """A line for each metric."""
    header = [
        "benchmark",
        "metric",
        "unit",
        "spread",
        "at hand",
        "they show",
        f"for {difference:g}",
    ]
    body = [
        [row.benchmark or "-", row.metric, row.unit, f"{row.spread:.3f}",
         "-" if row.at_hand is None else str(row.at_hand),
         "-" if row.detectable is None else f"{row.detectable:.3f}", str(row.needed)]
        for row in rows
    ]  # fmt: skip
    return Table(header, body, 3)
