"""The interval of a calibration error: absolute gaps, of which chance alone makes some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from veridical.scoring.statistics.intervals import HALVINGS, quantile
from veridical.scoring.statistics.sums import FloatArray, Sums, ratio, totals


@dataclass(frozen=True)
class Bin:
    """Columns of one bin: what came true, what was expected, and the variance of the former."""

    seen: str
    expected: str
    variance: str


@dataclass(frozen=True)
class CalibrationGap:
    """The formula sum of |seen - expected| over bins / `bottom`."""

    bins: Sequence[Bin]
    bottom: str

    def __call__(self, sums: Sums) -> FloatArray:
        """The value; NaN where the denominator is 0."""
        gaps = [np.abs(sums[each.seen] - sums[each.expected]) for each in self.bins]
        return ratio(np.sum(gaps, axis=0), sums[self.bottom])


def gap_interval(formula: CalibrationGap, columns: Sums) -> tuple[FloatArray, FloatArray]:
    """From no gap at all, where chance explains what was seen, to the largest that it allows.

    With few rows in a bin the value is too high even where nothing is amiss. So the interval is
    found the other way round: true gaps in proportion to those seen, of which size would the
    value be usual? The value's mean and variance are those of folded normal variables.

    Args:
        formula: bins and denominator.
        columns: by cluster, (..., clusters).
    """
    clusters = columns[formula.bottom].shape[-1]
    whole = totals(columns)
    by_cluster = [columns[each.seen] - columns[each.expected] for each in formula.bins]
    seen = np.abs(np.stack([each.sum(axis=-1) for each in by_cluster]))
    clustered = np.stack([(each**2).sum(axis=-1) for each in by_cluster])
    expected = np.stack([whole[each.variance] for each in formula.bins])
    spread = np.sqrt(np.maximum(clustered - seen**2 / clusters, expected))
    value, width = seen.sum(axis=0), quantile(clusters)

    def usual(scale: FloatArray, sign: int) -> FloatArray:
        mean, variance = _folded(scale * seen, spread)
        end: FloatArray = mean.sum(axis=0) + sign * width * np.sqrt(variance.sum(axis=0))
        return end

    most = np.full(value.shape, 1.0)
    for _ in range(60):
        most = np.where(usual(most, -1) < value, most * 1.3, most)
    low = _crossing(lambda scale: usual(scale, 1), value, np.ones(value.shape))
    high = _crossing(lambda scale: usual(scale, -1), value, most)
    bottom = whole[formula.bottom]
    return ratio(low * value, bottom), np.minimum(ratio(high * value, bottom), 1.0)


def _folded(mean: FloatArray, spread: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of |normal variable|."""
    safe = np.where(spread > 0, spread, 1.0)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-((mean / safe) ** 2) / 2) + mean * (
        1 - 2 * scipy.special.ndtr(-mean / safe)
    )
    return np.where(spread > 0, folded, mean), np.maximum(mean**2 + spread**2 - folded**2, 0.0)


def _crossing(
    rising: Callable[[FloatArray], FloatArray], target: FloatArray, most: FloatArray
) -> FloatArray:
    """Where a rising function reaches the target, between 0 and `most`; 0 where it starts above."""
    below, above = np.zeros(np.shape(target)), most
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        short = rising(middle) < target
        below, above = np.where(short, middle, below), np.where(short, above, middle)
    return below
