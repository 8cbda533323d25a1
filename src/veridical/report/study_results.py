"""What a study found, as its report and `study.json` have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from veridical.report.curves import Rows
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.json_types import JsonObject

Conclusion = Literal["better", "worse", "changed", "small", "open", "none"]


@dataclass(frozen=True)
class Effect:
    """An arm minus another in one metric, over seeds and images.

    Attributes:
        arm: which.
        baseline: what it is compared with.
        metric: how it is shown.
        value: the difference; None where it is undefined.
        low: end of the 95 % interval.
        high: its other end.
        p: of no difference.
        p_holm: corrected for all arms.
        arm_value: the arm's own mean over seeds.
        baseline_value: the other's.
        seeds: that both have finished.
        images: that both are scored on.
        detectable: the difference that these seeds and images show with the stated power.
        conclusion: what may be said.
        note: why there is no interval.
        evaluation: the step that scored both.
        benchmark: the benchmark's name.
    """

    arm: str
    baseline: str
    metric: MetricDescription
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    arm_value: float | None
    baseline_value: float | None
    seeds: int
    images: int
    detectable: float | None
    conclusion: Conclusion
    note: str = ""
    evaluation: str = ""
    benchmark: str = ""


@dataclass(frozen=True)
class ShownArm:
    """One arm.

    Attributes:
        name: as in the study's file.
        differs: its levels that are not the base arm's, in words.
        setting: that tuning chose, in words; "" where there was none.
        values: the primary metric's, by seed; None for a seed that is not finished.
        seconds: that its steps took, the mean over seeds; None where it is known of none.
        log: of its training with the first seed; empty where it has none.
    """

    name: str
    differs: str
    setting: str
    values: Mapping[int, float | None]
    seconds: float | None
    log: Rows


@dataclass(frozen=True)
class StudyPage:
    """Everything that the page shows.

    Attributes:
        name: the study's.
        question: that it answers.
        base: the base arm's name.
        arms: all, the base arm first.
        primary: how the primary metric is shown.
        benchmark: what the primary metric is of, as people write it.
        difference: that the study aims to detect.
        power: the probability of detecting it.
        effects: in the primary metric, of all arms.
        others: in the other metrics.
        from_start: headline metrics against the model that all arms start from.
        interactions: of a grid's factors, in the primary metric.
        scores: of every evaluation and arm: the step, the metric, and each arm's mean over seeds.
        tried: lines of the tuning table: arm, setting, value, chosen.
        failures: steps that failed, with their reasons.
        unfinished: how many steps are not finished.
        outdated: how many of these are, but with other options or inputs than the study has now.
        steps: how many there are.
        folder: the study's.
    """

    name: str
    question: str
    base: str
    arms: Sequence[ShownArm]
    primary: MetricDescription
    benchmark: str
    difference: float
    power: float
    effects: Sequence[Effect]
    others: Sequence[Effect]
    from_start: Sequence[Effect]
    interactions: Sequence[Effect]
    scores: Sequence[tuple[str, MetricDescription, Mapping[str, float]]]
    tried: Sequence[tuple[str, str, float | None, bool]]
    failures: Sequence[tuple[str, str]]
    unfinished: int
    outdated: int
    steps: int
    folder: Path


def as_json(page: StudyPage) -> JsonObject:
    """The figures of the page, for `study.json`."""
    effects = {
        name: [{**asdict(one), "metric": one.metric.name} for one in rows]
        for name, rows in (
            ("effects", page.effects), ("others", page.others),
            ("from_start", page.from_start), ("interactions", page.interactions),
        )
    }  # fmt: skip
    arms = [
        {"name": arm.name, "differs": arm.differs, "setting": arm.setting,
         "values": {str(seed): value for seed, value in arm.values.items()},
         "seconds": arm.seconds}
        for arm in page.arms
    ]  # fmt: skip
    return {
        "study": page.name, "question": page.question, "base": page.base, "arms": arms,
        "scores": [
            {"evaluation": step, "metric": metric.name, "values": dict(values)}
            for step, metric, values in page.scores
        ],
        "primary": page.primary.name, "difference": page.difference, "power": page.power,
        **effects,
    }  # fmt: skip
