"""SimPO: the mean log-probability of a token as the reward, without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, WEIGHT


@dataclass(frozen=True)
class SimPO(PairLoss):
    """Simple preference optimization (SimPO).

    Attributes:
        beta: scale of the mean log-probabilities; 2 to 10 in the paper.
        target_margin: the reward by which the chosen answer is to be ahead, as a share of beta.
    """

    name: ClassVar[str] = "simpo"
    needs_reference: ClassVar[bool] = False
    averages_tokens: ClassVar[bool] = True
    beta: Annotated[float, ABOVE_ZERO] = 2.0
    target_margin: Annotated[float, WEIGHT] = 0.5

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        means = self.as_read(logps).policy
        return simpo_loss(means[:, :1], means[:, 1:], self.beta, self.target_margin)


def simpo_loss(
    chosen_means: Tensor, rejected_means: Tensor, beta: float, target_margin: float
) -> Tensor:
    """SimPO (Meng et al. 2024, eq. 6): -log sigmoid(beta (mean_w - mean_l) - gamma).

    Args:
        chosen_means: log-probability a token of the chosen responses. Shape: (batch,).
        rejected_means: the same of the rejected responses. Shape: (batch,).
        beta: scale of the reward; > 0.
        target_margin: gamma / beta.

    Returns:
        One loss a pair. Shape: (batch,).
    """
    return -F.logsigmoid(beta * (chosen_means - rejected_means - target_margin))
