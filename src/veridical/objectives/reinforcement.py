"""Reinforcement learning's arithmetic, as small pure functions on tensors.

Tensors of tokens are padded on the right; a mask says which of them are a response's. Nothing here
ever counts padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k3"]
Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes; with one process it gives it back."""


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


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024, eq. 10): each response against the mean of its siblings.

    Args:
        rewards: of k responses to each prompt, k at least 2. Shape: (prompts, k).

    Returns:
        Shape: (prompts, k); each row adds up to 0.
    """
    k = rewards.shape[-1]
    others = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    return rewards - others


def mean_and_variance(values: Tensor, mask: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Over the real tokens of all processes; the variance is the biased one.

    Args:
        values: Any shape.
        mask: True at what counts; at least one over all processes. The same shape.
        total: adds up over processes.

    Returns:
        Two scalars, in float64.
    """
    chosen = values[mask].double()
    parts = total(torch.stack([chosen.sum(), chosen.new_tensor(len(chosen))]))
    mean = parts[0] / parts[1]
    return mean, total((chosen - mean).square().sum()) / parts[1]


def whitened(values: Tensor, mask: Tensor, total: Total) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over all processes; 0 at padding."""
    mean, variance = mean_and_variance(values, mask, total)
    white = (values - mean.to(values)) * (variance + 1e-8).rsqrt().to(values)
    return torch.where(mask, white, 0.0)


def clipped_policy_losses(
    policy_logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), one loss an action.

    An action is a token for PPO, and a whole response for RLOO.

    Args:
        policy_logps: of the policy that is trained. Any shape.
        old_logps: of the policy that sampled.
        advantages: how much better than expected.
        clip: how far the ratio may leave 1 and still be pushed on.

    Returns:
        Losses, and where the clipped side decided. The given shape.
    """
    ratio = (policy_logps - old_logps).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


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


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total) -> float:
    """1 - Var(returns - values) / Var(returns): 1 foresees everything, 0 nothing.

    Where all returns are equal there is nothing to explain, and it is 0.
    """
    _, variance = mean_and_variance(returns, mask, total)
    _, left = mean_and_variance(returns - values, mask, total)
    return float(1 - left / variance) if float(variance) > 0 else 0.0


def next_kl_coefficient(
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
