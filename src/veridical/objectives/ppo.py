"""Proximal policy optimization: tokens are actions, and a value model says what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from veridical.objectives.policy_gradient import (
    Advantages,
    KLEstimator,
    PolicyGradient,
    SampledTokens,
    Total,
    explained_variance,
    kl_terms,
    whitened,
)
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import ABOVE_ZERO, COUNT, RATE, SHARE, WEIGHT


@dataclass(frozen=True, kw_only=True)
class PPO(PolicyGradient):
    """Proximal policy optimization (PPO).

    Attributes:
        samples: responses to each prompt.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into; an epoch's last step, which may
            have fewer prompts than that, has one for each.
        clip: how far a token's probability ratio may leave 1 and still be pushed on.
        value_clip: how far a value may leave what it was.
        value_weight: of the value loss.
        value_learning_rate: of the value model; the policy's if not set.
        gamma: discount of what comes a token later.
        lam: of generalized advantage estimation.
        kl_coefficient: weight of the penalty, per nat.
        kl_estimator: `k1` (log ratio; may be negative) or `k3` (never negative, less noise).
        kl_target: nats a response that the coefficient is adapted to keep; fixed if not set.
        kl_horizon: responses after which an adaptation has worked itself out.
        stop_kl: nats a token that the policy may move within a step; beyond it the step ends. 0
            never ends one.
        one_base: let policy, reference, value and reward model be adapters of one base, where
            they are trained as such; false gives each a base of its own.
    """

    name: ClassVar[str] = "ppo"
    uses_values: ClassVar[bool] = True
    of_later_steps: ClassVar[tuple[str, ...]] = ("clip", "value_clip", "stop_kl")
    samples: Annotated[int, COUNT] = 1
    inner_epochs: Annotated[int, COUNT] = 2
    minibatches: Annotated[int, COUNT] = 2
    clip: Annotated[float, ABOVE_ZERO] = 0.2
    value_clip: Annotated[float, ABOVE_ZERO] = 0.2
    value_weight: Annotated[float, WEIGHT] = 0.1
    value_learning_rate: Annotated[float | None, RATE] = None
    gamma: Annotated[float, SHARE] = 1.0
    lam: Annotated[float, SHARE] = 1.0
    kl_coefficient: Annotated[float, WEIGHT] = 0.1
    kl_estimator: KLEstimator = "k1"
    kl_target: Annotated[float | None, ABOVE_ZERO] = None
    kl_horizon: Annotated[int, COUNT] = 10_000
    stop_kl: Annotated[float, WEIGHT] = 0.0
    one_base: bool = True

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the option.
        """
        super().check()
        if self.kl_target is not None and not self.kl_coefficient:
            raise UserError(
                "--kl-target adapts --kl-coefficient by factors, and 0 stays 0. Give it a start "
                "above 0, such as 0.1."
            )

    def advantages(self, sampled: SampledTokens, kl_coefficient: float, total: Total) -> Advantages:
        """Generalized advantage estimation over tokens, whitened over all processes."""
        kl = kl_terms(sampled.logps, sampled.reference_logps, self.kl_estimator)
        rewards = token_rewards(sampled.scores, kl, sampled.mask, kl_coefficient)
        advantages = generalized_advantages(
            rewards, sampled.values, sampled.mask, self.gamma, self.lam
        )
        returns = advantages + sampled.values
        foreseen = explained_variance(sampled.values, returns, sampled.mask, total)
        return Advantages(whitened(advantages, sampled.mask, total), returns, foreseen)

    def actions(self, logps: Tensor) -> Tensor:
        """Every token is one."""
        return logps

    def counted(self, mask: Tensor) -> Tensor:
        """Real tokens count."""
        return mask

    def value_loss(
        self, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The value model's loss, weighted and summed, and where the clipped side decided."""
        losses, clipped = clipped_value_losses(values, old_values, returns, self.value_clip)
        return self.value_weight * losses[mask].sum(), clipped

    def next_kl_coefficient(
        self, coefficient: float, measured: Mapping[str, float], responses: int
    ) -> float:
        """The penalty's weight in the next step: adapted to `kl_target` where there is one."""
        if self.kl_target is None:
            return coefficient
        moved = measured[f"kl_{self.kl_estimator}"]
        return adapted_kl_coefficient(
            coefficient, moved, self.kl_target, responses, self.kl_horizon
        )

    def moved_too_far(self, moved: float) -> bool:
        """Whether a step ends where the policy has moved so many nats a token within it."""
        return bool(self.stop_kl) and moved > self.stop_kl


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """-coefficient * KL at every token, and the score at the last real one.

    Args:
        scores: of the responses. Shape: (responses,).
        kl: from `kl_terms`. Shape: (responses, tokens).
        mask: True at real tokens, at least one a response. Shape: (responses, tokens).
        coefficient: weight of the penalty.

    Returns:
        Shape: (responses, tokens); 0 at padding.
    """
    last = mask.sum(-1, keepdim=True) - 1
    rewards = torch.where(mask, -coefficient * kl, 0.0)
    return rewards.scatter_add(-1, last, scores.to(rewards).unsqueeze(-1))


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16) over real tokens alone.

    After the last real token nothing comes: the value there is 0, whether the response ended by
    itself or was cut.

    Args:
        rewards: Shape: (responses, tokens).
        values: of the state before each token. Shape: (responses, tokens).
        mask: True at real tokens. Shape: (responses, tokens).
        gamma: discount of a reward that is one token later.
        lam: 1 takes what really came, 0 trusts the values.

    Returns:
        Shape: (responses, tokens); 0 at padding. The returns are these plus the values.
    """
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])
    columns = []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * lam * following, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], 0.0)
        columns.append(following)
    return torch.stack(columns[::-1], dim=-1)


def clipped_value_losses(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error of a value that may leave its old one by `clip` only.

    Returns:
        Losses, and where the clipped side decided. The given shape.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    plain, clipped = (values - returns).square(), (near - returns).square()
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def adapted_kl_coefficient(
    coefficient: float, kl: float, target: float, responses: int, horizon: int
) -> float:
    """The adaptive penalty's next weight (Ziegler et al. 2019, section 2.2).

    Args:
        coefficient: now.
        kl: what was measured, in nats a response.
        target: what is wanted, in nats a response.
        responses: that this step had.
        horizon: responses after which an error of 20 % has been answered in full by 20 %.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * responses / horizon)
