"""The interval of a calibration error: absolute gaps, of which chance alone makes some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from veridical.scoring.statistics.intervals import HALVINGS, TAIL, WEIGHT, quantile
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
    clustered = np.stack([(each**2).sum(axis=-1) for each in by_cluster]) - seen**2 / clusters
    expected = np.stack([whole[each.variance] for each in formula.bins])
    effect = (clustered.sum(axis=0) + WEIGHT) / (expected.sum(axis=0) + WEIGHT)
    value, width = seen.sum(axis=0), quantile(clusters)

    def usual(scale: FloatArray, sign: int) -> FloatArray:
        # Without a gap, the variance is the expected one; with the gap seen, the one seen.
        used = np.where(effect < 1, 1 + (effect - 1) * np.minimum(scale, 1.0), effect)
        known = expected * used
        # Below, one design effect serves all bins: in its own bin, a rare error explains itself.
        known = known if sign > 0 else np.maximum(clustered, known)
        mean, variance = _folded(scale * seen, np.sqrt(np.maximum(known, 0.0)))
        middle, deviation = mean.sum(axis=0), np.sqrt(variance.sum(axis=0))
        if sign < 0:
            return np.asarray(middle - width * deviation)
        # The interval holds the value, so that it misses a true gap from below only if the value
        # falls below the gap. Where that is rarer than the tail, the other tail gets the rest.
        bias = ratio(middle - scale * value, deviation)
        below = np.minimum(scipy.special.ndtr(-np.nan_to_num(bias)), TAIL)
        wide = scipy.special.stdtrit(clusters - 1, 1 - (2 * TAIL - below))
        return np.asarray(middle + wide * deviation)

    most = np.full(value.shape, 1.0)
    for _ in range(60):
        most = np.where(usual(most, -1) < value, most * 1.3, most)
    low = _crossing(lambda scale: usual(scale, 1), value, np.ones(value.shape))
    high = _crossing(lambda scale: usual(scale, -1), value, most)
    bottom = whole[formula.bottom]
    return ratio(low * value, bottom), np.minimum(ratio(high * value, bottom), 1.0)


def _folded(mean: FloatArray, spread: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of |normal variable|; of a count that is mostly 0, what chance adds."""
    safe = np.where(spread > 0, spread, 1.0)
    folded = scipy.stats.foldnorm.mean(mean / safe, scale=safe)
    # A Poisson count of mean v below 1 is 2 v exp(-v) from it on average, a normal variable of the
    # same variance sqrt(2 v / pi).
    few = np.minimum(spread**2, 1.0)
    sparse = np.minimum(np.sqrt(2 * np.pi * few) * np.exp(-few), 1.0)
    folded = mean + (folded - mean) * np.where(spread**2 < 1, sparse, 1.0)
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
