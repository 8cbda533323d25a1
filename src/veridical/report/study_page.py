"""The report of a study: its factors, effects with intervals, what the power supports, costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from veridical.report.page import KICKER
from veridical.report.study_plots import (
    cost_plot,
    forest,
    interval_value,
    learning_curves,
    reward_and_truth,
)
from veridical.report.study_results import Conclusion, Effect, ShownArm, StudyPage
from veridical.report.wording import count_of, duration, interval_text, probability, show
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.json_types import JsonObject
from veridical.runtime.pages import refuse_other_file, write_page
from veridical.runtime.versions import own_version

CONCLUSIONS: Mapping[Conclusion, str] = {
    "better": "better", "worse": "worse", "changed": "changed", "small": "no such effect",
    "open": "not decided", "none": "no interval",
}  # fmt: skip
TAGS: Mapping[Conclusion, str] = {"small": "passed", "open": "unclear", "none": "unclear"}


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
        "scored": [arm.name for arm in page.arms
                   if any(arm.name in values for _, _, values in page.scores)],
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
    return show(sum(known) / len(known) if known else None, metric.unit)


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


def power_lines(page: StudyPage) -> list[str]:
    """What the numbers of seeds and images can show, and what they cannot."""
    known = [e for e in page.effects if e.detectable is not None]
    unit = page.primary.unit
    factor = 100 if unit == "percent" else 1
    size = f"{factor * page.difference:g}"
    points = "point" if size == "1" else "points"
    aim = f"{size} {points if unit == 'percent' else page.primary.label.lower()}"
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
