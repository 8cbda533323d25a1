"""Alignment by optimal transport: distributions of margins instead of single pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, Range


@dataclass(frozen=True)
class AOT(PairLoss):
    """Alignment by optimal transport of a batch of pairs (AOT).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        label_smoothing: probability that a pair's label is wrong.
    """

    name: ClassVar[str] = "aot"
    over_batch: ClassVar[bool] = True
    reads_batch: ClassVar[str] = "sorts the pairs of a batch"
    batch_of_one: ClassVar[str] = "it is DPO. Set a larger --batch-size, or dpo in its place."
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    label_smoothing: Annotated[float, Range(0, 0.5, below=True)] = 0.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer, in order of the margins: (pairs, rejected)."""
        better, worse, old_better, old_worse = logps.branches
        return aot_loss(better - worse, old_better - old_worse, self.beta, self.label_smoothing)


@dataclass(frozen=True)
class UnpairedAOT(AOT):
    """Alignment by optimal transport of chosen against rejected answers (AOT, unpaired)."""

    name: ClassVar[str] = "aot_unpaired"

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer, in order of the ratios: (pairs, rejected)."""
        better, worse, old_better, old_worse = logps.branches
        chosen = (better - old_better).expand_as(worse)
        return aot_loss(chosen, worse - old_worse, self.beta, self.label_smoothing)


def aot_loss(above: Tensor, below: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Stochastic dominance of one batch of numbers over another (Melnyk et al. 2024).

    Both are sorted, and the i-th of the first is compared with the i-th of the second by the
    logistic loss. Paired AOT compares log pi_w - log pi_l with the same of the reference, unpaired
    AOT the log-ratios of chosen answers with those of rejected ones.

    Args:
        above: what is to be larger. Shape: (batch, k).
        below: what it is compared with. Shape: (batch, k).
        beta: scale of the difference; > 0.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        One loss for each rank. Shape: (batch, k).
    """
    logits = beta * (above.sort(0).values - below.sort(0).values)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
