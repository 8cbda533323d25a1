"""What policy gradients have in common: settings, log-ratios, clipped losses, sums over processes.

Tensors of tokens are padded on the right; a mask says which of them are a response's. Nothing here
ever counts padding.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from veridical.objectives.base import Described
from veridical.runtime.errors import UserError
from veridical.runtime.float64 import in_float64

KLEstimator = Literal["k1", "k3"]
Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes; with one process it gives it back."""


@dataclass(frozen=True)
class SampledTokens:
    """The responses that a step sampled, a row each.

    Attributes:
        scores: what each response earned. Shape: (responses,).
        logps: by the policy that sampled. Shape: (responses, tokens).
        reference_logps: by the reference. Shape: (responses, tokens).
        values: expected before each token; 0 without a value model. Shape: (responses, tokens).
        mask: True at real tokens. Shape: (responses, tokens).
    """

    scores: Tensor
    logps: Tensor
    reference_logps: Tensor
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class ScoredTokens:
    """Some of these responses again, as the policy that learns gives them.

    Attributes:
        logps: by the policy that learns, with its gradient. Shape: (responses, tokens), like all.
        old_logps: by the policy that sampled.
        reference_logps: by the reference.
        mask: True at real tokens.
        limit: tokens that a response could have had.
    """

    logps: Tensor
    old_logps: Tensor
    reference_logps: Tensor
    mask: Tensor
    limit: int


@dataclass(frozen=True)
class Advantages:
    """How much better than expected each action was.

    Attributes:
        advantages: Shape: of the actions.
        returns: what a value model should have said; None without one. Shape: (responses, tokens).
        explained_variance: the share of the returns' variance that was foreseen.
    """

    advantages: Tensor
    returns: Tensor | None
    explained_variance: float


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Described):
    """Learns from sampled responses by how much better than expected they are.

    Attributes:
        samples: responses to each prompt.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into; an epoch's last step, which may
            have fewer prompts than that, has one for each.
        clip: how far an action's probability ratio may leave 1 and still be pushed on.
        kl_coefficient: weight of the penalty.
        of_later_steps: options that only change what is learned once the policy has moved from
            the one that sampled: after the first optimizer step on some responses.
    """

    uses_values: ClassVar[bool]
    of_later_steps: ClassVar[tuple[str, ...]] = ("clip",)
    samples: int
    inner_epochs: int
    minibatches: int
    clip: float
    kl_coefficient: float

    def check_updates(self, prompts: int) -> None:
        """Refuse minibatches without prompts, and options that one update leaves without effect.

        Args:
            prompts: of a step, over all processes.

        Raises:
            UserError: names the option.
        """
        if self.minibatches > prompts:
            raise UserError(
                f"--minibatches {self.minibatches} would divide the prompts of a step, and there "
                f"are {prompts} (--batch-size times --accumulation times processes, or all "
                f"prompts). Set --minibatches to {prompts} or less, or raise --batch-size."
            )
        if self.inner_epochs * self.minibatches > 1:
            return
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self.of_later_steps and value != field.default:
                raise UserError(
                    f"--{field.name.replace('_', '-')} {value} has no effect with one optimizer "
                    "step for each step's responses (--inner-epochs 1 --minibatches 1): every "
                    "ratio is 1 then. Raise --minibatches or --inner-epochs, or leave it out."
                )

    @abstractmethod
    def advantages(self, sampled: SampledTokens, kl_coefficient: float, total: Total) -> Advantages:
        """Advantages of a step's actions.

        Args:
            sampled: the responses of this process.
            kl_coefficient: the penalty's weight now.
            total: adds up over processes.
        """

    @abstractmethod
    def actions(self, logps: Tensor) -> Tensor:
        """Log-probability of each action. Shape of `logps`: (responses, tokens)."""

    @abstractmethod
    def counted(self, mask: Tensor) -> Tensor:
        """Which actions count, from a mask of tokens. Shape of `mask`: (responses, tokens)."""

    def divisor(self, mask: Tensor) -> Tensor:
        """What the sum of the losses of some responses is divided by: their actions."""
        return self.counted(mask).sum()

    def learned_from(self, scores: Tensor) -> Tensor:
        """Which prompts are learned from, by what their responses earned: all of them.

        Args:
            scores: of the responses, prompt by prompt. Shape: (prompts * samples,).

        Returns:
            Shape: (prompts,).
        """
        return torch.ones(len(scores) // self.samples, dtype=torch.bool, device=scores.device)

    def policy_losses(
        self, tokens: ScoredTokens, advantages: Tensor, kl_coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """What each action adds to the loss, and where the clipped side decided.

        Args:
            tokens: of some responses.
            advantages: of their actions. Shape: the actions', like what is returned.
            kl_coefficient: the penalty's weight now, for those that have it in the loss.
        """
        now, old = self.actions(tokens.logps), self.actions(tokens.old_logps)
        return clipped_policy_losses(now, old, advantages, self.clip)

    def value_loss(
        self, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The value model's loss, weighted and summed, and where the clipped side decided.

        Shapes: (responses, tokens), and () of the loss.

        Raises:
            NotImplementedError: there is no value model.
        """
        raise NotImplementedError(f"{self.name} has no value model")

    def next_kl_coefficient(
        self, coefficient: float, measured: Mapping[str, float], responses: int
    ) -> float:
        """The penalty's weight in the next step.

        Args:
            coefficient: now.
            measured: of this step: `kl_k1` and `kl_k3`, in nats a response.
            responses: that this step had.
        """
        return coefficient

    def moved_too_far(self, moved: float) -> bool:
        """Whether a step ends where the policy has moved so many nats an action within it."""
        return False


def kl_terms(policy_logps: Tensor, reference_logps: Tensor, estimator: KLEstimator) -> Tensor:
    """For each sampled token an estimate of KL(policy || reference), unbiased under the policy.

    With r = reference / policy: k1 = -log r, which may be negative; k3 = r - 1 - log r, which may
    not, and varies less where both are near (Schulman 2020). Neither is cut off at 0, as that would
    bias it.

    Args:
        policy_logps: of the policy that sampled. Any shape.
        reference_logps: the same shape.
        estimator: `k1` or `k3`.
    """
    log_ratio = reference_logps - policy_logps
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def clipped_policy_losses(
    policy_logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), one loss an action.

    An action is a token for PPO and GRPO, and a whole response for RLOO.

    Args:
        policy_logps: of the policy that is trained. Any shape.
        old_logps: of the policy that sampled.
        advantages: how much better than expected.
        clip: how far the ratio may leave 1 and still be pushed on.

    Returns:
        Losses, and where the clipped side decided. The given shape.
    """
    return clipped_losses_of_ratios((policy_logps - old_logps).exp(), advantages, clip, clip)


def clipped_losses_of_ratios(
    ratio: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The same of a ratio, which may leave 1 by `low` below and by `high` above.

    Two ranges are DAPO's (Yu et al. 2025, section 3.1).
    """
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(plain, clipped), clipped > plain


def without_mean(rewards: Tensor) -> Tensor:
    """Rewards less the mean of their group; exactly 0 where all of a group are equal.

    The mean of seven times 0.1 is not 0.1 in floating point. An optimizer that scales gradients,
    as Adam does, would make a whole step of such a difference.

    Args:
        rewards: Shape: (prompts, k).
    """
    over_first = rewards - rewards[..., :1]
    return over_first - over_first.mean(-1, keepdim=True)


def mean_and_variance(values: Tensor, mask: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Over the real tokens of all processes; the variance is the biased one.

    Args:
        values: Any shape.
        mask: True at what counts; at least one over all processes. The same shape.
        total: adds up over processes.

    Returns:
        Two scalars, in float64.
    """
    chosen = in_float64(values[mask])
    parts = total(torch.stack([chosen.sum(), chosen.new_tensor(len(chosen))]))
    mean = parts[0] / parts[1]
    return mean, total((chosen - mean).square().sum()) / parts[1]


def whitened(values: Tensor, mask: Tensor, total: Total) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over all processes; 0 at padding."""
    mean, variance = mean_and_variance(values, mask, total)
    white = (values - mean.to(values)) * (variance + 1e-8).rsqrt().to(values)
    return torch.where(mask, white, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total) -> float:
    """1 - Var(returns - values) / Var(returns): 1 foresees everything, 0 nothing.

    Where all returns are equal there is nothing to explain, and it is 0.
    """
    _, variance = mean_and_variance(returns, mask, total)
    _, left = mean_and_variance(returns - values, mask, total)
    return float(1 - left / variance) if float(variance) > 0 else 0.0
