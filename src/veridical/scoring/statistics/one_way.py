"""What a few changes, all of them one way, show of a difference: an exact test of their number.

That nothing changed, or that more got worse, is nothing unusual beside a true difference of one or
two images for the better. So an interval can miss that difference on one side only, and all of the
5 % belong there (acceptability: Blaker 2000). Neither SciPy nor statsmodels has such an interval of
paired data; Barnard's and Boschloo's tests in SciPy compare independent groups.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

from veridical.scoring.statistics.intervals import HALVINGS
from veridical.scoring.statistics.sums import LEVEL, FloatArray, ratio

# Fewer changes never call two models different, and more allow no more than so many do.
FEWEST, MOST = 4, 7
# How many images change the other way, on average: the values that are tried. The chance that
# counts is largest at one or two.
AGAINST = np.linspace(0.0, 4.0, 81)
# Relative: what goes the other way by less is rounding.
SAME = 1e-6


def share_excluded(gains: FloatArray) -> FloatArray:
    """Which share of the difference seen is the smallest that the changes allow, from 0 below 1.

    0 where some changes go the other way. Changes of unlike sizes count as the fewer that have the
    same sum and sum of squares (Kish's effective number).

    Args:
        gains: what each image adds to the difference, (..., images).
    """
    floor = SAME * np.abs(gains).max(axis=-1, keepdims=True)
    one_way = np.any(gains > floor, axis=-1) != np.any(gains < -floor, axis=-1)
    number = np.where(one_way, ratio(gains.sum(axis=-1) ** 2, (gains**2).sum(axis=-1)), 0.0)
    counted = np.clip(np.floor(number * (1 + SAME)), 0, MOST).astype(int)
    excluded: FloatArray = np.array(_all_excluded(gains.shape[-1]))[counted]
    return excluded / np.maximum(number, FEWEST)


@lru_cache
def _all_excluded(images: int) -> tuple[float, ...]:
    """By how many images two models differ at least, of 0 to `MOST` changes one way."""
    few = min(images, MOST) + 1
    found = [_excluded(changes, images) for changes in range(FEWEST, few)]
    return tuple(([0.0] * FEWEST + found + [0.0] * MOST)[: MOST + 1])


def _excluded(changes: int, images: int) -> float:
    """The largest true difference beside which so many changes one way are unusual, in images.

    At most the one beside which no change at all is unusual, as then there are two sides again.
    """
    low, high = 0.0, images * (1 - (1 - LEVEL) ** (1 / images))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        unusual = chance_one_way(changes, images, middle) <= 1 - LEVEL
        low, high = (middle, high) if unusual else (low, middle)
    return low


def chance_one_way(changes: int, images: int, difference: float) -> float:
    """The largest chance that so many images change or more, and all of them one way.

    Args:
        changes: how many images.
        images: in all.
        difference: how many more get better than worse, on average.
    """
    against = AGAINST[difference + 2 * AGAINST <= images] / images
    towards = against + difference / images
    either = [
        (1 - other) ** images
        * scipy.special.bdtrc(changes - 1, images, np.minimum(way / np.maximum(1 - other, way), 1))
        for way, other in ((towards, against), (against, towards))
    ]
    return float(np.max(either[0] + either[1]))
