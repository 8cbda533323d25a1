"""Direct preference optimization: the logistic loss of a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, Range


@dataclass(frozen=True)
class DPO(PairLoss):
    """Direct preference optimization (DPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        label_smoothing: probability that a pair's label is wrong (conservative DPO).
    """

    name: ClassVar[str] = "dpo"
    uses_beta_factors: ClassVar[bool] = True
    uses_weights: ClassVar[bool] = True
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    label_smoothing: Annotated[float, Range(0, 0.5, below=True)] = 0.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        return dpo_loss(*logps.branches, logps.scaled(self.beta), self.label_smoothing)


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float | Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimization, sigmoid form (Rafailov et al. 2023; Amirloo et al. eq. 3).

    With `label_smoothing` e the preference is taken to be wrong with probability e and the loss
    is (1 - e) * loss(pair) + e * loss(swapped pair) (conservative DPO, Mitchell 2023).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0; a number, or one for each pair.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    logits = beta * (chosen_logratios - rejected_logratios)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
