"""What a study found: every arm against others, over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from veridical.eval.asks import Row
from veridical.eval.benchmark import Benchmark, find_benchmark, paired_seed_differences
from veridical.eval.compare import ComparedRuns, evaluations_in, read_sides
from veridical.report.study_results import Conclusion, Effect
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.errors import UserError
from veridical.scoring.statistics import LEVEL, ClusterSums, Difference, Metric
from veridical.scoring.statistics.paired import in_order_of
from veridical.scoring.statistics.several import detectable, holm, interaction, moves_of
from veridical.study.study_file import Outcome, Study

START = "the start"
Folders = Mapping[int, Path]
"""Finished evaluations by one benchmark, by seed."""


@dataclass(frozen=True)
class Scored:
    """What is finished of one benchmark.

    Attributes:
        evaluation: the step that it is of.
        benchmark: which.
        arms: each arm's evaluations by seed.
        start: the evaluations of the model that all arms start from, by seed; empty for none.
    """

    evaluation: str
    benchmark: Benchmark
    arms: Mapping[str, Folders]
    start: Folders

    def of(self, name: str) -> Folders:
        """An arm's, or the start's."""
        return self.start if name == START else self.arms.get(name, {})


def scored(found: Mapping[tuple[str, str, int], Path], start: Mapping[int, Path]) -> list[Scored]:
    """The finished evaluations, by the step that made them and by benchmark.

    Args:
        found: for each evaluation's step, arm and seed its folder.
        start: by seed, the folder of the start's; compared with the first step's of a benchmark.
    """
    arms: dict[tuple[str, str], dict[str, dict[int, Path]]] = {}
    for (evaluation, arm, seed), folder in found.items():
        for name, place in evaluations_in(folder).items():
            arms.setdefault((evaluation, name), {}).setdefault(arm, {})[seed] = place
    starts: dict[str, dict[int, Path]] = {}
    for seed, folder in start.items():
        for name, place in evaluations_in(folder).items():
            starts.setdefault(name, {})[seed] = place
    return [
        Scored(evaluation, find_benchmark(name), by_arm, starts.pop(name, {}))
        for (evaluation, name), by_arm in arms.items()
    ]


def all_effects(study: Study, benchmarks: Sequence[Scored]) -> list[Effect]:
    """Every arm against the arms that the study names, and the start, in every metric."""
    outcome = study.outcome
    others = [*outcome.against, *([START] if outcome.start else [])]
    pairs = [
        (arm, other)
        for other in others
        for arm in study.arms
        if arm != other and not (arm in outcome.against and _is_before(arm, other, others))
    ]
    planned = sum(other != START for _, other in pairs)
    effects: list[Effect] = []
    for own in benchmarks:
        for arm, other in pairs:
            effects += effects_of(own, arm, other, outcome, max(1, planned))
    return effects


def _is_before(arm: str, other: str, others: Sequence[str]) -> bool:
    """Whether two arms that others are compared with were compared with each other already."""
    return other in others and other != START and others.index(arm) < others.index(other)


def effects_of(
    own: Scored, arm: str, other: str, outcome: Outcome, comparisons: int
) -> list[Effect]:
    """One arm against another in every metric of a benchmark; nothing where no seed has both.

    `comparisons` are planned of the primary metric; what one can show is less for more of them.
    """
    seeds = sorted(own.of(arm).keys() & own.of(other).keys())
    if not seeds:
        return []
    sides = [_sides(own.benchmark, own.of(arm)[seed], own.of(other)[seed]) for seed in seeds]
    ours, theirs = [side[0] for side in sides], [side[1] for side in sides]
    found = paired_seed_differences(own.benchmark, ours, theirs)
    note = "" if len(seeds) > 1 else "one seed: images alone"
    shown = outcome.metric.partition("/")[2] in found
    power = _detectable(own.benchmark, ours, theirs, outcome, comparisons) if shown else {}
    return [
        _effect(own, name, (arm, other), change, len(seeds), power.get(name), note)
        for name, change in found.items()
    ]


def _sides(benchmark: Benchmark, ours: Path, theirs: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    return read_sides(ComparedRuns(benchmark, theirs, ours))


def _detectable(
    benchmark: Benchmark,
    ours: Sequence[Sequence[Row]],
    theirs: Sequence[Sequence[Row]],
    outcome: Outcome,
    comparisons: int,
) -> dict[str, float]:
    """What the primary metric's comparison can show; nothing of one seed or image."""
    name, _, metric = outcome.metric.partition("/")
    formula = _formula(benchmark, metric)
    if benchmark.name != name or formula is None or len(ours) < 2:
        return {}
    arms, bases = (
        _in_one_order(benchmark, _part(benchmark, rows, metric)) for rows in (ours, theirs)
    )
    bases = [in_order_of(arms[0], base) for base in bases]
    if len(arms[0].clusters) < 2:
        return {}
    return {metric: detectable(moves_of(formula, arms, bases), outcome.power, comparisons)}


def _formula(benchmark: Benchmark, metric: str) -> Metric | None:
    group, _, name = metric.rpartition("/")
    return next((own for own in benchmark.formulas_of(group) if own.name == name), None)


def _part(benchmark: Benchmark, seeds: Sequence[Sequence[Row]], metric: str) -> list[Sequence[Row]]:
    """The rows that a metric is of: with "group/metric" those of the group alone."""
    group = metric.rpartition("/")[0]
    return [benchmark.groups(rows)[group] if group else rows for rows in seeds]


def _has(benchmark: Benchmark, rows: Sequence[Row], metric: str) -> bool:
    group = metric.rpartition("/")[0]
    return not group or group in benchmark.groups(rows)


def _in_one_order(benchmark: Benchmark, rows: Sequence[Sequence[Row]]) -> list[ClusterSums]:
    sums = [benchmark.sums(own) for own in rows]
    return [in_order_of(sums[0], one) for one in sums]


def _effect(
    own: Scored,
    name: str,
    sides: tuple[str, str],
    change: Difference,
    seeds: int,
    power: float | None,
    note: str,
) -> Effect:
    return Effect(
        *sides, own.benchmark.description.metric(name), change.value, change.low, change.high,
        change.p, None, change.arm_value, change.baseline_value, seeds, change.clusters, power,
        "none", (change.note or note) if change.low is None else "",
        own.evaluation, own.benchmark.name,
    )  # fmt: skip


def concluded(effects: Sequence[Effect], difference: float | None) -> list[Effect]:
    """Effects with p corrected for all of them (Holm), and what may be said of each.

    Args:
        effects: of one family.
        difference: that the study aims to detect; None where none was planned.
    """
    names = {f"{n}": effect.p for n, effect in enumerate(effects)}
    corrected = holm(names)
    found = []
    for n, effect in enumerate(effects):
        p = corrected[f"{n}"]
        found.append(replace(effect, p_holm=p, conclusion=conclude(effect, p, difference)))
    return found


def conclude(effect: Effect, p: float | None, difference: float | None) -> Conclusion:
    """What may be said of an effect, by its corrected p and its interval."""
    if effect.value is None or p is None or effect.low is None or effect.high is None:
        return "none"
    if p < 1 - LEVEL:
        better = effect.metric.better
        if better is None:
            return "changed"
        return "better" if (effect.value > 0) == (better == "higher") else "worse"
    inside = difference is not None and -difference < effect.low and effect.high < difference
    return "small" if inside else "open"


def interactions(study: Study, own: Scored) -> list[Effect]:
    """Of a grid, how much more two changes do together than each alone, in the primary metric."""
    metric = study.outcome.metric.partition("/")[2]
    if _formula(own.benchmark, metric) is None:
        return []
    by_levels = {frozenset(levels.items()): arm for arm, levels in _hashable(study).items()}
    found = []
    for arm, levels in _hashable(study).items():
        changed = [factor for factor in study.grid if factor in levels]
        if len(levels) != len(changed):
            continue
        for first, second in combinations(changed, 2):
            rest = {key: level for key, level in levels.items() if key not in (first, second)}
            corners = [
                by_levels.get(frozenset({**rest, **{key: levels[key] for key in kept}}.items()))
                for kept in ((first, second), (first,), (second,), ())
            ]
            known = [corner for corner in corners if corner is not None]
            if len(known) == len(corners):
                label = f"{first} \N{MULTIPLICATION SIGN} {second}"
                found += _interaction(own, known, metric, f"{label} ({arm})")
    return found


def _hashable(study: Study) -> dict[str, dict[str, str]]:
    """Every arm's own levels as texts."""
    return {arm: {key: str(v) for key, v in levels.items()} for arm, levels in study.arms.items()}


def _interaction(own: Scored, corners: Sequence[str], metric: str, label: str) -> list[Effect]:
    seeds = sorted(set.intersection(*(set(own.of(arm)) for arm in corners)))
    formula = _formula(own.benchmark, metric)
    if not seeds or formula is None:
        return []
    cells = []
    for arm in corners:
        rows = [_rows(own, arm, seed, corners) for seed in seeds]
        if not all(_has(own.benchmark, one, metric) for one in rows):
            return []
        cells.append(_in_one_order(own.benchmark, _part(own.benchmark, rows, metric)))
    both, first, second, neither = cells
    change = interaction(both, first, second, neither, formula)
    return [_effect(own, metric, (label, "sum of both"), change, len(seeds), None, "")]


def _rows(own: Scored, arm: str, seed: int, corners: Sequence[str]) -> Sequence[Row]:
    """An arm's judged rows, compared with another corner's so that both are of the same images."""
    other = next(corner for corner in corners if corner != arm)
    return _sides(own.benchmark, own.of(arm)[seed], own.of(other)[seed])[0]


def primary_of(
    outcome: Outcome, benchmarks: Sequence[Scored]
) -> tuple[str, str, MetricDescription]:
    """The step that the primary metric is of, the benchmark's title, and the metric's description.

    Raises:
        UserError: there is no such benchmark or metric.
    """
    name, _, metric = outcome.metric.partition("/")
    own = [one for one in benchmarks if one.benchmark.name == name]
    in_order = [one for step in outcome.evaluations for one in own if one.evaluation == step]
    benchmark = in_order[0].benchmark if in_order else find_benchmark(name)
    known = [formula.name for formula in benchmark.formulas]
    known += [statistic.name for statistic in benchmark.statistics]
    if metric.rpartition("/")[2] not in known:
        raise UserError(
            f"outcome.metric: {name} has no metric {metric}; it has {', '.join(known)}."
        )
    evaluation = in_order[0].evaluation if in_order else outcome.evaluations[0]
    return evaluation, benchmark.description.title, benchmark.description.metric(metric)
