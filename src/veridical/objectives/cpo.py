"""Contrastive preference optimization: DPO with a reference that prefers nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class CPO(PairLoss):
    """Contrastive preference optimization (CPO).

    Attributes:
        beta: scale of the log-probabilities; 0.1 to 0.5 is usual. The paper adds `--nll-weight 1`.
    """

    name: ClassVar[str] = "cpo"
    needs_reference: ClassVar[bool] = False
    beta: Annotated[float, ABOVE_ZERO] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return cpo_loss(logps.policy[:, :1], logps.policy[:, 1:], self.beta)


def cpo_loss(chosen_logps: Tensor, rejected_logps: Tensor, beta: float) -> Tensor:
    """CPO (Xu et al. 2024, eq. 3): -log sigmoid(beta (log pi_w - log pi_l)).

    Args:
        chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        rejected_logps: the same of the rejected responses. Shape: (batch,).
        beta: scale of the reward; > 0.

    Returns:
        One loss a pair. Shape: (batch,).
    """
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps))
