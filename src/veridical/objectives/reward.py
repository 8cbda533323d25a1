"""The Bradley-Terry loss of a reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import Described
from veridical.objectives.preference import pair_accuracy
from veridical.runtime.ranges import WEIGHT


@dataclass(frozen=True)
class BradleyTerry(Described):
    """A reward model (Bradley-Terry).

    Attributes:
        centering: weight of the term that keeps rewards around 0 (of the squared sum of a pair's
            rewards); 0 leaves it out.
    """

    name: ClassVar[str] = "bradley_terry"
    centering: Annotated[float, WEIGHT] = 0.001

    @property
    def at_start(self) -> float:
        """The loss where every reward is 0, as with a new head."""
        return math.log(2)

    def __call__(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """One loss a pair. Shape: (pairs,)."""
        return reward_loss(chosen_rewards, rejected_rewards, self.centering)

    def measures(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, Tensor]:
        """What is logged of each pair, by name. Shape of each: (pairs,)."""
        return {
            "rewards_chosen": chosen_rewards,
            "rewards_rejected": rejected_rewards,
            "rewards_margin": chosen_rewards - rejected_rewards,
            "rewards_accuracy": pair_accuracy(chosen_rewards, rejected_rewards),
        }


def reward_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, centering: float = 0.0) -> Tensor:
    """Bradley-Terry loss of a reward model (Sun et al. 2023), with a term that centers rewards.

    -log sigmoid(chosen - rejected) + centering * (chosen + rejected)^2. Differences alone leave
    open where zero is. The paper's code takes |mean of the sums over a batch|, which depends on
    the batch; a square of each pair does not (our choice).

    Args:
        chosen_rewards: Shape: (batch,).
        rejected_rewards: Shape: (batch,).
        centering: weight of the second term; 0.001 in the paper's code, for its form of it.

    Returns:
        One loss a pair, ln 2 where both rewards are 0. Shape: (batch,).
    """
    preference = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return preference + centering * (chosen_rewards + rejected_rewards).square()
