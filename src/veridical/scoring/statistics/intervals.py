"""Intervals of one value, in closed form: no resamples, so no seed, and the same every time.

Every function takes arrays of any shape, so that a simulation can ask about thousands of data
sets at once. What they hold in is measured in docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
import scipy

from veridical.scoring.statistics.sums import LEVEL, FloatArray, ratio

TAIL = (1 - LEVEL) / 2
# The normal quantile at 1 - TAIL, written out: help pages are made without SciPy.
NORMAL = 1.959963984540054
# What a design effect is taken for before any event was seen: that of items in one image which
# correlate by so much, with the weight of so many events (our choice, measured).
ASSUMED_CORRELATION = 0.2
WEIGHT = 2.0
# Bisections: the interval's ends are found to 1e-15.
HALVINGS = 50


def quantile(clusters: int) -> float:
    """How many standard errors each way, of Student's t with clusters - 1 degrees of freedom."""
    return float(scipy.special.stdtrit(clusters - 1, 1 - TAIL))


def degrees(moved: FloatArray) -> FloatArray:
    """The variance's degrees of freedom: twice the clusters that make it, at most clusters - 1.

    Where ten images of a thousand have an error, ten images decide how errors come together.
    """
    squares = (moved**2).sum(axis=-1)
    makers = ratio(squares**2, (moved**4).sum(axis=-1))
    most = moved.shape[-1] - 1
    return np.where(squares > 0, np.clip(2 * makers, 1, most), most)


def binomial_interval(events: FloatArray, trials: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mid-p interval of a binomial share: Clopper-Pearson's, with half the observed point.

    Args:
        events: how many of `trials`; both may be fractions.
        trials: how many, above 0.
    """
    low, high = (_binomial_end(events, trials, tail) for tail in (TAIL, 1 - TAIL))
    return np.where(events <= 0, 0.0, low), np.where(events >= trials, 1.0, high)


def _binomial_end(events: FloatArray, trials: FloatArray, tail: float) -> FloatArray:
    """The share at which so many events or more have the chance `tail` (half of the point)."""
    below, above = np.zeros(np.shape(events)), np.ones(np.shape(events))
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        chance = (_at_least(events, trials, middle) + _at_least(events + 1, trials, middle)) / 2
        below = np.where(chance < tail, middle, below)
        above = np.where(chance < tail, above, middle)
    return (below + above) / 2


def _at_least(events: FloatArray, trials: FloatArray, share: FloatArray) -> FloatArray:
    """The chance of at least so many events."""
    tiny = 1e-12
    chance = scipy.special.betainc(
        np.maximum(events, tiny), np.maximum(trials - events + 1, tiny), share
    )
    return np.where(events <= 0, 1.0, np.where(events > trials, 0.0, chance))


def share_interval(
    value: FloatArray,
    variance: FloatArray,
    items: FloatArray,
    size: FloatArray,
    freedom: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """The binomial interval of as many items as are worth the clustered ones (Korn-Graubard).

    The design effect is the clustered variance over the binomial one. A few events cannot show
    it, so it is drawn to that of correlated items. Below 1, where items of one image hold each
    other's balance, one event each way is added to the variance, so that it is never 0.

    Args:
        value: the share.
        variance: of the share, from its clusters.
        items: how many it is a share of.
        size: items that one cluster has, on average over items.
        freedom: degrees of freedom of the variance, see `degrees`.
    """
    binomial = value * (1 - value) / items
    floored = np.maximum(variance, np.minimum(variance + 2 / items**2, binomial))
    spread = np.where(binomial > 0, binomial, 1.0)
    effect = np.where(binomial > 0, floored / spread, 1.0)
    events = items * np.minimum(value, 1 - value)
    assumed = 1 + np.maximum(size - 1, 0.0) * ASSUMED_CORRELATION
    drawn = (events * effect + WEIGHT * assumed) / (events + WEIGHT)
    effect = np.where(floored >= binomial, drawn, effect)
    # Student's t is for a variance that was estimated, not for what was assumed.
    student = (NORMAL / scipy.special.stdtrit(freedom, 1 - TAIL)) ** 2
    worth = items / effect * (events * student + WEIGHT) / (events + WEIGHT)
    return binomial_interval(value * worth, worth)


def mean_interval(
    value: FloatArray, variance: FloatArray, event: FloatArray, clusters: int
) -> tuple[FloatArray, FloatArray]:
    """Student's interval, its variance that of two more clusters: one `event` up, one down.

    Args:
        value: the mean.
        variance: of the mean, from its clusters.
        event: how far one cluster that has something rare moves the mean.
        clusters: how many.
    """
    half = quantile(clusters) * np.sqrt(variance + 2 * event**2)
    return value - half, value + half


def limited_interval(
    distance: FloatArray, variance: FloatArray, event: FloatArray, clusters: int
) -> tuple[FloatArray, FloatArray]:
    """The gamma interval of a mean that is at least 0 and skewed (Fay and Feuer 1997).

    The upper end is that of the same data with one more event, which may just have been missed.

    Args:
        distance: the mean, from the number that no row can pass.
        variance: of the mean, from its clusters.
        event: how far the largest event in one cluster moves the mean.
        clusters: how many.
    """
    wider = variance * (quantile(clusters) / NORMAL) ** 2
    low = _gamma_end(distance, wider, TAIL)
    high = _gamma_end(distance + event, wider + event**2, 1 - TAIL)
    return np.where(distance > 0, low, 0.0), high


def _gamma_end(mean: FloatArray, variance: FloatArray, chance: float) -> FloatArray:
    """The quantile of the gamma distribution with this mean and variance."""
    known = (mean > 0) & (variance > 0)
    safe_mean, safe_variance = np.where(known, mean, 1.0), np.where(known, variance, 1.0)
    end = (
        scipy.special.gammaincinv(safe_mean**2 / safe_variance, chance) * safe_variance / safe_mean
    )
    return np.where(known, end, mean)


def correlation_interval(
    value: FloatArray, variance: FloatArray, clusters: int
) -> tuple[FloatArray, FloatArray]:
    """Student's interval on Fisher's scale, where a correlation's error is nearly normal."""
    inside = np.clip(value, -1 + 1e-12, 1 - 1e-12)
    half = quantile(clusters) * np.sqrt(variance) / (1 - inside**2)
    return np.tanh(np.arctanh(inside) - half), np.tanh(np.arctanh(inside) + half)
