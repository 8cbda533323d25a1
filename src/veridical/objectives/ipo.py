"""Identity preference optimization: a squared distance from a fixed margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class IPO(PairLoss):
    """Identity preference optimization (IPO).

    Attributes:
        beta: the paper's tau: the margin aimed at is 1 / (2 beta); near 1 is usual, with
            `--per-token true`.
    """

    name: ClassVar[str] = "ipo"
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 1 / (4 * self.beta**2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return 1 / self.beta

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return ipo_loss(*logps.branches, self.beta)


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Identity preference optimization (Azar et al. 2023, eq. 17): (h - 1 / (2 beta))^2.

    h is the difference of the two log-ratios. It grows with the answers' length, and so does what
    is asked of it; divide all four log-probs by their answers' lengths first where that is not
    wanted (as the authors did, and TRL does).

    Args:
        policy_chosen_logps: log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: the paper's tau; > 0. The margin aimed at is 1 / (2 beta).

    Returns:
        One loss a pair, 1 / (4 beta^2) where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)).square()
