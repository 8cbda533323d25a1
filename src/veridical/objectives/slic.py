"""Sequence likelihood calibration: a hinge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class SLiC(PairLoss):
    """Sequence likelihood calibration (SLiC).

    Attributes:
        beta: the margin asked for is 1 / beta nats; 0.02 to 0.2 is usual.
    """

    name: ClassVar[str] = "slic"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 1.0

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return slic_loss(*logps.branches, self.beta)


def slic_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Sequence likelihood calibration's hinge, against a reference (Zhao et al. 2023).

    max(0, 1 - beta h), with h the difference of the two log-ratios: the form in which TRL and
    Amirloo et al. 2024 compare it with DPO.

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: the margin asked for is 1 / beta nats; > 0.

    Returns:
        One loss a pair, 1 where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    return F.relu(1 - beta * (chosen_logratios - rejected_logratios))
