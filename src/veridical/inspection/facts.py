"""What is said of a set: facts with their intervals, under headings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from veridical.scoring.statistics import Metric, Ratio, estimate, sum_by_cluster

Unit = Literal["share", "count", "words", "number"]


@dataclass(frozen=True)
class Fact:
    """One number about a set.

    Attributes:
        section: its heading.
        label: what it is.
        value: the number; None where it can't be had, and `note` says why.
        unit: of the number; a share is in [0, 1].
        low: of its 95 % interval by image, or None.
        high: see `low`.
        n: pairs that it is about.
        note: what must be known of it.
    """

    section: str
    label: str
    value: float | None
    unit: Unit = "share"
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""


def share(
    section: str, label: str, hits: Sequence[float], groups: Sequence[int], note: str = ""
) -> Fact:
    """A share of pairs, with the interval that counts images and not pairs.

    Args:
        section: its heading.
        label: what it is.
        hits: 1 or 0 for each pair, a half for a tie.
        groups: for each pair, the number of its group of images.
        note: what must be known of it.
    """
    return _estimated(section, label, hits, groups, "share", note)


def mean_fact(
    section: str, label: str, values: Sequence[float], groups: Sequence[int], unit: Unit = "number"
) -> Fact:
    """A mean over pairs, with the interval that counts images and not pairs."""
    return _estimated(section, label, values, groups, unit, "")


def _estimated(
    section: str, label: str, values: Sequence[float], groups: Sequence[int], unit: Unit, note: str
) -> Fact:
    kind: Literal["share", "mean"] = "share" if unit == "share" else "mean"
    metric = Metric("value", Ratio("sum", "pairs"), "pairs", kind)
    rows: Iterable[tuple[int, Mapping[str, float]]] = (
        (int(group), {"sum": float(value), "pairs": 1.0})
        for value, group in zip(values, groups, strict=True)
    )
    found = estimate(sum_by_cluster(rows), [metric])["value"]
    why = found.note if found.low is None else ""
    return Fact(section, label, found.value, unit, found.low, found.high, len(values), note or why)


def quantiles(section: str, label: str, values: Sequence[float], unit: Unit) -> Fact:
    """A median, with the quarter and three quarters in its note."""
    if not len(values):
        return Fact(section, label, None, unit, note="no pairs")
    low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    form = ".2f" if unit == "share" else ",.0f"
    note = f"half of the pairs lie between {low:{form}} and {high:{form}}"
    return Fact(
        section, label, middle, "number" if unit == "share" else unit, n=len(values), note=note
    )
