"""How far apart the logits of two ways to compute them may be, before one of them is wrong."""

from __future__ import annotations

import math

EXACT = 1e-3
"""In float32 and float64, how far apart logits may be, in units of their own spread (our choice;
tiny models of all tested families are below 1e-5)."""

NEAR = 0.1
"""In half precision, how near logits must be, as a share of how far a fault moves them that is made
on purpose (our choice; tiny models of tested families: below 0.08)."""

FLOORS = 4.0
"""How many times the difference of two stock paths may be taken for rounding (our choice)."""

ROUNDING = 0.3
"""The largest difference of two stock paths, in units of the logits' spread, that is taken for
rounding (our choice; half precision of running states makes 0.18): above it they differ."""


def rounding(floor: float) -> float:
    """What is taken for rounding where two stock paths are `floor` apart; 0 where they differ."""
    return FLOORS * floor if floor <= ROUNDING else 0.0


def allowed(half: bool, floor: float, moved: float, most: float = math.inf) -> float:
    """How far apart logits may be, in units of their spread.

    Args:
        half: whether the weights are in half precision.
        floor: how far apart two stock paths are.
        moved: how far a fault moves them that is made on purpose.
        most: what may be taken for rounding at most.
    """
    return max(NEAR * moved, min(rounding(floor), most)) if half else EXACT
