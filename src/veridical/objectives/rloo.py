"""REINFORCE, leave one out: a response is one action, and its siblings say what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from veridical.objectives.policy_gradient import (
    Advantages,
    PolicyGradient,
    SampledTokens,
    Total,
    explained_variance,
    kl_terms,
    without_mean,
)
from veridical.runtime.ranges import ABOVE_ZERO, COUNT, WEIGHT, Range


@dataclass(frozen=True, kw_only=True)
class RLOO(PolicyGradient):
    """REINFORCE with a leave-one-out baseline (RLOO).

    Attributes:
        samples: responses to each prompt, at least 2.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into; an epoch's last step, which may
            have fewer prompts than that, has one for each.
        clip: how far a response's probability ratio may leave 1 and still be pushed on; in the
            first pass, which is the only one by default, it is 1.
        kl_coefficient: weight of the penalty, per nat of a response's log-ratio.
    """

    name: ClassVar[str] = "rloo"
    uses_values: ClassVar[bool] = False
    samples: Annotated[int, Range(2)] = 4
    inner_epochs: Annotated[int, COUNT] = 1
    minibatches: Annotated[int, COUNT] = 1
    clip: Annotated[float, ABOVE_ZERO] = 0.2
    kl_coefficient: Annotated[float, WEIGHT] = 0.4

    def advantages(self, sampled: SampledTokens, kl_coefficient: float, total: Total) -> Advantages:
        """What a response earned, less the penalty, against the mean of its siblings."""
        kl = kl_terms(sampled.logps, sampled.reference_logps, "k1").sum(-1)
        earned = sampled.scores - kl_coefficient * kl.to(sampled.scores)
        by_prompt = earned.view(-1, self.samples)
        advantages = leave_one_out_advantages(by_prompt).flatten()
        expected = by_prompt.flatten() - advantages
        everything = torch.ones_like(earned, dtype=torch.bool)
        foreseen = explained_variance(expected, earned, everything, total)
        return Advantages(advantages, None, foreseen)

    def actions(self, logps: Tensor) -> Tensor:
        """Every response is one."""
        return logps.sum(-1)

    def counted(self, mask: Tensor) -> Tensor:
        """Every response counts."""
        return torch.ones(len(mask), dtype=torch.bool, device=mask.device)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024, eq. 10): each response against the mean of its siblings.

    Args:
        rewards: of k responses to each prompt, k at least 2. Shape: (prompts, k).

    Returns:
        Shape: (prompts, k); each row adds up to 0, and is 0 where all rewards of it are equal.
    """
    k = rewards.shape[-1]
    return without_mean(rewards) * (k / (k - 1))
