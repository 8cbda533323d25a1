"""The loss of a reward model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
