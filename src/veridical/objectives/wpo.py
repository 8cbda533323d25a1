"""WPO: pairs that the policy would hardly say itself count less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps
from veridical.objectives.dpo import DPO


@dataclass(frozen=True)
class WPO(DPO):
    """Weighted preference optimization (WPO)."""

    name: ClassVar[str] = "wpo"
    # A weighed part is not part of the distribution that an answer is drawn from.
    uses_weights: ClassVar[bool] = False
    needs_squares: ClassVar[bool] = True

    @property
    def at_start(self) -> float | None:  # type: ignore[override]
        """It depends on the rows."""
        return None

    def with_known_start(self) -> DPO:
        """Without the weights."""
        return DPO(self.beta, self.label_smoothing)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer; held-out rows have no weights, and DPO's loss.

        Shape: (pairs, rejected).
        """
        weights = logps.policy_weights
        loss: Tensor = super().__call__(logps)
        return loss if weights is None else weights[:, :1] * weights[:, 1:] * loss


def policy_weights(logps: Tensor, log_squares: Tensor, token_counts: Tensor) -> Tensor:
    """How likely the policy is to say an answer, per token and aligned (Zhou et al. 2024, WPO).

    exp of the mean over tokens of log pi(token) - log sum pi^2, the second being the expected
    probability of a token that the policy draws: so answers that it samples have weight near 1.
    As TRL's `use_weighting`. Without gradient.

    Args:
        logps: summed over each answer's tokens. Shape: (pairs, k).
        log_squares: the same of log sum pi^2. Shape: (pairs, k).
        token_counts: lengths in tokens. Shape: (pairs, k).
    """
    return ((logps - log_squares).detach() / token_counts).exp()
