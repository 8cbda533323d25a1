"""Noise contrastive alignment: each answer's likelihood, not their difference alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class NCA(PairLoss):
    """Noise contrastive alignment (NCA).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
    """

    name: ClassVar[str] = "nca"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 2 * math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta / 2

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return nca_loss(*logps.branches, self.beta)


def nca_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Noise contrastive alignment of a pair (Chen et al. 2024).

    S(r_w) + (S(-r_w) + S(-r_l)) / 2 with S(r) = -log sigmoid(r).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, 2 ln 2 where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    of_both = F.logsigmoid(-chosen) + F.logsigmoid(-rejected)
    return -F.logsigmoid(chosen) - 0.5 * of_both
