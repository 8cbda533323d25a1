"""What no method can do better: bounds on the coverage of intervals and on how often p is small.

Every bound is found by counting, for the data sets of one cell of `coverage.py`. They are of three
kinds: equal values are missed together; one method has to hold for other true values than the
cell's, too; and an interval has to agree with p. docs/statistics.md says it in words.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from coverage_tables import COVERED
from numpy.typing import NDArray

from veridical.scoring.statistics import FloatArray
from veridical.scoring.statistics.intervals import TAIL
from veridical.scoring.statistics.signs import COUNTED, FEWEST_DIFFERING, sign_test

BoolArray: TypeAlias = NDArray[np.bool_]

# The coverage that has to hold everywhere leaves so much to miss.
BUDGET = 1 - COVERED[0] / 100
# Answers about one image correlate by so much at most, in the worlds that are simulated.
STRONGEST = 0.4
# More changes than this either way are not counted out.
MOST = 15
# So many numbers of changes for the better are counted out together with those for the worse.
ROWS = 6


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


def largest_tied_rate(differing: FloatArray, gains: FloatArray) -> FloatArray:
    """The same of a test whose statistic is the difference, where five to eight images differ.

    Patterns of signs with equal sums are rejected together, and larger sums first. Of six changes
    of one size, 2 of 64 patterns go one way; the next 12 would make it 14, more than 0.1.

    Args:
        differing: images, (data sets,).
        gains: what each adds to the difference, (data sets, images).
    """
    most = min(COUNTED, gains.shape[-1])
    sizes = np.sort(np.abs(gains), axis=-1)[:, -most:]
    patterns = 1.0 - 2 * ((np.arange(2**most)[:, None] >> np.arange(most)) & 1)
    sums = np.sort(np.abs(sizes @ patterns.T), axis=-1)[:, ::-1]
    first = max(int(np.ceil(0.1 * 2**most)) - 1, 1)
    last = sums[:, :first] - sums[:, 1 : first + 1] > 1e-9 * sums[:, :1]
    tied = (last * np.arange(1, first + 1)).max(axis=-1) / 2**most
    few = (differing > FEWEST_DIFFERING) & (differing <= COUNTED)
    rate = largest_rate(differing)
    return np.where(few, np.minimum(rate, tied), rate)


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
    truth: float, better: FloatArray, worse: FloatArray, p: FloatArray, images: int
) -> float:
    """The same of a true difference, for intervals that hold for all models that differ by it.

    Such models may improve few images and harm none, or improve and harm many. The interval lies
    above the truth beside some counts [improved, harmed], where p has to be below 0.05, and then
    beside more improved and fewer harmed images, too. For each of those models, all these counts
    may come in at most 7 % of data sets, together with those for which p calls the harm real, as
    these are missed anyway. Of all such sets of counts, the one is taken that comes most often in
    this cell. The same holds below the truth. There, p of the true difference has to be below 0.05,
    and where p of no difference is not, it takes a distance: with a true difference of d images
    more, no result is rarer than by the factor e^-d, and so no p is smaller by more. Exact where
    one image changes by one answer; else changes count as if they had their usual size.

    Args:
        truth: the true difference in images changed, more than 0.
        better: how many images changed toward it, (data sets,).
        worse: how many changed the other way.
        p: of no difference: below 0.5 on the side of the truth, above it on the other, so that
            the smaller of p and 1 - p is half of the p shown.
        images: in each data set.
    """
    few = np.minimum(better, MOST).astype(int), np.minimum(worse, MOST).astype(int)
    above, below = np.zeros((MOST + 1, MOST + 1)), np.zeros((MOST + 1, MOST + 1))
    np.add.at(above, few, (p < TAIL) / len(better))
    np.add.at(below, few, ((1 - p) * (1 - truth / images) ** images < TAIL) / len(better))
    models = other_models(truth, images)
    harmed = (models * harm_is_real(images)).sum(axis=(1, 2))
    missed = most_missed(models.swapaxes(1, 2), above.T, harmed) + most_missed(models, below)
    return 100 * (1 - min(missed, BUDGET))


@lru_cache
def harm_is_real(images: int) -> BoolArray:
    """Beside which counts [improved, harmed] of one size p is below 0.05 and more are harmed."""
    better, worse = (counts[..., None] for counts in np.indices((MOST + 1, MOST + 1)))
    image = np.arange(images)
    gains = np.where(image < better, 1.0, np.where(image < better + worse, -1.0, 0.0))
    differing = 1.0 * np.count_nonzero(gains, axis=-1)
    test = sign_test(gains.sum(axis=-1), gains, np.ones(differing.shape), differing)
    real: BoolArray = (test.p < 2 * TAIL) & (better < worse)[..., 0]
    return real


def other_models(truth: float, images: int) -> FloatArray:
    """Chances of [model, improved, harmed] of models with this true difference in images."""
    from scipy.stats import binom

    counts = np.arange(images + 1)[:41]
    harmed = np.linspace(0, min(8.0, (images - truth) / 2), 33)[:, None, None] / images
    first = binom.pmf(counts[:, None], images, np.minimum(truth / images + harmed, 1.0))
    left = np.maximum(1 - truth / images - harmed, 1e-12)
    rest = binom.pmf(counts, (images - counts)[:, None], np.minimum(harmed / left, 1.0))
    chances = np.nan_to_num(first * rest)
    for axis in (1, 2):  # What is more than the most counts as the most.
        chances = chances.swapaxes(1, axis)
        over = chances[:, MOST:].sum(axis=1, keepdims=True)
        chances = np.concatenate([chances[:, :MOST], over], axis=1).swapaxes(1, axis)
    found = np.zeros((len(chances), MOST + 1, MOST + 1))
    found[:, : chances.shape[1], : chances.shape[2]] = chances
    return found


def most_missed(models: FloatArray, seen: FloatArray, spent: FloatArray | float = 0.0) -> float:
    """How much of `seen` can be missed: from a number of columns on that rises with the row.

    In no model more than what is left of the budget, of which so much is `spent`. Rows from `ROWS`
    on are taken as missed.
    """
    tails = np.zeros((len(models), ROWS, MOST + 2))
    tails[..., :-1] = models[:, :ROWS, ::-1].cumsum(axis=-1)[..., ::-1]
    gains = np.zeros((ROWS + 1, MOST + 2))
    gains[:ROWS, :-1] = seen[:ROWS, ::-1].cumsum(axis=-1)[:, ::-1]
    gains[ROWS] = seen[ROWS:].sum()
    hope = gains[::-1].cumsum(axis=0)[::-1]
    best = 0.0

    def search(row: int, start: int, used: FloatArray, gained: float) -> None:
        nonlocal best
        if row == ROWS:
            best = max(best, gained + float(gains[ROWS, 0]))
            return
        for first in range(start, MOST + 2):
            if gained + hope[row, first] <= best:
                return
            after = used + tails[:, row, first]
            if after.max() <= BUDGET:
                search(row + 1, first, after, gained + float(gains[row, first]))

    search(0, 0, np.zeros(len(models)) + spent, 0.0)
    return best


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
