"""What the scores amount to: the page's title and its first paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veridical.report.results import Change, Results
from veridical.report.wording import (
    DISAGREE,
    THIN,
    bare,
    counted,
    interval,
    joined,
    metric_name,
    points,
    probability,
    show,
)

CONTROL = "sft"
# More arms than that are counted, not named.
MOST_NAMED = 6


@dataclass(frozen=True)
class Headline:
    """The main result: one sentence, and a paragraph of what stands beside it."""

    sentence: str
    details: tuple[str, ...]


def headline(results: Results) -> Headline | None:
    """What happened to hallucination; None when it was not measured.

    A fall or a rise is only said when it is clear (`Change.clear`), and in how many seeds.
    """
    metric, arm, baseline = "chair_i", results.headline_arm, results.baseline
    if baseline is None or results.mean(baseline, metric) is None:
        return None
    if arm is None or results.mean(arm, metric) is None:
        only = results.values[baseline, metric][0]
        range_ = interval(only.low, only.high, "percent")
        return Headline(
            f"{show(only.value, 'percent')} of the objects that {baseline} mentions are not there",
            (
                f"95{THIN}% interval {range_}, on {counted(only.clusters, 'image')}."
                if range_
                else "",
            ),
        )
    changes = results.changes_from(baseline, arm, metric)
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
    if changes:
        is_ = "The difference, paired by image, is"
        if len(changes) > 1:
            is_ = "The differences, paired by image, are"
        sentences[0] += f" {is_} {describe(changes, 'chair_i')}."
    sentences += _which_arm(results, arm)
    sentences += _control(results, arm, baseline)
    sentences += _side_effects(results, arm, baseline)
    return sentences


def _which_arm(results: Results, arm: str) -> list[str]:
    """Which of several arms the title is about, and why that one."""
    others = [other for other in results.arms if other not in (arm, results.baseline)]
    if not others:
        return []
    why = "the arm trained on BDHS pairs" if arm.split("/")[-1] == "bdhs" else "the last in order"
    rest = joined(others) if len(others) <= MOST_NAMED else counted(len(others), "other arm")
    return [f"The title is about {arm}, {why}; the table has {rest} too."]


def describe(changes: Sequence[Change], metric: str) -> str:
    """A difference with its interval and p; of several seeds, each with its interval."""
    unit = metric_name(metric).unit
    if len(changes) == 1:
        change = changes[0]
        range_ = interval(change.low, change.high, unit, signed=True)
        inside = [f"95{THIN}% interval {range_}" if range_ else "", probability(change.p)]
        inside.append(DISAGREE if change.disagrees else "")
        text = ", ".join(part for part in inside if part)
        return f"{bare(change.value, unit, signed=True)} {points(unit)} ({text})"
    each = [
        f"{bare(change.value, unit, signed=True)} "
        f"({interval(change.low, change.high, unit, signed=True)})"
        for change in changes
    ]
    seeds = joined([str(change.seed) for change in changes])
    return f"{joined(each)} {points(unit)} (95{THIN}% intervals) for seeds {seeds}"


def _control(results: Results, arm: str, baseline: str) -> list[str]:
    changes = results.changes_from(baseline, CONTROL, "chair_i")
    if arm == CONTROL or not changes:
        return []
    sentence = (
        "The control, fine-tuned for as many steps on the same chosen answers without any "
        f"rejected ones, changed by {describe(changes, 'chair_i')}."
    )
    between = results.changes_from(CONTROL, arm, "chair_i")
    if between:
        sentence += f" Against the control, {arm} differs by {describe(between, 'chair_i')}."
    return [sentence]


def _side_effects(results: Results, arm: str, baseline: str) -> list[str]:
    phrases = []
    for metric, noun in (
        ("recall", "objects found"),
        ("mean_length", "length of the answers"),
        ("pope/accuracy", "yes/no questions right"),
    ):
        changes = results.changes_from(baseline, arm, metric)
        values = [change.value for change in changes if change.value is not None]
        if values:
            unit = metric_name(metric).unit
            mean = bare(sum(values) / len(values), unit, signed=True)
            sure = all(change.clear for change in changes)
            note = "" if sure else ", no clear change"
            phrases.append(f"{noun} {mean} {points(unit)}{note}")
    return [f"Beside it: {'; '.join(phrases)}."] if phrases else []
