"""Odds ratio preference optimization: odds of a token instead of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class ORPO(PairLoss):
    """Odds ratio preference optimization (ORPO).

    Attributes:
        beta: weight of the odds ratio, the paper's lambda; 0.1 to 0.5 is usual. The paper adds
            `--nll-weight 1`.
    """

    name: ClassVar[str] = "orpo"
    needs_reference: ClassVar[bool] = False
    averages_tokens: ClassVar[bool] = True
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        means = self.as_read(logps).policy
        return orpo_loss(means[:, :1], means[:, 1:], self.beta)


def orpo_loss(chosen_means: Tensor, rejected_means: Tensor, beta: float) -> Tensor:
    """ORPO's odds ratio (Hong et al. 2024, eq. 6, 7): -beta log sigmoid(log odds_w - log odds_l).

    The odds of an answer are p / (1 - p), with p its likelihood, averaged over tokens (in logs).

    Args:
        chosen_means: log-probability a token of the chosen responses, below 0. Shape: (batch,).
        rejected_means: the same of the rejected responses. Shape: (batch,).
        beta: weight of the loss; > 0.

    Returns:
        One loss a pair. Shape: (batch,).
    """
    return -beta * F.logsigmoid(_log_odds(chosen_means) - _log_odds(rejected_means))


def _log_odds(log_probability: Tensor) -> Tensor:
    # Of a certain answer the odds are infinite; as in half precision, a log-prob of 0 may be met.
    eps = torch.finfo(log_probability.dtype).eps
    return log_probability - torch.log(-torch.expm1(log_probability.clamp(max=-eps)))
