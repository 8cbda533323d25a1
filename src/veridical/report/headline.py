"""What the scores amount to: the page's title and its first paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veridical.report.results import ArmValue, Change, Results
from veridical.report.wording import (
    DISAGREE,
    THIN,
    bare_number,
    count_of,
    counted_in,
    interval_text,
    joined,
    lower,
    probability,
    show,
)
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription, Unit

# More arms than that are counted, not named.
MOST_NAMED = 6


@dataclass(frozen=True)
class Headline:
    """The main result: one sentence, and a paragraph of what stands beside it."""

    sentence: str
    details: tuple[str, ...]


def headline(results: Results) -> Headline | None:
    """What happened to the first benchmark's headline metric; None when none was measured.

    A fall or a rise is only said when it is clear (`Change.clear`), and in how many seeds.
    """
    benchmark, arm, baseline = results.headline_benchmark, results.headline_arm, results.baseline
    if benchmark is None or baseline is None:
        return None
    metric = f"{benchmark.name}/{benchmark.headline}"
    shown = results.describe(metric)
    before, after = results.mean(baseline, metric), results.mean(arm, metric)
    if arm is None or after is None:
        return _alone(benchmark, shown, baseline, results.values[baseline, metric][0])
    changes = results.changes_from(baseline, arm, metric)
    return Headline(
        _sentence(shown.label, changes, show(before, shown.unit), show(after, shown.unit)),
        tuple(_details(results, benchmark, arm, baseline)),
    )


def _alone(
    benchmark: BenchmarkDescription, shown: MetricDescription, arm: str, value: ArmValue
) -> Headline:
    range_ = interval_text(value.low, value.high, shown.unit)
    details = [f"This is {benchmark.meaning}{_where(benchmark, value.clusters)}."]
    details += [f"95{THIN}% interval {range_}."] if range_ else []
    return Headline(
        f"{shown.label}: {show(value.value, shown.unit)} for {arm}", (" ".join(details),)
    )


def _sentence(label: str, changes: Sequence[Change], before: str, after: str) -> str:
    falls = sum(change.clear and (change.value or 0) < 0 for change in changes)
    rises = sum(change.clear and (change.value or 0) > 0 for change in changes)
    seeds = f" in all {len(changes)} seeds" if len(changes) > 1 else ""
    if changes and falls == len(changes):
        return f"{label} fell from {before} to {after}{seeds}"
    if changes and rises == len(changes):
        return f"{label} rose from {before} to {after}{seeds}"
    if not changes:
        return f"{label}: {before} before, {after} after; the difference was not tested"
    if falls or rises:
        word, count = ("fell", falls) if falls >= rises else ("rose", rises)
        return (
            f"{label} clearly {word} in only {count} of {len(changes)} seeds: "
            f"{before} before, {after} after"
        )
    return f"No clear change in {lower(label)}: {before} before, {after} after"


def _details(
    results: Results, benchmark: BenchmarkDescription, arm: str, baseline: str
) -> list[str]:
    metric = f"{benchmark.name}/{benchmark.headline}"
    changes = results.changes_from(baseline, arm, metric)
    where = _where(benchmark, results.values[arm, metric][0].clusters)
    sentences = [f"This is {benchmark.meaning}{where}."]
    if changes:
        is_ = "The difference, paired by image, is"
        if len(changes) > 1:
            is_ = "The differences, paired by image, are"
        sentences[0] += f" {is_} {describe_difference(changes, results.describe(metric).unit)}."
    sentences += _which_arm(results, arm)
    sentences += _control(results, metric, arm, baseline)
    sentences += _side_effects(results, metric, arm, baseline)
    return sentences


def _where(benchmark: BenchmarkDescription, images: int) -> str:
    return f" over {benchmark.asked} {count_of(images, 'image')}" if images else ""


def _which_arm(results: Results, arm: str) -> list[str]:
    """Which of several arms the title is about, and why that one."""
    others = [other for other in results.arms if other not in (arm, results.baseline)]
    if not others:
        return []
    what = results.named.label(arm) or "the last in order"
    if not results.named.label(arm) and results.named.about:
        what = "which was asked for"
    rest = joined(others) if len(others) <= MOST_NAMED else count_of(len(others), "other arm")
    return [f"The title is about {arm}, {what}; the table also has {rest}."]


def describe_difference(changes: Sequence[Change], unit: Unit) -> str:
    """A difference with its interval and p; of several seeds, each with its interval."""
    if len(changes) == 1:
        change = changes[0]
        range_ = interval_text(change.low, change.high, unit, signed=True)
        inside = [f"95{THIN}% interval {range_}" if range_ else "", probability(change.p)]
        inside.append(DISAGREE if change.disagrees else "")
        text = ", ".join(part for part in inside if part)
        return f"{counted_in(bare_number(change.value, unit, signed=True), unit)} ({text})"
    each = [
        f"{bare_number(change.value, unit, signed=True)} "
        f"({interval_text(change.low, change.high, unit, signed=True)})"
        for change in changes
    ]
    seeds = joined([str(change.seed) for change in changes])
    return f"{counted_in(joined(each), unit)} (95{THIN}% intervals) for seeds {seeds}"


def _control(results: Results, metric: str, arm: str, baseline: str) -> list[str]:
    control = results.control_of(arm)
    changes = results.changes_from(baseline, control, metric)
    if control is None or arm == control or not changes:
        return []
    unit = results.describe(metric).unit
    what = results.named.label(control).removeprefix("the control, ") or control
    sentence = f"The control, {what}, changed by {describe_difference(changes, unit)}."
    between = results.changes_from(control, arm, metric)
    if between:
        sentence += (
            f" Compared with the control, {arm} differs by {describe_difference(between, unit)}."
        )
    return [sentence]


def _side_effects(results: Results, headline_metric: str, arm: str, baseline: str) -> list[str]:
    phrases = []
    for metric in results.metrics:
        shown = results.describe(metric)
        changes = results.changes_from(baseline, arm, metric)
        values = [change.value for change in changes if change.value is not None]
        if values and shown.shown == "top" and metric != headline_metric:
            mean = bare_number(sum(values) / len(values), shown.unit, signed=True)
            sure = all(change.clear for change in changes)
            note = "" if sure else ", no clear change"
            phrases.append(f"{lower(shown.label)} {counted_in(mean, shown.unit)}{note}")
    return [f"Also measured: {'; '.join(phrases)}."] if phrases else []
