"""How much rounding alone may move a log-probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from veridical.models.precision import HALF

USUAL_LOGIT = 16.0
"""How large logits are in trained models, as a power of two."""


def rounding_of_logps(logps: Tensor, dtype: torch.dtype, tokens: int) -> float:
    """How much rounding alone may move the largest of some summed log-probs, in nats (our choice).

    One unit in the last place of the sum, and of each token's logits, whose errors add up like a
    random walk: what a model said itself is near to 0 nats, and no less rounded for that. A limit
    made of half precision's unit would be wider than what most faults do.

    Raises:
        ValueError: of half precision.
    """
    if dtype in HALF:
        raise ValueError(f"no limit follows from the unit of {dtype}; measure it")
    eps, steps = torch.finfo(dtype).eps, math.sqrt(max(tokens, 1))
    return eps * max(float(logps.abs().max()), 1.0, USUAL_LOGIT * steps)
