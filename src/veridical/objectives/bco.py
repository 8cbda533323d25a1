"""Binary classifier optimization of a pair: is an answer good, is the other bad."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO, ANY


@dataclass(frozen=True)
class BCO(PairLoss):
    """Binary classifier optimization (BCO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        reward_shift: the reward between good and bad answers: a number (TRL has 0), or `running`,
            the mean reward of all steps before (as in BCO's paper and InternVL).
    """

    name: ClassVar[str] = "bco"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    reward_shift: Annotated[float | Literal["running"], ANY] = 0.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree; no step was before."""
        shift = 0.0 if self.reward_shift == "running" else self.reward_shift
        return -_log_sigmoid(-shift) - _log_sigmoid(shift)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * 2

    @property
    def follows_rewards(self) -> bool:
        """Whether it reads the mean reward of the steps before."""
        return self.reward_shift == "running"

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        running = self.beta * logps.mean_log_ratio
        shift = running if self.reward_shift == "running" else self.reward_shift
        return bco_loss(*logps.branches, self.beta, shift)


def bco_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    reward_shift: float = 0.0,
) -> Tensor:
    """Binary classifier optimization on a pair (Jung et al. 2024), the quality term of MPO.

    S(r_w - d) + S(d - r_l) with S(r) = -log sigmoid(r).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        reward_shift: the reward that divides good from bad answers.

    Returns:
        One loss a pair, 2 ln 2 at shift 0 where policy and reference agree. Shape: (batch,).
    """
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    return -F.logsigmoid(chosen - reward_shift) - F.logsigmoid(reward_shift - rejected)


def _log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))
