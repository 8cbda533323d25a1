"""One model's values with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from veridical.runtime.run_files import ScoreEntry
from veridical.scoring.statistics.gaps import CalibrationGap, gap_interval
from veridical.scoring.statistics.intervals import (
    correlation_interval,
    degrees,
    limited_interval,
    mean_interval,
    share_interval,
)
from veridical.scoring.statistics.signs import sign_test
from veridical.scoring.statistics.sums import (
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    influence,
    ratio,
    totals,
)

# What `scores.json` calls the interval of each kind.
METHODS = {
    "share": "mid-p binomial, design effect by image",
    "mean": "Student's t by image, two events added",
    "limited": "gamma by image, one event added",
    "correlation": "Fisher's z by image",
    "gap": "inverted folded normal by image",
    "combination": "mid-p binomial, design effect by image",
    "area": "score, design effect by image",
}
# Counts that differ by less are equal.
ROUNDING = 1e-9
ONE_CLUSTER = "one cluster: an interval needs at least two"
BOUND = "every row has the same value: the interval is a bound on what was not seen"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where the data do not define it, and `note` why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    note: str = ""
    method: str = ""

    def as_json(self) -> ScoreEntry:
        """The row of `scores.json`; what has nothing to say is left out."""
        optional = ("note", "method")
        row = {k: item for k, item in asdict(self).items() if k not in optional or item}
        return cast(ScoreEntry, row)


def estimate(sums: ClusterSums, metrics: Sequence[Metric]) -> dict[str, Estimate]:
    """Values with 95 % intervals that count clusters, not rows.

    A value that the data leave undefined (0/0) is None with a note, as is an interval from a
    single cluster. Where every row says the same, the interval still has a width: ten right
    answers out of ten do not prove that the next is right.

    Args:
        sums: what is added up, by cluster.
        metrics: the formulas to evaluate.
    """
    if not sums.clusters:
        return {metric.name: Estimate(None, None, None, 0, 0, "no rows") for metric in metrics}
    return {metric.name: _estimate(metric, sums) for metric in metrics}


def _estimate(metric: Metric, sums: ClusterSums) -> Estimate:
    whole, clusters = totals(sums.columns), len(sums.clusters)
    value, n = float(metric.formula(whole)), round(float(whole[metric.unit]))
    if np.isnan(value):
        return Estimate(None, None, None, n, clusters, "undefined: its denominator is 0")
    if clusters < 2:
        return Estimate(value, None, None, n, clusters, ONE_CLUSTER)
    low, high = (float(end) for end in interval(metric, sums.columns))
    if np.isnan(low) or np.isnan(high):
        return Estimate(value, None, None, n, clusters, "no interval: the rows do not vary")
    note = ""
    if metric.kind in ("share", "combination") and value in (0.0, 1.0):
        note = BOUND
    return Estimate(value, low, high, n, clusters, note, method_of(metric))


def method_of(metric: Metric) -> str:
    """What the interval is called."""
    return METHODS["limited" if metric.limit is not None else metric.kind]


def interval(metric: Metric, columns: Sums) -> tuple[FloatArray, FloatArray]:
    """Both ends, of columns (..., clusters) with at least two clusters.

    NaN where the value has none.
    """
    if isinstance(metric.formula, CalibrationGap):
        return gap_interval(metric.formula, columns)
    moved = influence(metric.formula, columns)
    clusters = moved.shape[-1]
    value = metric.formula(totals(columns))
    variance = (moved**2).sum(axis=-1) * clusters / (clusters - 1)
    if metric.kind == "combination":
        items = columns[metric.unit]
        size = ratio((items**2).sum(axis=-1), items.sum(axis=-1))
        return share_interval(value, variance, items.sum(axis=-1), size, degrees(moved))
    if not isinstance(metric.formula, Ratio):  # What is left is a correlation.
        known = np.where(variance > 0, variance, np.nan)
        return correlation_interval(value, known, clusters)
    bottom = metric.formula.parts(columns)[1]
    items = bottom.sum(axis=-1)
    if metric.kind == "share":
        return _share_interval(metric.formula, columns, value, variance)
    if metric.limit is None:
        low, high = mean_interval(value, variance, usual_event(moved), clusters)
        if metric.scale is not None:
            # A rule that takes any number for a rating may give values beyond the scale.
            low = np.maximum(low, np.minimum(metric.scale[0], value))
            high = np.minimum(high, np.maximum(metric.scale[1], value))
        return np.where(variance > 0, low, np.nan), np.where(variance > 0, high, np.nan)
    side = 1.0 if np.all(value >= metric.limit) else -1.0
    largest = np.maximum((side * moved).max(axis=-1), metric.event / items)
    near, far = limited_interval(side * (value - metric.limit), variance, largest, clusters)
    # Without a known event, numbers that do not vary say nothing of what was not seen.
    near, far = (np.where(near < far, end, np.nan) for end in (near, far))
    ends = metric.limit + side * near, metric.limit + side * far
    return ends if side > 0 else ends[::-1]


def _share_interval(
    formula: Ratio, columns: Sums, value: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Binomial, but where most images keep one balance: then by the images that do not."""
    top, bottom = formula.parts(columns)
    items = bottom.sum(axis=-1)
    size = ratio((bottom**2).sum(axis=-1), items)
    freedom = degrees(influence(formula, columns))
    low, high = share_interval(value, variance, items, size, freedom)
    balance = common_balance(top, bottom)
    if np.all(np.isnan(balance)):
        return low, high
    gains = ratio(top - balance[..., None] * bottom, items[..., None])
    gains = np.where(np.abs(gains * items[..., None]) > ROUNDING, gains, 0.0)
    differing = 1.0 * np.count_nonzero(gains, axis=-1)
    found = sign_test(value - balance, np.nan_to_num(gains), 1 / items, differing)
    near, far = np.clip(balance + found.low, 0, 1), np.clip(balance + found.high, 0, 1)
    kept = ~np.isnan(balance)
    return np.where(kept, near, low), np.where(kept, far, high)


def common_balance(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """The share that half of the images or more have, if neither 0 nor 1; else NaN.

    A model that is always right says yes to half of the questions about each image. What moves its
    share of yes are the images in which it errs, to either side.
    """
    shares = ratio(top, bottom)
    middle = np.nanmedian(shares, axis=-1) if np.isnan(shares).any() else np.median(shares, axis=-1)
    same = np.mean(np.abs(shares - middle[..., None]) <= ROUNDING, axis=-1)
    return np.where((same >= 0.5) & (middle > 0) & (middle < 1), middle, np.nan)


def usual_event(moved: FloatArray) -> FloatArray:
    """The size of what moves the value: the mean of its movers, weighted by their squares."""
    return ratio((np.abs(moved) ** 3).sum(axis=-1), (moved**2).sum(axis=-1))
