"""The test of a paired difference: signs flipped image by image, and the interval it inverts.

If two models are equally good, each image may as well have had them the other way round, which
flips the sign of what it adds to the difference. p is the share of sign patterns with a larger
difference either way; of those with the same difference, half (the mid-p, as in McNemar's test:
Fagerland, Lydersen and Laake 2013). It is exact up to `COUNTED` differing images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from veridical.scoring.statistics.intervals import HALVINGS, NORMAL, quantile
from veridical.scoring.statistics.one_way import share_excluded
from veridical.scoring.statistics.sums import FloatArray, ratio

# So many images, those that move the value most, have their signs counted out; what the others
# add is nearly normal.
COUNTED = 8
# With fewer, no test can call the models different: see `least_p`.
FEWEST_DIFFERING = 4
# Our choices, measured: the weight of the assumed size of a change where some were seen, and how
# much of the variance counts that a difference not seen would bring (1 is Tango's score interval,
# whose far end is too wide for few changes).
PRIOR = 0.25
UNSEEN = 0.8
# A sum of d changes of one size has steps; in the mid-p these add a third of a change to d.
STEP = 1 / 3
# However regular the changes, the interval is not made narrower than this share of Tango's (ours,
# measured), unless p demands it: changes far smaller than an event hide the events not seen. Of so
# few images the share rises to 1 where all of them change; else it would miss up to 11 %.
LEAST_SCALE = 0.85
FEW_IMAGES = 10
# Relative: sums this close are equal but for rounding.
SAME = 1e-9


@dataclass(frozen=True)
class Test:
    """A difference's interval, and the p of the test that it inverts; any shape."""

    low: FloatArray
    high: FloatArray
    p: FloatArray


@dataclass(frozen=True)
class _Changes:
    """What the interval is made of.

    Attributes:
        value: the difference, made positive.
        squares: of what the images add to it, summed.
        size: of one change.
        clusters: how many images there are.
    """

    value: FloatArray
    squares: FloatArray
    size: FloatArray
    clusters: int

    def variance(self, truth: FloatArray) -> FloatArray:
        """Of the value, were this the true difference; the larger of two.

        One is Student's, in which every image moves alike. The other counts changes that come
        rarely (Tango's score interval, 1998): those up and down are as likely as they can be
        where they differ by `truth`.
        """
        freedom = 1 / NORMAL**2 - (1 - 1 / self.clusters) / quantile(self.clusters) ** 2
        alike = self.squares - self.value**2 / self.clusters + freedom * (self.value - truth) ** 2
        number = ratio(self.squares, self.size**2)
        net, wanted = ratio(self.value, self.size), np.abs(ratio(truth, self.size))
        against = np.maximum(number - np.where(truth > 0, net, -net), 0.0) / 2
        middle = number - 2 * wanted
        rarer = (middle + np.sqrt(middle**2 + 8 * against * wanted)) / 4
        rare = self.size**2 * (2 * rarer + wanted) - truth**2 / self.clusters
        rare = self.squares + UNSEEN * (rare - self.squares)
        variance: FloatArray = np.fmax(alike, rare) + STEP * self.size**2
        return variance


def sign_test(
    value: FloatArray, gains: FloatArray, event: FloatArray, differing: FloatArray
) -> Test:
    """The test of a difference: p and the interval agree about 0.

    Args:
        value: the difference.
        gains: what each cluster adds to it, (..., clusters); flipping signs swaps the models.
        event: how far a change in one cluster moves it, where none was seen.
        differing: in how many clusters the two are not the same.
    """
    # Of metrics whose gains are not exact, an unchanged image can have a little one.
    floor = 0.5**differing
    p = np.maximum(sign_p(gains), floor)
    p = np.where(p <= floor * (1 + SAME), least_p(differing, gains.shape[-1]), p)
    squares, cubes = (gains**2).sum(axis=-1), (np.abs(gains) ** 3).sum(axis=-1)
    size = ratio(cubes + PRIOR * event**3, squares + PRIOR * event**2)
    changes = _Changes(np.abs(value), squares, size, gains.shape[-1])
    score = np.abs(value) / np.sqrt(changes.variance(np.zeros(np.shape(value))))
    deviate = -scipy.special.ndtri(np.clip(p, 1e-300, 1.0) / 2)
    scale = np.where((deviate > 1) & (p > 1e-5), score / np.maximum(deviate, 1.0), 1.0)
    changed = (differing / gains.shape[-1]) ** 2 * min(FEW_IMAGES / gains.shape[-1], 1.0)
    scale = np.maximum(scale, LEAST_SCALE + (1 - LEAST_SCALE) * changed)
    # The interval leaves out 0 exactly if p is below 0.05.
    edge = score / NORMAL
    scale = np.where(
        p < 0.05, np.minimum(scale, edge * (1 - SAME)), np.maximum(scale, edge * (1 + SAME))
    )
    near = _reach(changes, NORMAL * scale, -1)
    far = _reach(changes, NORMAL * np.maximum(scale, 1.0), 1)
    zero = np.abs(value)
    # An end that is never farther: few changes, all one way, say more than the variance does.
    same_way = value * gains.sum(axis=-1) > 0
    inside = zero * np.minimum(1 - SAME, 1 - np.where(same_way, share_excluded(gains), 0.0))
    near = np.where(p < 0.05, np.minimum(near, inside), np.maximum(near, zero))
    below, above = np.where(value < 0, far, near), np.where(value < 0, near, far)
    return Test(value - below, value + above, p)


def least_p(differing: FloatArray, images: int) -> FloatArray:
    """The p of images that differ if all of them change one way.

    It is the mid-p, 2^-differing, but of four images. Their mid-p of 1/16 supposes that exactly
    four had to differ. In other data sets the number differs, binomially. The average over it is
    the unconditional p at the share of images seen to differ (Storer and Kim 1990), with the mid-p
    as the statistic (as in Boschloo's test) and changes of one size; it is below 0.05 from ten
    images on. If three were enough, equal models would have a p below 0.05 in over 6 % of cases.
    """
    return np.where(differing == FEWEST_DIFFERING, _p_of_four(images), 0.5**differing)


@lru_cache
def _p_of_four(images: int) -> float:
    """The chance of a mid-p of at most 1/16 if four images differ on average."""
    if images <= FEWEST_DIFFERING:
        return 0.5**FEWEST_DIFFERING
    # That more than 40 differ has a chance below 1e-25.
    numbers = np.arange(FEWEST_DIFFERING, min(images, 40) + 1)
    against = np.arange(len(numbers) + 1)[:, None]
    below = scipy.special.bdtr(np.minimum(against, numbers), numbers, 0.5)
    at = np.diff(below, axis=0, prepend=0.0)
    unusual = 2 * below * (2 * below - at <= 0.5**FEWEST_DIFFERING * (1 + SAME))
    share = FEWEST_DIFFERING / images
    chances = np.diff(scipy.special.bdtr([FEWEST_DIFFERING - 1, *numbers], images, share))
    return min(float(chances @ unusual.max(axis=0)), 0.5**FEWEST_DIFFERING)


def sign_p(gains: FloatArray) -> FloatArray:
    """The two-sided mid-p of the sum of `gains` among all sums with other signs."""
    sizes = np.abs(gains)
    counted = min(COUNTED, sizes.shape[-1])
    cut = sizes.shape[-1] - counted
    sizes = np.partition(sizes, cut, axis=-1) if cut else sizes
    largest, rest = sizes[..., cut:], sizes[..., :cut]
    most = sizes.max(axis=-1)
    # The step of the largest of the rest, see STEP; what changed by rounding only is none.
    variance = (rest**2).sum(axis=-1) + STEP * rest.max(axis=-1, initial=0.0) ** 2
    variance = np.where(variance > (SAME * most) ** 2, variance, 0.0)
    patterns = 1.0 - 2 * ((np.arange(2**counted)[:, None] >> np.arange(counted)) & 1)
    gaps = np.abs(gains.sum(axis=-1))[..., None] - largest @ patterns.T
    tails = 2 * _beyond(gaps, np.sqrt(variance)[..., None], SAME * most[..., None])
    p: FloatArray = np.minimum(tails.mean(axis=-1), 1.0)
    return p


def _beyond(gap: FloatArray, spread: FloatArray, same: FloatArray) -> FloatArray:
    """The chance that a normal variable with this spread exceeds the gap; of a tie, half."""
    steps = np.where(np.abs(gap) <= same, 0.5, 1.0 * (gap < 0))
    normal = scipy.special.ndtr(-gap / np.where(spread > 0, spread, 1.0))
    return np.where(spread > 0, normal, steps)


def _reach(changes: _Changes, width: FloatArray, side: int) -> FloatArray:
    """How far from the value a true difference may lie, in `width` standard errors."""
    near = np.zeros(np.shape(changes.value))
    # Few images leave the variance so uncertain that there may be no end: then a far one.
    far = near + 50 * (np.sqrt(changes.squares) + changes.size)
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        inside = middle**2 <= width**2 * changes.variance(changes.value + side * middle)
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return near
