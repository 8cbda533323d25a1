"""The report of a study: its factors, effects with intervals, what the power supports, costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from matplotlib.ticker import MaxNLocator

from veridical.report.curves import Rows, series
from veridical.report.figures import (
    BLUE,
    GRAY,
    GREEN,
    VERMILION,
    Plot,
    arm_label,
    canvas,
    embed_svg,
)
from veridical.report.hacking import movement
from veridical.report.page import KICKER
from veridical.report.wording import count_of, duration, interval_text, probability, show
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.json_types import JsonObject
from veridical.runtime.pages import refuse_other_file, write_page
from veridical.runtime.versions import own_version

Conclusion = Literal["better", "worse", "changed", "small", "open", "none"]
CONCLUSIONS: Mapping[Conclusion, str] = {
    "better": "better", "worse": "worse", "changed": "changed", "small": "no such effect",
    "open": "not decided", "none": "no interval",
}  # fmt: skip
TAGS: Mapping[Conclusion, str] = {"small": "passed", "open": "unclear", "none": "unclear"}
CURVES = (
    ("rewards_margin", "Margin (chosen \N{MINUS SIGN} rejected)"),
    ("reward", "Reward"),
    ("loss", "Loss"),
)
MOST_CURVES = 8
STYLES = (("-", BLUE), ("-", VERMILION), ("-", GREEN), ("-", GRAY),
          ("--", BLUE), ("--", VERMILION), ("--", GREEN), ("--", GRAY))  # fmt: skip


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


def write_study_page(page: StudyPage, out: Path) -> None:
    """Write the page.

    Raises:
        UserError: `out` is something else than a report.
    """
    refuse_other_file(out, KICKER, "a report")
    write_page(out, "veridical.report", "study.html.j2", _shown(page))


def _shown(page: StudyPage) -> dict[str, object]:
    """Everything the template names."""
    first = [effect for effect in page.effects if effect.baseline == page.effects[0].baseline]
    seeds = max((len(arm.values) for arm in page.arms), default=0)
    return {
        "headline": headline(page),
        "lead": _lead(page),
        "name": page.name,
        "folder": str(page.folder),
        "seeds": sorted({seed for arm in page.arms for seed in arm.values}),
        "arms": [_arm(arm, page) for arm in page.arms],
        "primary": f"{page.benchmark}, {page.primary.label.lower()}",
        "detail": page.primary.detail,
        "effects": [_effect(effect) for effect in page.effects],
        "forest": forest(first, page.difference) if first else None,
        "interactions": [_effect(effect) for effect in page.interactions],
        "from_start": [_effect(effect) for effect in page.from_start],
        "others": [_effect(effect) for effect in page.others],
        "power": power_lines(page),
        "scores": [
            {"evaluation": step, "metric": metric.label, "detail": metric.detail,
             "values": {arm: show(value, metric.unit) for arm, value in values.items()}}
            for step, metric, values in page.scores
        ],
        "costs": cost_plot(page.arms, first),
        "curves": learning_curves(page.arms),
        "rewarded": reward_and_truth(page.arms),
        "tried": [
            {"arm": arm, "setting": setting, "value": show(value, page.primary.unit, 2),
             "chosen": chosen}
            for arm, setting, value, chosen in page.tried
        ],
        "failures": page.failures,
        "unfinished": page.unfinished,
        "outdated": page.outdated,
        "steps": page.steps,
        "has_settings": any(arm.setting for arm in page.arms),
        "several_seeds": seeds > 1,
        "version": own_version(),
    }  # fmt: skip


def headline(page: StudyPage) -> str:
    """The main result in a sentence: how many arms differ from the first they are compared with."""
    if not page.effects:
        return f"{page.name}: nothing to compare yet"
    other = page.effects[0].baseline
    own = [effect for effect in page.effects if effect.baseline == other]
    label = page.primary.label.lower()
    apart = [effect for effect in own if effect.conclusion in ("better", "worse", "changed")]
    if not apart:
        return f"{label[:1].upper()}{label[1:]}: no arm differs from {other} beyond noise"
    if len(apart) == 1:
        word = {"better": "better", "worse": "worse"}.get(apart[0].conclusion, "different")
        return f"{label[:1].upper()}{label[1:]}: {apart[0].arm} is {word} than {other}"
    counts = [
        f"{sum(e.conclusion == kind for e in apart)} {kind}"
        for kind in ("better", "worse", "changed")
        if any(e.conclusion == kind for e in apart)
    ]
    return (
        f"{label[:1].upper()}{label[1:]}: of {count_of(len(own), 'arm')}, {', '.join(counts)} than "
        f"{other}"
    )


def _lead(page: StudyPage) -> list[str]:
    lines = [page.question] if page.question else []
    seeds = sorted({effect.seeds for effect in page.effects})
    images = sorted({effect.images for effect in page.effects})
    if seeds:
        over = " to ".join(dict.fromkeys([str(seeds[0]), str(seeds[-1])]))
        lines.append(
            f"Differences are paired, over {over} {'seed' if seeds[-1] == 1 else 'seeds'} and "
            f"{images[-1]:,} images, with 95 % intervals. An arm is called better or worse only "
            "if p is below 0.05 after Holm's correction for all comparisons of the primary metric."
        )
    return lines


def _arm(arm: ShownArm, page: StudyPage) -> JsonObject:
    values = {str(seed): show(value, page.primary.unit) for seed, value in arm.values.items()}
    return {"name": arm.name, "differs": arm.differs, "setting": arm.setting, "values": values,
            "mean": _mean(arm, page.primary),
            "seconds": "" if arm.seconds is None else duration(arm.seconds)}  # fmt: skip


def _mean(arm: ShownArm, metric: MetricDescription) -> str:
    known = [value for value in arm.values.values() if value is not None]
    return show(sum(known) / len(known), metric.unit) if known else ""


def _effect(effect: Effect) -> JsonObject:
    unit = effect.metric.unit
    return {
        "arm": effect.arm,
        "baseline": effect.baseline,
        "evaluation": effect.evaluation,
        "metric": effect.metric.label,
        "detail": effect.metric.detail,
        "before": show(effect.baseline_value, unit),
        "after": show(effect.arm_value, unit),
        "value": interval_value(effect),
        "interval": effect.note or interval_text(effect.low, effect.high, unit, signed=True),
        "p": probability(effect.p_holm if effect.p_holm is not None else effect.p),
        "seeds": effect.seeds,
        "words": CONCLUSIONS[effect.conclusion],
        "tag": TAGS.get(effect.conclusion, effect.conclusion),
    }


def interval_value(effect: Effect) -> str:
    """A difference with its sign, in the metric's unit."""
    if effect.value is None:
        return "undefined"
    factor = 100 if effect.metric.unit == "percent" else 1
    digits = 1 if effect.metric.unit in ("percent", "words") else 3
    return f"{factor * effect.value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def power_lines(page: StudyPage) -> list[str]:
    """What the numbers of seeds and images can show, and what they cannot."""
    known = [e for e in page.effects if e.detectable is not None]
    unit = page.primary.unit
    factor, name = (100, "points") if unit == "percent" else (1, page.primary.label.lower())
    aim = f"{factor * page.difference:g} {name}"
    if not known:
        return [
            f"The study aims to detect a difference of {aim} with {page.power:.0%} power. One seed "
            "can't show how much seeds vary: run two or more to fill this section."
        ]
    lines = []
    for effect in known:
        assert effect.detectable is not None
        reach = f"{factor * effect.detectable:.2g}"
        enough = effect.detectable <= page.difference
        word = "enough" if enough else "not enough"
        lines.append(
            f"{effect.arm} against {effect.baseline}: a difference of {reach} is detected with "
            f"{page.power:.0%} power; {word} for {aim}."
        )
    lines.append(
        f"“No such effect” means that the interval lies within {aim} of 0. “Not decided” means "
        "that it reaches further, and p is not below 0.05 after Holm's correction for all "
        "comparisons. The interval is not corrected, so it may still exclude 0. The detectable "
        "differences above are for the strictest level of that correction, which the smallest p "
        "has to pass: 0.05 divided by the number of comparisons."
    )
    return lines


def forest(effects: Sequence[Effect], difference: float) -> Plot | None:
    """The primary metric's differences with their intervals, an arm a line."""
    drawn = [effect for effect in effects if effect.value is not None]
    if not drawn:
        return None
    metric = drawn[0].metric
    scale = 100.0 if metric.unit == "percent" else 1.0
    words = []
    left = 0.25 + 0.075 * max(len(arm_label(effect.arm)) for effect in drawn)
    with canvas(left, bottom=0.46, top=0.05, height=0.7 + 0.3 * len(drawn)) as (figure, axes):
        axes.axvspan(-difference * scale, difference * scale, color="#eef1f3", linewidth=0)
        axes.axvline(0.0, color="#9aa3ad", linewidth=1)
        for place, effect in enumerate(drawn):
            assert effect.value is not None
            color = {"better": BLUE, "worse": VERMILION}.get(effect.conclusion, GRAY)
            if effect.low is not None and effect.high is not None:
                ends = [effect.low * scale, effect.high * scale]
                axes.plot(ends, [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([effect.value * scale], [place], marker="o", markersize=6.5, color=color)
            range_ = interval_text(effect.low, effect.high, metric.unit, signed=True)
            words.append(f"{effect.arm} {interval_value(effect)} ({range_})")
        axes.set_yticks(range(len(drawn)), [arm_label(effect.arm) for effect in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("points" if metric.unit == "percent" else "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        title = f"{metric.label}: difference from {drawn[0].baseline}"
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(words)}.")


def cost_plot(arms: Sequence[ShownArm], effects: Sequence[Effect]) -> Plot | None:
    """Each arm's effect over what it took."""
    seconds = {arm.name: arm.seconds for arm in arms}
    points = [
        (taken / 60, effect)
        for effect in effects
        if effect.value is not None and (taken := seconds.get(effect.arm)) is not None
    ]
    if not points:
        return None
    metric = points[0][1].metric
    scale = 100.0 if metric.unit == "percent" else 1.0
    with canvas(left=0.55, bottom=0.46, top=0.1, height=2.7) as (figure, axes):
        axes.axhline(0.0, color="#9aa3ad", linewidth=1)
        for minutes, effect in points:
            assert effect.value is not None
            color = {"better": BLUE, "worse": VERMILION}.get(effect.conclusion, GRAY)
            axes.plot([minutes], [effect.value * scale], marker="o", markersize=6, color=color)
            axes.annotate(
                arm_label(effect.arm), (minutes, effect.value * scale), xytext=(4, 4),
                textcoords="offset points", fontsize=7, color=GRAY,
            )  # fmt: skip
        axes.set_xlabel("minutes of all steps that one run of the arm needs")
        axes.margins(x=0.25, y=0.2)
        title = f"{metric.label}: difference from {points[0][1].baseline}, and what it took"
        words = [f"{e.arm} {interval_value(e)} in {minutes:.1f} minutes" for minutes, e in points]
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(words)}.")


def learning_curves(arms: Sequence[ShownArm]) -> list[Plot]:
    """A plot for each figure that trainings logged, an arm a curve; of the first seed."""
    return [
        plot for name, title in CURVES if (plot := _learning_curve(arms, name, title)) is not None
    ]


def _learning_curve(arms: Sequence[ShownArm], name: str, title: str) -> Plot | None:
    logged = {
        arm.name: points
        for arm in arms
        if (points := series([r for r in arm.log if r.get("split", "train") == "train"], name))
    }
    if not logged:
        return None
    with canvas(left=0.5, bottom=0.46, top=0.62, height=2.9) as (figure, axes):
        shown = itertools.islice(logged.items(), MOST_CURVES)
        for (arm, points), (line, color) in zip(shown, STYLES, strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, line, color=color, linewidth=1.4, label=arm_label(arm))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.legend(loc="upper left", ncols=3, handlelength=1.6, columnspacing=1.0, fontsize=7.5)
        left_out = len(logged) - MOST_CURVES
        title += f" ({left_out} more arms are not drawn)" if left_out > 0 else ""
        ends = [f"{arm} ends at {points[-1][1]:.3g}" for arm, points in logged.items()]
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(ends)}.")


def reward_and_truth(arms: Sequence[ShownArm]) -> list[dict[str, str]]:
    """Of arms that learn from rewards: what is rewarded, what is true and how long answers are."""
    found = []
    for arm in arms:
        rows = [row for row in arm.log if row.get("split", "train") == "train"]
        reward, truth = (movement(rows, name) for name in ("judge_score", "exact_score"))
        length = movement(rows, "response_tokens")
        if reward is not None and (truth is not None or length is not None):
            found.append(
                {"arm": arm.name, "reward": _moved(reward, 2),
                 "truth": "" if truth is None else _moved(truth, 3),
                 "length": "" if length is None else _moved(length, 1)}
            )  # fmt: skip
    return found


def _moved(moved: Sequence[float], digits: int) -> str:
    start, end, errors = moved
    return f"{start:.{digits}f} to {end:.{digits}f} ({errors:+.1f} SE)"


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
