"""Self-play preference optimization: squared distance of each log-ratio from its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class SPPO(PairLoss):
    """Self-play preference optimization (SPPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
    """

    name: ClassVar[str] = "sppo"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 1 / (2 * self.beta**2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return 2 / self.beta

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return sppo_loss(*logps.branches, self.beta)


def sppo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Self-play preference optimization with hard labels (Wu et al. 2024, eq. 4.7).

    (h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2 of the log-ratios h.

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, 1 / (2 beta^2) where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    return (chosen - 0.5) ** 2 / beta**2 + (rejected + 0.5) ** 2 / beta**2
