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
ASSUMED_CORRELATION = 0.25
WEIGHT = 2.0
# How much of Student's t is left out where images have one item each (ours, measured).
SINGLE = 0.9
# The same for the end nearer to no events. Where chance made many events, it made them look more
# clustered too, so that this end needs less room.
NEAR_CORRELATION = 0.1
NEAR_WEIGHT = 4.0
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


def binomial_interval(
    share: FloatArray, trials: FloatArray, trials_above: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """The mid-p interval of a binomial share: Clopper-Pearson's, with half the observed point.

    Args:
        share: of the trials; it need not be a whole number of them.
        trials: how many, above 0; may be a fraction.
        trials_above: how many for the upper end, if not as many.
    """
    above = trials if trials_above is None else trials_above
    low = _binomial_end(share * trials, trials, TAIL)
    high = _binomial_end(share * above, above, 1 - TAIL)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


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
    other's balance, one event is added to the variance, so that it is never 0. Student's t counts
    as far as an image has several items: of single ones, the variance follows from the share.

    Args:
        value: the share.
        variance: of the share, from its clusters.
        items: how many it is a share of.
        size: items that one cluster has, on average over items.
        freedom: degrees of freedom of the variance, see `degrees`.
    """
    binomial = value * (1 - value) / items
    floored = np.maximum(variance, np.minimum(variance + 1 / items**2, binomial))
    spread = np.where(binomial > 0, binomial, 1.0)
    effect = np.where(binomial > 0, floored / spread, 1.0)
    events = items * np.minimum(value, 1 - value)
    more = np.maximum(size - 1, 0.0)
    estimated = 1 - SINGLE / (more + 1)
    student = (NORMAL / scipy.special.stdtrit(freedom, 1 - TAIL)) ** (2 * estimated)

    def worth(correlation: float, weight: float, student: FloatArray) -> FloatArray:
        drawn = (events * effect + weight * (1 + more * correlation)) / (events + weight)
        used = np.where(floored >= binomial, drawn, effect)
        # Student's t is for a variance that was estimated, not for what was assumed.
        count: FloatArray = items / used * (events * student + WEIGHT) / (events + WEIGHT)
        return count

    far = worth(ASSUMED_CORRELATION, WEIGHT, student)
    near = np.maximum(far, worth(NEAR_CORRELATION, NEAR_WEIGHT, np.sqrt(student)))
    return binomial_interval(
        value, np.where(value < 0.5, near, far), np.where(value > 0.5, near, far)
    )


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
    # A mean that is high by chance has a variance that is, so the near end needs no Student's t.
    low = _gamma_end(distance, variance, TAIL)
    high = _gamma_end(distance + event, wider + event**2, 1 - TAIL)
    return np.where(distance > 0, low, 0.0), high


def area_score_interval(
    value: FloatArray, variance: FloatArray, kinds: tuple[FloatArray, FloatArray], size: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The score interval of an area under the curve (Newcombe 2006, method 5), clustered.

    Every true area has its own variance (Hanley and McNeil 1982), so that an area of 1 has an
    interval too. It is multiplied with a design effect, as of shares.

    Args:
        value: the area.
        variance: of the area, from its clusters.
        kinds: how many questions of either kind, the rarer first.
        size: how many of the rarer kind one cluster has, on average over them.
    """
    alone = area_variance(value, kinds)
    effect = np.where(alone > 0, variance / np.where(alone > 0, alone, 1.0), 1.0)
    events = kinds[0] * np.minimum(value, 1 - value)
    assumed = 1 + np.maximum(size - 1, 0.0) * ASSUMED_CORRELATION
    effect = (events * effect + WEIGHT * assumed) / (events + WEIGHT)

    def end(limit: float) -> FloatArray:
        inside, outside = value, np.full(np.shape(value), limit)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            usual = (value - middle) ** 2 <= NORMAL**2 * effect * area_variance(middle, kinds)
            inside, outside = np.where(usual, middle, inside), np.where(usual, outside, middle)
        return inside

    return end(0.0), end(1.0)


def area_variance(area: FloatArray, kinds: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Of an area if all questions are independent (Hanley and McNeil 1982, mean numbers)."""
    pairs, others = kinds[0] * kinds[1], (kinds[0] + kinds[1]) / 2 - 1
    shared = (1 - area) / (2 - area) + area / (1 + area)
    variance: FloatArray = area * (1 - area) / pairs * (1 + others * shared)
    return variance


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
