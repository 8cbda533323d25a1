"""DiscoPOP: a loss that a language model found, between the logistic and the exponential one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class DiscoPOP(PairLoss):
    """Discovered preference optimization (DiscoPOP, log-ratio modulated loss).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        blend_width: how far from 0 the margin goes over from one loss to the other; the paper's
            tau.
    """

    name: ClassVar[str] = "discopop"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    blend_width: Annotated[float, ABOVE_ZERO] = 0.05

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return (math.log(2) + 1) / 2

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * (0.75 + (1 - math.log(2)) / (4 * self.blend_width))

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return discopop_loss(*logps.branches, self.beta, self.blend_width)


def discopop_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    blend_width: float,
) -> Tensor:
    """DiscoPOP's log-ratio modulated loss (Lu et al. 2024, eq. 5).

    (1 - g) (-log sigmoid(m)) + g exp(-m) with g = sigmoid(m / tau) of the margin m.

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        blend_width: tau; > 0.

    Returns:
        One loss a pair, (ln 2 + 1) / 2 where policy and reference agree. Shape: (batch,).
    """
    chosen = policy_chosen_logps - reference_chosen_logps
    margin = beta * (chosen - (policy_rejected_logps - reference_rejected_logps))
    blend = torch.sigmoid(margin / blend_width)
    # Far below 0 the blend is 0, and 0 times infinity is not a loss.
    most = math.log(torch.finfo(margin.dtype).max / 4)
    exponential = torch.exp((-margin).clamp(max=most))
    return (1 - blend) * -F.logsigmoid(margin) + blend * exponential
