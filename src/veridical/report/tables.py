"""The tables of scores and the tiles above them, as plain data for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veridical.report.results import Change, Results
from veridical.report.wording import (
    DISAGREE,
    bare_number,
    counted_in,
    interval_text,
    probability,
    show,
)
from veridical.runtime.descriptions import MetricDescription

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "changed": "changed",
    "unclear": "no clear change",
    "differ": "seeds differ",
}


@dataclass(frozen=True)
class Tile:
    """A metric before and after training, and its change in words."""

    label: str
    before: str
    after: str
    change: str
    verdict: str
    words: str


@dataclass(frozen=True)
class ShownChange:
    """A line for each seed, and the verdict that they share."""

    lines: Sequence[str]
    verdict: str
    words: str


@dataclass(frozen=True)
class Cell:
    """One arm's value in a metric, its intervals, and its change from the baseline."""

    arm: str
    value: str
    intervals: Sequence[str]
    change: ShownChange | None


@dataclass(frozen=True)
class TableRow:
    """A metric with a cell for each arm; its name is without the group of the answers."""

    label: str
    detail: str
    cells: Sequence[Cell]
    benchmark: str
    metric: str


def tiles(results: Results) -> list[Tile]:
    """Before, after and the difference of the most important metrics."""
    found = []
    for metric in (metric for metric in results.metrics if results.describe(metric).shown == "top"):
        name, arm, baseline = results.describe(metric), results.headline_arm, results.baseline
        before, after = results.mean(baseline, metric), results.mean(arm, metric)
        if before is None or after is None:
            continue
        changes = results.changes_from(baseline, arm, metric)
        found.append(
            Tile(
                label=name.label,
                before=bare_number(before, name.unit),
                after=show(after, name.unit),
                change=_mean_change(changes, name),
                verdict=_verdict(changes, name),
                words=VERDICTS[_verdict(changes, name)] if changes else "",
            )
        )
    return found


def _mean_change(changes: Sequence[Change], metric: MetricDescription) -> str:
    unit = metric.unit
    values = [change.value for change in changes if change.value is not None]
    if not values:
        return ""
    text = counted_in(bare_number(sum(values) / len(values), unit, signed=True), unit)
    if len(changes) > 1:
        return f"{text}, mean of {len(changes)} seeds"
    range_ = interval_text(changes[0].low, changes[0].high, unit, signed=True)
    return f"{text} ({range_})" if range_ else text


def _verdict(changes: Sequence[Change], metric: MetricDescription) -> str:
    """The verdict that all seeds share."""
    verdicts = {change.verdict(metric.better) for change in changes}
    return verdicts.pop() if len(verdicts) == 1 else "differ" if verdicts else "unclear"


def table_rows(results: Results, main: bool) -> list[TableRow]:
    """Every arm's value with its interval, and its difference from the baseline."""
    return [
        _row(results, metric, [_cell(results, arm, metric) for arm in results.arms])
        for metric in results.metrics
        if (results.describe(metric).shown != "more") == main
    ]


def difference_rows(results: Results, baseline: str) -> tuple[list[str], list[TableRow]]:
    """The arms compared with another baseline, and their differences in the main metrics."""
    arms = [
        arm
        for arm in results.arms
        if any(results.changes_from(baseline, arm, metric) for metric in results.metrics)
    ]
    found = []
    for metric in results.metrics:
        described = results.describe(metric)
        cells = [
            Cell(arm, "", (), _change(results.changes_from(baseline, arm, metric), described))
            for arm in arms
        ]
        if described.shown != "more":
            found.append(_row(results, metric, cells))
    return arms, found


def _row(results: Results, metric: str, cells: Sequence[Cell]) -> TableRow:
    name = results.describe(metric)
    benchmark, own = metric.partition("/")[0], metric.rpartition("/")[2]
    return TableRow(name.label, name.detail, cells, benchmark, own)


def _cell(results: Results, arm: str, metric: str) -> Cell:
    name = results.describe(metric)
    values = results.values.get((arm, metric), [])
    lines = []
    for value in values:
        text = interval_text(value.low, value.high, name.unit) or value.note
        many = len(values) > 1
        lines.append(f"{bare_number(value.value, name.unit)} ({text})" if many else text)
    changes = results.changes_from(results.baseline, arm, metric)
    shown = show(results.mean(arm, metric), name.unit)
    return Cell(arm, shown, [line for line in lines if line], _change(changes, name))


def _change(changes: Sequence[Change], metric: MetricDescription) -> ShownChange | None:
    """A line for each seed, and the verdict they share."""
    if not changes:
        return None
    unit, lines = metric.unit, []
    for change in changes:
        range_ = interval_text(change.low, change.high, unit, signed=True)
        text = bare_number(change.value, unit, signed=True)
        inside = range_
        if len(changes) == 1:
            text = counted_in(text, unit)
            inside = ", ".join(part for part in (range_, probability(change.p)) if part)
        if change.disagrees:
            inside += f"; {DISAGREE}"
        # An interval is not torn in two, whatever the width of its column.
        whole = inside.replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")
        lines.append(f"{text} ({whole})" if inside else text)
    verdict = _verdict(changes, metric)
    return ShownChange(lines, verdict, VERDICTS[verdict])
