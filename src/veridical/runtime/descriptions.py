"""How benchmarks and their metrics are named and shown, as `scores.json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from veridical.runtime.json_types import JsonObject

Unit: TypeAlias = Literal["percent", "words", "share", "number"]
Direction: TypeAlias = Literal["lower", "higher"]
Prominence: TypeAlias = Literal["top", "table", "more"]


@dataclass(frozen=True)
class MetricDescription:
    """How a metric is shown.

    Attributes:
        name: its key in `scores.json`.
        label: what it measures, in words.
        detail: what the literature calls it, or what it is counted over.
        unit: fractions are shown in percent, or as a `share` of 1 where that is usual.
        better: the direction that is better; None where there is none.
        shown: where the report shows it: at the `top` of the page and in the first `table`, in
            that table alone, or among all metrics (`more`).
        curve: its name in a legend, where training measures it on the way; those without one are
            logged and not drawn.
        caution: what a comparison says where either side is above 0.
    """

    name: str
    label: str
    detail: str = ""
    unit: Unit = "percent"
    better: Direction | None = None
    shown: Prominence = "more"
    curve: str = ""
    caution: str = ""

    def of_group(self, group: str) -> MetricDescription:
        """The same metric over some of the rows, such as "random" questions."""
        detail = f"{self.detail}, {group}" if self.detail else ""
        return replace(
            self, name=f"{group}/{self.name}", label=f"{self.label}, {group}", detail=detail,
            shown="more",
        )  # fmt: skip


@dataclass(frozen=True)
class BenchmarkDescription:
    """What a benchmark is called, what it measures, and how its metrics are shown.

    Attributes:
        name: as in `--benchmarks`, and the name of its folder.
        title: as people write it.
        done: what a run of it did, as a sentence without its period.
        metrics: in the order in which they are shown.
        headline: the metric that sums it up.
        meaning: that metric, to follow "This is".
        asked: what it is counted over, to be followed by a number of images.
        place: benchmarks are shown in this order.
    """

    name: str
    title: str
    done: str
    metrics: tuple[MetricDescription, ...]
    headline: str
    meaning: str
    asked: str
    place: int = 0

    def as_json(self) -> JsonObject:
        """The entry `benchmark` of `scores.json`."""
        return {**asdict(self), "metrics": [asdict(metric) for metric in self.metrics]}

    def metric(self, name: str) -> MetricDescription:
        """How one of its metrics is shown; an unknown one is a plain number under its own name."""
        group, _, own = name.rpartition("/")
        found = next((metric for metric in self.metrics if metric.name == own), None)
        if found is None:
            return MetricDescription(name, name, unit="number")
        return found.of_group(group) if group else found


def read_description(entry: Mapping[str, Any]) -> BenchmarkDescription:
    """What `as_json` wrote."""
    metrics = tuple(MetricDescription(**_known(MetricDescription, m)) for m in entry["metrics"])
    return BenchmarkDescription(**{**_known(BenchmarkDescription, entry), "metrics": metrics})


def _known(noun: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Its own fields of an entry: a later version may have written more."""
    return {field.name: entry[field.name] for field in fields(noun) if field.name in entry}
