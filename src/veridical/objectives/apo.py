"""Anchored preference optimization: how both answers move, not their difference alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class APOZero(PairLoss):
    """Anchored preference optimization for chosen answers better than the model's (APO-zero).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
    """

    name: ClassVar[str] = "apo_zero"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 1.0

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta / 2

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return apo_zero_loss(*logps.branches, self.beta)


@dataclass(frozen=True)
class APODown(PairLoss):
    """Anchored preference optimization for chosen answers worse than the model's (APO-down).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
    """

    name: ClassVar[str] = "apo_down"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 1.0

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta / 2

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return apo_down_loss(*logps.branches, self.beta)


def apo_zero_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """APO-zero: the chosen answer up, the rejected one down (D'Oosterlinck et al. 2024, eq. 7).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, 1 where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    return 1 - chosen.sigmoid() + rejected.sigmoid()


def apo_down_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """APO-down: both down, the rejected answer more (D'Oosterlinck et al. 2024, eq. 8).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, 1 where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    return chosen.sigmoid() + 1 - (chosen - rejected).sigmoid()
