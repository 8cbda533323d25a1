"""Group relative policy optimization: each response against the others to its prompt, by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from veridical.objectives.policy_gradient import (
    Advantages,
    PolicyGradient,
    SampledTokens,
    ScoredTokens,
    Total,
    clipped_losses_of_ratios,
    explained_variance,
    kl_terms,
    without_mean,
)
from veridical.runtime.ranges import ABOVE_ZERO, COUNT, WEIGHT, Range

Average = Literal["responses", "tokens", "limit"]
Ratio = Literal["token", "response"]

NEAR_ZERO = 1e-4
"""Added to a group's deviation, so that rounding is not blown up to an advantage (as in TRL)."""
SAME_REWARD = 1e-6
"""Rewards of a group that differ by less, relative to the largest, are equal: what float32 leaves
of the same number (our choice)."""


@dataclass(frozen=True, kw_only=True)
class GRPO(PolicyGradient):
    """Group relative policy optimization (GRPO).

    With other options it is Dr. GRPO (`--divide-by-deviation false --average limit
    --kl-coefficient 0`), DAPO (`--minibatches 4 --clip-high 0.28 --average tokens --skip-equal true
    --kl-coefficient 0 --overlong-penalty 1 --no-end-penalty 0`) or GSPO (`--minibatches 4 --ratio
    response --clip 3e-4 --clip-high 4e-4 --kl-coefficient 0`).

    Attributes:
        samples: responses to each prompt, at least 2.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into; an epoch's last step, which may
            have fewer prompts than that, has one for each.
        clip: how far below 1 a probability ratio may go and still be pushed on; in the first
            optimizer step of a pass, which is the only one by default, it is 1.
        clip_high: how far above 1; as far as below if not set.
        kl_coefficient: weight of the penalty in the loss, per nat of a token (k3).
        divide_by_deviation: divide advantages by the standard deviation of the rewards of the
            prompt's responses.
        average: of the losses of tokens: `responses`, the mean of each response, then of all
            responses; `tokens`, of all tokens alike; `limit`, their sum divided by the number of
            responses and by `--max-new-tokens`.
        ratio: of probabilities, which is clipped: of each `token`, or of the whole `response`, to
            the power of 1 / its tokens.
        skip_equal: leave out prompts whose responses all earned the same. They are not replaced.
    """

    name: ClassVar[str] = "grpo"
    uses_values: ClassVar[bool] = False
    of_later_steps: ClassVar[tuple[str, ...]] = ("clip", "clip_high", "ratio")
    samples: Annotated[int, Range(2)] = 8
    inner_epochs: Annotated[int, COUNT] = 1
    minibatches: Annotated[int, COUNT] = 1
    clip: Annotated[float, ABOVE_ZERO] = 0.2
    clip_high: Annotated[float | None, ABOVE_ZERO] = None
    kl_coefficient: Annotated[float, WEIGHT] = 0.04
    divide_by_deviation: bool = True
    average: Average = "responses"
    ratio: Ratio = "token"
    skip_equal: bool = False

    def advantages(self, sampled: SampledTokens, kl_coefficient: float, total: Total) -> Advantages:
        """What a response earned against its group; the same at each of its tokens."""
        by_prompt = sampled.scores.view(-1, self.samples)
        advantages = group_advantages(by_prompt, self.divide_by_deviation).flatten()
        expected = by_prompt.mean(-1, keepdim=True).expand_as(by_prompt).flatten()
        everything = torch.ones_like(sampled.scores, dtype=torch.bool)
        foreseen = explained_variance(expected, sampled.scores, everything, total)
        by_token = advantages.unsqueeze(-1).expand_as(sampled.mask)
        return Advantages(torch.where(sampled.mask, by_token, 0.0), None, foreseen)

    def actions(self, logps: Tensor) -> Tensor:
        """Every token is one."""
        return logps

    def counted(self, mask: Tensor) -> Tensor:
        """Real tokens count."""
        return mask

    def divisor(self, mask: Tensor) -> Tensor:
        """Tokens, or responses."""
        return mask.sum() if self.average == "tokens" else mask.any(-1).sum()

    def policy_losses(
        self, tokens: ScoredTokens, advantages: Tensor, kl_coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """What each token adds to the loss, the penalty included, and where clipping decided."""
        log_ratio = tokens.logps - tokens.old_logps
        lengths = tokens.mask.sum(-1, keepdim=True).clamp(min=1)
        if self.ratio == "response":
            own = torch.where(tokens.mask, log_ratio, 0.0)
            log_ratio = (own.sum(-1, keepdim=True) / lengths).expand_as(log_ratio)
        high = self.clip if self.clip_high is None else self.clip_high
        losses, clipped = clipped_losses_of_ratios(log_ratio.exp(), advantages, self.clip, high)
        if kl_coefficient:
            losses = losses + kl_coefficient * kl_terms(tokens.logps, tokens.reference_logps, "k3")
        if self.average == "responses":
            losses = losses / lengths
        elif self.average == "limit":
            losses = losses / tokens.limit
        return losses, clipped

    def learned_from(self, scores: Tensor) -> Tensor:
        """Which prompts' responses are: with `skip_equal` those that earned different rewards."""
        by_prompt = scores.view(-1, self.samples)
        return ~equal_rewards(by_prompt) if self.skip_equal else super().learned_from(scores)


def group_advantages(rewards: Tensor, divide_by_deviation: bool) -> Tensor:
    """Rewards less the mean of the group, divided by its deviation (DeepSeekMath, section 4.1.2).

    The deviation is that of a sample (k - 1), which the paper leaves open. Without it: Dr. GRPO
    (Liu et al. 2025).

    Args:
        rewards: of k responses to each prompt, k at least 2. Shape: (prompts, k).
        divide_by_deviation: whether to.

    Returns:
        Shape: (prompts, k); each row adds up to 0, and is 0 where `equal_rewards`.
    """
    centered = torch.where(equal_rewards(rewards).unsqueeze(-1), 0.0, without_mean(rewards))
    if not divide_by_deviation:
        return centered
    return centered / (rewards.std(-1, keepdim=True) + NEAR_ZERO)


def equal_rewards(rewards: Tensor) -> Tensor:
    """Which groups earned the same with every response, so that none is better than another.

    Args:
        rewards: Shape: (prompts, k).

    Returns:
        Shape: (prompts,).
    """
    spread = rewards.amax(-1) - rewards.amin(-1)
    return spread <= SAME_REWARD * rewards.abs().amax(-1)
