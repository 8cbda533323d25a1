"""What a benchmark is: how its rows become scores, and what two runs of it must have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from veridical.eval.asks import Asks, Row
from veridical.eval.benchmarks import BENCHMARKS
from veridical.runtime.descriptions import BenchmarkDescription
from veridical.runtime.errors import UserError
from veridical.scoring.statistics import (
    ClusterSums,
    Difference,
    Estimate,
    Metric,
    compare,
    estimate,
)
from veridical.scoring.statistics.several import paired_over_seeds

Rows: TypeAlias = Sequence[Row]


def no_groups(rows: Rows) -> Mapping[str, Rows]:
    """The groups of a benchmark that is only scored as a whole."""
    del rows
    return {}


@dataclass(frozen=True)
class Statistic:
    """A metric that is not a formula on sums over images.

    Attributes:
        name: as in `scores.json`.
        applies: whether these rows have what it needs.
        estimate: its value on judged rows, with an interval.
        compare: candidate minus baseline, paired by image, with an interval and p.
    """

    name: str
    applies: Callable[[Rows], bool]
    estimate: Callable[[Rows], Estimate]
    compare: Callable[[Rows, Rows], Difference]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, from its judged rows on.

    Attributes:
        description: its name, and how its metrics are shown.
        judged: the file of judged rows, each with an `image_id`: `answers.jsonl`, or
            `details.jsonl` where the rows have the places of `mentions`, which the report marks.
        sums: what the formulas are made of, added up by image.
        formulas: the metrics that are formulas on those sums.
        same: the fields of judged rows that must be equal for two runs to be compared.
        facts: what these fields are, for messages.
        needs: the other fields of judged rows that scores are made of.
        statistics: the metrics that are no such formulas.
        groups: parts of the rows that are also scored on their own.
        in_groups: the formulas that say something of a group; all of them if not set.
        asks: how it gets answers and judges them; None where only judged rows are looked at.
    """

    description: BenchmarkDescription
    judged: str
    sums: Callable[[Rows], ClusterSums]
    formulas: Sequence[Metric]
    same: Sequence[str]
    facts: str
    needs: Sequence[str] = ()
    statistics: Sequence[Statistic] = ()
    groups: Callable[[Rows], Mapping[str, Rows]] = no_groups
    in_groups: Sequence[str] | None = None
    asks: Asks[Any] | None = None

    @property
    def name(self) -> str:
        """As in `--benchmarks`, and the name of its folder."""
        return self.description.name

    def formulas_of(self, group: str) -> list[Metric]:
        """The formulas that are computed of a group, or of all rows ("")."""
        if not group or self.in_groups is None:
            return list(self.formulas)
        return [formula for formula in self.formulas if formula.name in self.in_groups]


def find_benchmark(name: str) -> Benchmark:
    """Import a benchmark.

    Raises:
        UserError: there is none of this name.
    """
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark {name!r}; there is: {', '.join(BENCHMARKS)}.")
    benchmark: Benchmark = importlib.import_module(BENCHMARKS[name].module).BENCHMARK
    return benchmark


def score_rows(benchmark: Benchmark, rows: Rows) -> dict[str, Estimate]:
    """Every metric of all judged rows, and of each group as "group/metric"."""
    wanted = [statistic for statistic in benchmark.statistics if statistic.applies(rows)]
    scores: dict[str, Estimate] = {}
    for group, own in {"": rows, **benchmark.groups(rows)}.items():
        found = estimate(benchmark.sums(own), benchmark.formulas_of(group))
        found |= {statistic.name: statistic.estimate(own) for statistic in wanted}
        scores |= {_in_group(group, name): value for name, value in found.items()}
    return scores


def differences(benchmark: Benchmark, candidate: Rows, baseline: Rows) -> dict[str, Difference]:
    """Candidate minus baseline in every metric, of all judged rows and of the groups of both."""
    wanted = [
        statistic
        for statistic in benchmark.statistics
        if statistic.applies(candidate) and statistic.applies(baseline)
    ]
    ours, theirs = ({"": rows, **benchmark.groups(rows)} for rows in (candidate, baseline))
    changes: dict[str, Difference] = {}
    for group in (group for group in ours if group in theirs):
        sides = ours[group], theirs[group]
        arm, other = (benchmark.sums(rows) for rows in sides)
        found = compare(arm, other, benchmark.formulas_of(group))
        found |= {statistic.name: statistic.compare(*sides) for statistic in wanted}
        changes |= {_in_group(group, name): change for name, change in found.items()}
    return changes


def seed_differences(
    benchmark: Benchmark, seeds: Sequence[Rows], baseline: Rows
) -> dict[str, Difference]:
    """The mean of several seeds of one arm minus the baseline, in every formula and group.

    Metrics that are not formulas have no variance over seeds, and are left out.
    """
    return paired_seed_differences(benchmark, seeds, [baseline] * len(seeds))


def paired_seed_differences(
    benchmark: Benchmark, seeds: Sequence[Rows], baselines: Sequence[Rows]
) -> dict[str, Difference]:
    """The same where each seed has a baseline of its own; with one seed, by images alone."""
    if len(seeds) == 1:
        return differences(benchmark, seeds[0], baselines[0])
    sides = [{"": rows, **benchmark.groups(rows)} for rows in (*seeds, *baselines)]
    changes: dict[str, Difference] = {}
    for group in (group for group in sides[0] if all(group in side for side in sides)):
        sums = [benchmark.sums(side[group]) for side in sides]
        ours, theirs = sums[: len(seeds)], sums[len(seeds) :]
        for formula in benchmark.formulas_of(group):
            change = paired_over_seeds(ours, theirs, formula)
            changes[_in_group(group, formula.name)] = change
    return changes


def _in_group(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name
