"""Exact optimization: reverse KL divergence from the preference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, Range


@dataclass(frozen=True)
class EXO(PairLoss):
    """Exact optimization (EXO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        label_smoothing: probability of the rejected answer in the target; above 0.
    """

    name: ClassVar[str] = "exo"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    label_smoothing: Annotated[float, Range(0, 0.5, above=True, below=True)] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return -math.log(2) - 0.5 * math.log(self.label_smoothing * (1 - self.label_smoothing))

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * math.log(1 / self.label_smoothing - 1) / 2

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return exo_loss(*logps.branches, self.beta, self.label_smoothing)


def exo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """Exact optimization of a pair (Ji et al. 2024, eq. 16).

    KL(q || p) with q = (sigmoid(m), sigmoid(-m)) of the margin m, and p = (1 - e, e).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        label_smoothing: probability of the rejected answer in the target, in (0, 0.5).

    Returns:
        One loss a pair, KL of even odds where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    margin, e = chosen - rejected, label_smoothing
    for_chosen = margin.sigmoid() * (F.logsigmoid(margin) - math.log1p(-e))
    return for_chosen + (-margin).sigmoid() * (F.logsigmoid(-margin) - math.log(e))
