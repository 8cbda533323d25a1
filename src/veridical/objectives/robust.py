"""Robust DPO: an unbiased loss under labels that are wrong at a known rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, Range


@dataclass(frozen=True)
class Robust(PairLoss):
    """Robust direct preference optimization (robust DPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        label_smoothing: probability that a pair's label is wrong.
    """

    name: ClassVar[str] = "robust"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    label_smoothing: Annotated[float, Range(0, 0.5, below=True)] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta / (1 - 2 * self.label_smoothing)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return robust_loss(*logps.branches, self.beta, self.label_smoothing)


def robust_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """DPO, unbiased where labels are wrong with a known probability (Chowdhury et al. 2024).

    ((1 - e) loss(pair) - e loss(swapped pair)) / (1 - 2 e).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    margin, e = chosen - rejected, label_smoothing
    return (e * F.logsigmoid(-margin) - (1 - e) * F.logsigmoid(margin)) / (1 - 2 * e)
