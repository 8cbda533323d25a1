"""Scores of all arms beside one another, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from veridical.report.folders import Part
from veridical.runtime.descriptions import (
    BenchmarkDescription,
    MetricDescription,
    read_description,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file
from veridical.runtime.run_files import COMPARISON, SCORES, SUMMARY
from veridical.runtime.run_record import unfinished

ChangeVerdict = Literal["better", "worse", "changed", "unclear"]
LARGEST_P = 0.05
COMPARED = ("baseline", "candidate")


@dataclass(frozen=True)
class ArmValue:
    """One arm's value of one metric, with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None
    clusters: int
    note: str
    seed: int | None = None
    method: str = ""


@dataclass(frozen=True)
class Change:
    """An arm minus its baseline, paired by image."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    baseline: str
    seed: int | None
    method: str = ""

    @property
    def disagrees(self) -> bool:
        """Whether the interval excludes zero and p says otherwise, as earlier methods could."""
        apart = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return apart and self.p is not None and self.p >= LARGEST_P

    @property
    def clear(self) -> bool:
        """Whether the 95 % interval excludes zero, and p, where there is one, agrees.

        Where the two disagree (`disagrees`), nothing is claimed.
        """
        if self.low is None or self.high is None or (self.p is not None and self.p >= LARGEST_P):
            return False
        return self.low > 0 or self.high < 0

    def verdict(self, better: Literal["lower", "higher"] | None) -> ChangeVerdict:
        """Better or worse only when the change is clear and the metric has a direction."""
        if not self.clear or self.value is None:
            return "unclear"
        if better is None:
            return "changed"
        return "better" if (self.value < 0) == (better == "lower") else "worse"


@dataclass(frozen=True, kw_only=True)
class Arms:
    """What a page's arms are.

    Attributes:
        about: the arm that the title is about; the last one if not set.
        control: the arm whose change is told beside the title's.
        labels: what arms are, each as ARM=TEXT, such as "sft=fine-tuned on true answers".
    """

    about: str | None = None
    control: str | None = None
    labels: list[str] | None = None

    def label(self, arm: str) -> str:
        """What an arm is, by the last part of its name; "" where that is not known."""
        known = dict(text.split("=", 1) for text in self.labels or ())
        return known.get(arm.split("/")[-1], "")

    def check(self, arms: Sequence[str], baseline: str | None) -> None:
        """Refuse what these arms don't have, and what would say nothing of them.

        Args:
            arms: of the page.
            baseline: the one of them that the others are compared with.

        Raises:
            UserError: says which.
        """
        known = {arm.split("/")[-1] for arm in arms}
        if wrong := next((text for text in self.labels or () if "=" not in text), None):
            raise UserError(f"--labels {wrong}: each is ARM=TEXT, such as sft=fine-tuned.")
        labeled = [("labels", text.split("=", 1)[0]) for text in self.labels or ()]
        for option, arm in (("about", self.about), ("control", self.control), *labeled):
            if arm is not None and arm not in known:
                shown = ", ".join(sorted(known)) or "none"
                raise UserError(f"--{option} {arm}: these runs have no such arm; there is {shown}.")
            only = option != "labels" and arm is not None
            if only and all(one == baseline for one in arms if _is_called(one, arm)):
                raise UserError(f"--{option} {arm}: the others are compared with it; name another.")
        if self.about is not None and self.about == self.control:
            raise UserError(f"--about and --control are both {self.about}. Name two arms.")


@dataclass
class Results:
    """Values and differences by (arm, metric); several entries where there are several seeds.

    A metric is named after its benchmark, as "benchmark/metric".

    Attributes:
        benchmarks: by name.
        arms: in the order they were found.
        metrics: of all benchmarks.
        values: of arms.
        changes: of arms from their baselines.
        named: what arms are.
        start: the arm of the model that the page's trainings started from; "" where none is.
    """

    benchmarks: dict[str, BenchmarkDescription] = field(default_factory=dict)
    arms: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    values: dict[tuple[str, str], list[ArmValue]] = field(default_factory=dict)
    changes: dict[tuple[str, str], list[Change]] = field(default_factory=dict)
    named: Arms = Arms()
    start: str = ""

    def add(self, arm: str, metric: str, score: Mapping[str, Any], seed: int | None = None) -> None:
        """Add one metric of one arm, with a score as `scores.json` has it."""
        if arm not in self.arms:
            self.arms.append(arm)
        if metric not in self.metrics:
            self.metrics.append(metric)
        value = ArmValue(
            score.get("value"),
            score.get("low"),
            score.get("high"),
            int(score.get("clusters") or 0),
            str(score.get("note") or ""),
            seed,
            str(score.get("method") or ""),
        )
        self.values.setdefault((arm, metric), []).append(value)

    def describe(self, metric: str) -> MetricDescription:
        """How a metric is shown."""
        benchmark, _, name = metric.partition("/")
        return self.benchmarks[benchmark].metric(name)

    @property
    def in_order(self) -> list[BenchmarkDescription]:
        """The benchmarks as they are shown."""
        return sorted(self.benchmarks.values(), key=lambda benchmark: benchmark.place)

    @property
    def headline_benchmark(self) -> BenchmarkDescription | None:
        """The first whose headline metric the baseline has."""
        return next(
            (
                benchmark
                for benchmark in self.in_order
                if self.mean(self.baseline, f"{benchmark.name}/{benchmark.headline}") is not None
            ),
            None,
        )

    def sort_metrics(self) -> None:
        """Put metrics of whole benchmarks first, in their descriptions' order, then the rest."""
        order = [f"{own.name}/{metric.name}" for own in self.in_order for metric in own.metrics]
        self.metrics.sort(key=lambda key: order.index(key) if key in order else len(order))

    @property
    def baseline(self) -> str | None:
        """The arm that is not compared with any other; else the start's, or the first."""
        named = [change.baseline for changes in self.changes.values() for change in changes]
        compared = {arm for arm, _ in self.changes}
        first = [arm for arm in named if arm in self.arms and arm not in compared]
        known = [self.start] if self.start in self.arms else []
        return next(iter([*first, *known, *self.arms]), None)

    @property
    def headline_arm(self) -> str | None:
        """The arm the page is about: the one that was asked for, else the last."""
        others = [arm for arm in self.arms if arm != self.baseline]
        asked = [arm for arm in others if _is_called(arm, self.named.about)]
        return next(iter(asked or others[-1:]), None)

    def control_of(self, arm: str) -> str | None:
        """The control: of several runs the one beside the arm."""
        named = [one for one in self.arms if _is_called(one, self.named.control)]
        beside = [one for one in named if one.rpartition("/")[0] == arm.rpartition("/")[0]]
        return next(iter(beside or named), None)

    @property
    def other_baselines(self) -> list[str]:
        """Arms that some are compared with beside the baseline, such as a control."""
        named = [change.baseline for changes in self.changes.values() for change in changes]
        return [arm for arm in self.arms if arm in named and arm != self.baseline]

    def changes_from(self, baseline: str | None, arm: str | None, metric: str) -> list[Change]:
        """An arm's differences from one baseline, one for each seed."""
        changes = self.changes.get((arm or "", metric), [])
        return [change for change in changes if change.baseline == baseline]

    @property
    def old_intervals(self) -> list[str]:
        """Arms with intervals by the bootstrap of earlier versions, which named no method."""
        old = [
            arm
            for found in (self.values, self.changes)
            for (arm, _), entries in found.items()
            if any(entry.low is not None and not entry.method for entry in entries)
        ]
        return [arm for arm in self.arms if arm in old]

    def mean(self, arm: str | None, metric: str) -> float | None:
        """The mean over seeds, None when the metric is missing or undefined."""
        values = [entry.value for entry in self.values.get((arm or "", metric), [])]
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if defined else None


def _is_called(arm: str, name: str | None) -> bool:
    """Whether an arm's name ends in this; before that comes the run's."""
    return arm.split("/")[-1] == name


def collect_results(parts: Sequence[Part], arms: Arms = Arms()) -> Results:
    """Arms and differences from the summaries, from comparisons, and else from the scores."""
    results = Results(named=arms, start=_start_of(parts))
    summaries = [part for part in parts if part.kind == "summary"]
    for part in summaries:
        summary = SUMMARY.read(part.folder)
        _add_descriptions(results, summary.get("benchmarks", []))
        for arm in summary["arms"]:
            for benchmark, scores in arm["scores"].items():
                for name, score in scores.items():
                    results.add(arm["name"], f"{benchmark}/{name}", score, arm.get("seed"))
        for entry in summary.get("differences", []):
            _add_change(results, entry)
    covered = [part.folder for part in summaries]
    rest = [part for part in parts if not any(folder in part.folder.parents for folder in covered)]
    for part in rest:
        # Scores beside a run that failed are of the one before it; the page says that it failed.
        if part.kind == "eval" and not unfinished(part.record):
            scored = SCORES.read(part.folder)
            _add_descriptions(results, [scored["benchmark"]])
            for name, score in scored["scores"].items():
                results.add(part.name, f"{scored['benchmark']['name']}/{name}", score)
    for part in rest:
        if part.kind == "compare":
            _refuse_stale(part)
            content = COMPARISON.read(part.folder)
            _add_descriptions(results, content["benchmarks"])
            _add_comparison(results, content["differences"])
    results.sort_metrics()
    return results


def _start_of(parts: Sequence[Part]) -> str:
    """The arm of the model that the parts' trainings started from; "" where none is evaluated."""
    trained = [part for part in parts if part.kind == "train"]
    started = {_model(part) for part in trained} - {None}
    made = [part.folder.resolve() for part in trained]
    evaluated = [(part.name, _model(part) or "") for part in parts if part.kind == "eval"]
    return next(
        (
            name
            for name, model in evaluated
            if model in started and not any(Path(model).is_relative_to(own) for own in made)
        ),
        "",
    )


def _model(part: Part) -> str | None:
    """The model of a part's run, by its whole path where it is a folder."""
    model = part.record.get("configuration", {}).get("model")
    if model is None:
        return None
    place = Path(part.record.get("working_folder", "")) / str(model)
    return str(place.resolve()) if place.exists() else str(model)


def _add_descriptions(results: Results, entries: Sequence[Mapping[str, Any]]) -> None:
    for entry in entries:
        results.benchmarks.setdefault(entry["name"], read_description(entry))


def _refuse_stale(part: Part) -> None:
    """Refuse a comparison of rows that have been replaced since.

    Raises:
        UserError: an evaluation that it read says something else now.
    """
    for role, read in part.record.get("inputs", {}).items():
        path = Path(part.record.get("working_folder", "")) / read["path"]
        if role.split("/")[0] in COMPARED and path.is_file() and hash_file(path) != read["sha256"]:
            raise UserError(
                f"{part.folder} compares rows that have been replaced since: {path} is not what "
                "its run.json says was read. Run `veridical eval compare` again, or leave it out."
            )


def _add_comparison(results: Results, rows: Sequence[Mapping[str, Any]]) -> None:
    """The differences of `veridical eval compare`, and its two values where no run has them."""
    for row in rows:
        metric = _metric_of(row)
        for role, arm in (("baseline", row["baseline"]), ("arm", row["arm"])):
            if (arm, metric) not in results.values:
                clusters = row.get("clusters")
                results.add(arm, metric, {"value": row.get(f"{role}_value"), "clusters": clusters})
        _add_change(results, row)


def _metric_of(row: Mapping[str, object]) -> str:
    return f"{row['benchmark']}/{row['metric']}"


def _add_change(results: Results, entry: Mapping[str, Any]) -> None:
    change = Change(
        entry.get("value"),
        entry.get("low"),
        entry.get("high"),
        entry.get("p"),
        str(entry.get("baseline", "")),
        entry.get("seed"),
        str(entry.get("method") or ""),
    )
    key = (str(entry["arm"]), _metric_of(entry))
    results.changes.setdefault(key, []).append(change)
