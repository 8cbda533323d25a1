"""What no method can do better: bounds on the coverage of intervals and on how often p is small.

Every bound is found by counting, for the data sets of one cell of `coverage.py`. They are of three
kinds: equal values are missed together; one method has to hold for other true values than the
cell's, too; and an interval has to agree with p. docs/statistics.md says it in words.
"""

from __future__ import annotations

import numpy as np
from coverage_tables import COVERED

from veridical.scoring.statistics import FloatArray
from veridical.scoring.statistics.signs import FEWEST_DIFFERING

# The coverage that has to hold everywhere leaves so much to miss.
BUDGET = 1 - COVERED[0] / 100
# Answers about one image correlate by so much at most, in the worlds that are simulated.
STRONGEST = 0.4
# More changes than this either way are not counted out.
MOST = 15


def largest_rate(differing: FloatArray) -> FloatArray:
    """How often a test of equal models can have a p below 0.05, whatever its statistic.

    Were three of three changes enough, then so would be all of four, of five and so on, and the
    rate would be over 6 % where three differ on average; so with three it is 0. If d images differ,
    all 2^d patterns of signs are equally likely, and a two-sided test rejects a pattern with its
    opposite, so the rate is a multiple of 2^(1 - d): of four, that of one such pair; of more, below
    0.1, because the mid-p of the least unusual result is at least half of the rate.
    """
    step = 2.0 ** (1 - np.minimum(differing, 50))
    rate: FloatArray = np.where(step < 0.1, (np.ceil(0.1 / step) - 1) * step, 0.0)
    return np.where(differing == FEWEST_DIFFERING, step, rate)


def lowest_coverage(values: FloatArray) -> float:
    """The lowest coverage, not below the 93 % wanted, of any interval of these data; percent.

    Of any whose ends rise with the value: it misses the truth where the value is among the lowest
    or the highest, and equal values are missed together.
    """
    values = values[~np.isnan(values)]
    sides = []
    for sign in (1, -1):
        counts = np.unique(np.round(sign * values, 9), return_counts=True)[1]
        missed = np.concatenate(([0.0], np.cumsum(counts) / len(values)))
        sides.append(missed[missed <= BUDGET + 1e-12])
    both = sides[0][:, None] + sides[1]
    return 100 * (1 - float(both[both <= BUDGET + 1e-12].max()))


def paired_coverage(
    truth: float, better: FloatArray, worse: FloatArray, rejected: FloatArray, images: int
) -> float:
    """The same of a true difference, for intervals that hold for all models that differ by it.

    Such models may improve few images and harm none, or improve and harm many. The interval can
    miss the truth from below, beside b improved and c harmed images, only if no such model has so
    few improved and so many harmed images (or fewer, or more) in over 7 % of data sets. It can miss
    it from above only if the same holds the other way, and if p is below 0.05. Exact where one
    image changes by one answer; else changes count as if they had their usual size.

    Args:
        truth: the true difference in images changed, more than 0.
        better: how many images changed toward it, (data sets,).
        worse: how many changed the other way.
        rejected: whether p is below 0.05 and the difference on the side of the truth.
        images: in each data set.
    """
    few = np.minimum(better, MOST).astype(int), np.minimum(worse, MOST).astype(int)
    lower, upper = missable(truth, images)
    missed = lower[few] | (upper[few] & (rejected > 0))
    return 100 * (1 - min(float(np.mean(missed)), BUDGET))


def missable(truth: float, images: int) -> tuple[FloatArray, FloatArray]:
    """Beside which counts [better, worse] an interval may lie below the truth, and above it."""
    counts = np.arange(MOST + 1)
    most = np.zeros((2, MOST + 1, MOST + 1))
    for harmed in np.linspace(0, min(8.0, (images - truth) / 2), 33):
        chances = _changes(min((truth + harmed) / images, 1.0), harmed / images, images)
        up = np.cumsum(chances, axis=0)  # as few better
        lower = np.cumsum(up[:, ::-1], axis=1)[:, ::-1]  # and as many worse
        down = np.cumsum(chances[::-1], axis=0)[::-1]
        upper = np.cumsum(down, axis=1)
        size = len(counts)
        most = np.maximum(most, np.stack([lower[:size, :size], upper[:size, :size]]))
    lower, upper = most <= BUDGET
    lower[-1], lower[:, -1], upper[-1], upper[:, -1] = True, True, True, True
    return lower, upper


def _changes(up: float, down: float, images: int) -> FloatArray:
    """Chances of [better, worse], counts to 40, of images that change up or down with these."""
    from scipy.stats import binom

    counts = np.arange(min(images, 40) + 1)
    first = binom.pmf(counts, images, up)[:, None]
    rest = binom.pmf(counts[None], (images - counts)[:, None], min(down / max(1 - up, 1e-12), 1.0))
    table = np.zeros((41, 41))
    table[: len(counts), : len(counts)] = np.nan_to_num(first * rest)
    return table


def share_coverage(
    truth: float, events: FloatArray, owners: FloatArray, items: float, images: int
) -> float:
    """The same of a share of rare events, for intervals that hold however the events cluster.

    An interval can lie above the truth only beside so many events that independent items have as
    many or more in at most 7 % of data sets; and below it, beside so few images with an event, that
    images whose answers correlate by 0.4 have as few in at most 7 %.

    Args:
        truth: the share.
        events: in each data set, (data sets,).
        owners: how many images have one.
        items: in a data set.
        images: in a data set.
    """
    from scipy.stats import binom

    total = max(round(items), 1)
    above = binom.sf(events - 1, total, truth) <= BUDGET
    worth = max(round(items / (1 + (max(items / images, 1.0) - 1) * STRONGEST)), 1)
    below = binom.cdf(owners, worth, truth) <= BUDGET
    return 100 * (1 - min(float(np.mean(above | below)), BUDGET))
