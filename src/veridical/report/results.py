"""Scores of all arms beside one another, and what they amount to in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from veridical.report.folders import Part
from veridical.report.wording import (
    MINUS,
    bare,
    counted,
    interval,
    joined,
    metric_key,
    metric_name,
    points,
    probability,
    show,
)

Verdict = Literal["better", "worse", "changed", "unclear"]
BASELINES = ("base", "baseline", "before")


@dataclass(frozen=True)
class Value:
    """One arm's value of one metric, with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None
    clusters: int
    note: str


@dataclass(frozen=True)
class Change:
    """An arm minus its baseline, paired by image."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    baseline: str
    seed: int | None

    @property
    def clear(self) -> bool:
        """Whether the 95 % interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def verdict(self, better: Literal["lower", "higher"] | None) -> Verdict:
        """Better or worse only when the interval excludes zero and the metric has a direction."""
        if not self.clear or self.value is None:
            return "unclear"
        if better is None:
            return "changed"
        return "better" if (self.value < 0) == (better == "lower") else "worse"


@dataclass
class Results:
    """Values and differences by (arm, metric); several entries where there are several seeds."""

    arms: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    values: dict[tuple[str, str], list[Value]] = field(default_factory=dict)
    changes: dict[tuple[str, str], list[Change]] = field(default_factory=dict)

    def add(self, arm: str, name: str, score: Mapping[str, Any]) -> None:
        """Add one metric of one arm as `scores.json` has it."""
        metric = metric_key(name)
        if arm not in self.arms:
            self.arms.append(arm)
        if metric not in self.metrics:
            self.metrics.append(metric)
        value = Value(
            score.get("value"),
            score.get("low"),
            score.get("high"),
            int(score.get("clusters") or 0),
            str(score.get("note") or ""),
        )
        self.values.setdefault((arm, metric), []).append(value)

    @property
    def baseline(self) -> str | None:
        """The arm the others are compared with: the one the differences name, else the first."""
        named = [change.baseline for changes in self.changes.values() for change in changes]
        known = [arm for arm in (*named, *BASELINES) if arm in self.arms]
        return next(iter(known or self.arms), None)

    @property
    def headline_arm(self) -> str | None:
        """The arm the page is about: "bdhs" where there is one, else the last."""
        others = [arm for arm in self.arms if arm != self.baseline]
        bdhs = [arm for arm in others if arm.split("/")[-1] == "bdhs"]
        return next(iter(bdhs or others[-1:]), None)

    def mean(self, arm: str | None, metric: str) -> float | None:
        """The mean over seeds, None when the metric is missing or undefined."""
        values = [entry.value for entry in self.values.get((arm or "", metric), [])]
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if defined else None


def collect_results(parts: Sequence[Part]) -> Results:
    """Arms and differences from the summaries, from comparisons, and else from the scores."""
    results = Results()
    summaries = [part for part in parts if part.kind == "summary"]
    for part in summaries:
        summary = part.json("summary.json")
        for arm in summary["arms"]:
            for name, score in arm["metrics"].items():
                results.add(arm["name"], name, score)
        for entry in summary.get("differences", []):
            _add_change(results, entry)
    covered = [part.folder for part in summaries]
    for part in parts:
        if any(folder in part.folder.parents for folder in covered):
            continue
        if part.kind == "eval":
            for name, score in _with_benchmark(part.json("scores.json")).items():
                results.add(part.name, name, score)
    for part in parts:
        if part.kind == "compare":
            _add_comparison(results, part.json("comparison.json")["differences"])
    order = list(METRIC_ORDER)
    results.metrics.sort(key=lambda key: order.index(key) if key in order else len(order))
    return results


METRIC_ORDER = (
    "chair_i",
    "chair_s",
    "recall",
    "mean_length",
    "pope/accuracy",
    "pope/f1",
    "pope/yes_rate",
)


def _with_benchmark(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by the page's names; CHAIR and POPE both call one of theirs "recall"."""
    prefix = "" if "chair_i" in scores else "pope/"
    return {f"{prefix}{name}": score for name, score in scores.items() if isinstance(score, dict)}


def _add_comparison(results: Results, rows: Sequence[Mapping[str, Any]]) -> None:
    """The differences of `veridical eval compare`, and its two values where no run has them."""
    for name, row in _with_benchmark({row["metric"]: row for row in rows}).items():
        for role, arm in (("baseline", row["baseline"]), ("arm", row["arm"])):
            if (arm, metric_key(name)) not in results.values:
                clusters = row.get("clusters")
                results.add(arm, name, {"value": row.get(f"{role}_value"), "clusters": clusters})
        _add_change(results, {**row, "metric": name})


def _add_change(results: Results, entry: Mapping[str, Any]) -> None:
    change = Change(
        entry.get("value"),
        entry.get("low"),
        entry.get("high"),
        entry.get("p"),
        str(entry.get("baseline", "")),
        entry.get("seed"),
    )
    key = (str(entry["arm"]), metric_key(str(entry["metric"])))
    results.changes.setdefault(key, []).append(change)


@dataclass(frozen=True)
class Headline:
    """The main result: one sentence, and a paragraph of what stands beside it."""

    sentence: str
    details: tuple[str, ...]


def headline(results: Results) -> Headline | None:
    """What happened to hallucination; None when it was not measured.

    A fall or a rise is only said when the paired 95 % interval excludes zero, for every seed.
    """
    metric, arm, baseline = "chair_i", results.headline_arm, results.baseline
    if baseline is None or results.mean(baseline, metric) is None:
        return None
    if arm is None or results.mean(arm, metric) is None:
        only = results.values[baseline, metric][0]
        range_ = interval(only.low, only.high, "percent")
        return Headline(
            f"{show(only.value, 'percent')} of the objects that {baseline} mentions are not there",
            (f"95 % interval {range_}, on {counted(only.clusters, 'image')}." if range_ else "",),
        )
    changes = [
        change
        for change in results.changes.get((arm, metric), [])
        if change.baseline in ("", baseline)
    ]
    before, after = results.mean(baseline, metric), results.mean(arm, metric)
    return Headline(
        _sentence(changes, show(before, "percent"), show(after, "percent")),
        tuple(_details(results, arm, baseline, changes)),
    )


def _sentence(changes: Sequence[Change], before: str, after: str) -> str:
    falls = sum(change.clear and (change.value or 0) < 0 for change in changes)
    rises = sum(change.clear and (change.value or 0) > 0 for change in changes)
    seeds = f" in all {len(changes)} seeds" if len(changes) > 1 else ""
    if changes and falls == len(changes):
        return f"Hallucinated mentions fell from {before} to {after}{seeds}"
    if changes and rises == len(changes):
        return f"Hallucinated mentions rose from {before} to {after}{seeds}"
    if not changes:
        return f"Hallucinated mentions: {before} before, {after} after, not tested as a pair"
    if falls or rises:
        word, count = ("fell", falls) if falls >= rises else ("rose", rises)
        return (
            f"Hallucinated mentions clearly {word} in only {count} of {len(changes)} seeds: "
            f"{before} before, {after} after"
        )
    return f"No clear change in hallucinated mentions: {before} before, {after} after"


def _details(results: Results, arm: str, baseline: str, changes: Sequence[Change]) -> list[str]:
    images = results.values[arm, "chair_i"][0].clusters
    where = f" over descriptions of {counted(images, 'image')}" if images else ""
    sentences = [f"This is the share of mentioned objects that are not in the picture{where}."]
    if len(changes) == 1:
        difference = describe_change(changes[0], "chair_i", with_seed=False)
        sentences[0] += f" The difference, paired by image, is {difference}."
    elif changes:
        described = "; ".join(describe_change(change, "chair_i") for change in changes)
        sentences[0] += f" The differences, paired by image, are {described}."
    sentences += _controls(results, arm, baseline)
    sentences += _side_effects(results, arm)
    return sentences


def describe_change(change: Change, metric: str, with_seed: bool = True) -> str:
    """A difference with its interval, p and seed, in one phrase."""
    unit = metric_name(metric).unit
    inside = [
        f"95 % interval {interval(change.low, change.high, unit, signed=True)}"
        if change.low is not None
        else "",
        probability(change.p),
        f"seed {change.seed}" if with_seed and change.seed is not None else "",
    ]
    return (
        f"{bare(change.value, unit, signed=True)} {points(unit)} "
        f"({', '.join(part for part in inside if part)})"
    )


def _controls(results: Results, arm: str, baseline: str) -> list[str]:
    sentences = []
    for control in ("sft",):
        changes = results.changes.get((control, "chair_i"), [])
        changes = [change for change in changes if change.baseline in ("", baseline)]
        if control != arm and changes:
            several = len(changes) > 1
            described = "; ".join(describe_change(c, "chair_i", several) for c in changes)
            sentences.append(
                "The control, fine-tuned for as many steps on the same chosen answers without "
                f"any rejected ones, changed by {described}."
            )
    return sentences


def _side_effects(results: Results, arm: str) -> list[str]:
    phrases = []
    for metric, noun in (
        ("recall", "objects found"),
        ("mean_length", "answer length"),
        ("pope/accuracy", "yes/no questions right"),
    ):
        values = [c.value for c in results.changes.get((arm, metric), []) if c.value is not None]
        if values:
            unit = metric_name(metric).unit
            mean = sum(values) / len(values)
            phrases.append(f"{noun} {bare(mean, unit, signed=True)} {points(unit)}")
    if not phrases:
        return []
    return [f"Beside it: {joined(phrases)}.".replace("-", MINUS)]
