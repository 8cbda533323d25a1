"""Reinforcement learning's arithmetic, against sums by hand and expectations by enumeration."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from veridical.objectives.policy_gradient import (
    KLEstimator,
    Total,
    clipped_policy_losses,
    explained_variance,
    kl_terms,
    mean_and_variance,
    whitened,
)
from veridical.objectives.ppo import (
    PPO,
    adapted_kl_coefficient,
    clipped_value_losses,
    generalized_advantages,
    token_rewards,
)
from veridical.objectives.rloo import RLOO, leave_one_out_advantages

MASK = torch.tensor([[True, True, True], [True, False, False]])


def alone(value: Tensor) -> Tensor:
    return value


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_are_unbiased(estimator: KLEstimator) -> None:
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    reference = torch.tensor([0.2, 0.4, 0.3, 0.1], dtype=torch.float64).log()
    exact = float((policy.exp() * (policy - reference)).sum())
    terms = kl_terms(policy, reference, estimator)
    assert float((policy.exp() * terms).sum()) == pytest.approx(exact, abs=1e-12)
    # k1 may be negative, and has to stay so: cut off at 0 it would be 0.46 where the KL is 0.23.
    assert bool((terms < 0).any()) == (estimator == "k1")
    if estimator == "k1":
        assert float((policy.exp() * terms.clamp(min=0)).sum()) > 1.9 * exact


def test_the_score_stands_at_the_last_real_token() -> None:
    kl = tensor([1.0, 2.0, 3.0], [4.0, 99.0, 99.0])
    rewards = token_rewards(tensor(10.0, 20.0), kl, MASK, 0.1)
    # 10 - 0.3 at the third token of the first; 20 - 0.4 at the only token of the second.
    assert torch.allclose(rewards, tensor([-0.1, -0.2, 9.7], [19.6, 0.0, 0.0]))


def test_generalized_advantages_by_hand() -> None:
    rewards = tensor([0.0, 0.0, 1.0], [2.0, 7.0, 7.0])
    values = tensor([0.5, 0.2, 0.1], [0.3, 8.0, 8.0])
    found = generalized_advantages(rewards, values, MASK, gamma=0.9, lam=0.5)
    # deltas: 0.9 * 0.2 - 0.5 = -0.32; 0.9 * 0.1 - 0.2 = -0.11; 1 - 0.1 = 0.9
    # third 0.9; second -0.11 + 0.45 * 0.9 = 0.295; first -0.32 + 0.45 * 0.295 = -0.18725
    assert torch.allclose(found, tensor([-0.18725, 0.295, 0.9], [1.7, 0.0, 0.0]))


def test_without_discount_an_advantage_is_what_comes_minus_what_was_expected() -> None:
    rewards, values = tensor([1.0, 2.0, 3.0], [4.0, 0, 0]), tensor([0.5, 0.25, 2.0], [1.0, 0, 0])
    found = generalized_advantages(rewards, values, MASK, 1.0, 1.0)
    assert torch.allclose(found, tensor([5.5, 4.75, 1.0], [3.0, 0, 0]))
    # What stands at padding changes nothing.
    dirty = torch.where(MASK, values, 1e6)
    assert torch.equal(generalized_advantages(rewards, dirty, MASK, 1.0, 1.0), found)


def test_leave_one_out_by_hand() -> None:
    found = leave_one_out_advantages(tensor([1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]))
    # 1 - 11/3, 2 - 10/3, 3 - 3, 6 - 2
    assert torch.allclose(found, tensor([-8 / 3, -4 / 3, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]))


def test_the_expected_rloo_gradient_is_the_gradient_of_the_expected_reward() -> None:
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    theta = torch.tensor([0.3, -0.1, 0.8, -0.5], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad((theta.softmax(-1) * rewards).sum(), theta)
    expected = torch.zeros(4, dtype=torch.float64)
    for drawn in itertools.product(range(4), repeat=3):
        actions = torch.tensor(drawn)
        logps = theta.log_softmax(-1)[actions]
        advantages = leave_one_out_advantages(rewards[actions].unsqueeze(0)).squeeze(0)
        losses, _ = clipped_policy_losses(logps, logps.detach(), advantages, 0.2)
        (gradient,) = torch.autograd.grad(-losses.mean(), theta)
        expected += float(logps.detach().sum().exp()) * gradient
    assert torch.allclose(expected, exact, rtol=0, atol=1e-12)


def test_ppos_first_gradient_is_reinforces() -> None:
    """One response, values of 0, no discount: every token's advantage is the score."""
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([4, 0, 2])
    logps = logits.log_softmax(-1)[range(3), tokens].unsqueeze(0)
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = token_rewards(tensor(1.7), torch.zeros(1, 3, dtype=torch.float64), mask, 0.0)
    advantages = generalized_advantages(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    losses, clipped = clipped_policy_losses(logps, logps.detach(), advantages, math.inf)
    (ours,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (reinforce,) = torch.autograd.grad(-1.7 * logps.sum(), logits)
    assert torch.allclose(ours, reinforce, rtol=0, atol=1e-14)
    assert not clipped.any()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_ppo_on_a_bandit_reaches_the_known_optimum(estimator: KLEstimator) -> None:
    """Reward minus beta KL is largest where the policy is reference * exp(reward / beta)."""
    torch.manual_seed(0)
    beta, reward = 0.5, torch.tensor([0.0, 0.4, 0.8, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.4, 0.3, 0.1, 0.2], dtype=torch.float64)
    optimum = reference * (reward / beta).exp()
    optimum /= optimum.sum()
    theta = reference.log().requires_grad_()
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta, value], lr=0.02)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        with torch.no_grad():
            old = theta.log_softmax(-1)
            actions = torch.multinomial(old.exp(), 2048, replacement=True)
            mask = torch.ones(2048, 1, dtype=torch.bool)
            # The gradient through sampled rewards is KL's own for k1 alone.
            kl = kl_terms(old, reference.log(), "k1")[actions].unsqueeze(-1)
            rewards = token_rewards(reward[actions], kl, mask, beta)
            before = value.expand(2048, 1).clone()
            advantages = generalized_advantages(rewards, before, mask, 1.0, 0.95)
            returns = advantages + before
        for _ in range(2):
            logps = theta.log_softmax(-1)[actions].unsqueeze(-1)
            losses, _ = clipped_policy_losses(logps, old[actions].unsqueeze(-1), advantages, 0.2)
            errors, _ = clipped_value_losses(value.expand(2048, 1), before, returns, 0.2)
            optimizer.zero_grad()
            (losses.mean() + 0.5 * errors.mean()).backward()
            optimizer.step()
    found = theta.detach().softmax(-1)
    assert torch.allclose(found, optimum, atol=0.015), (found, optimum)
    # What is left to gain: log of the mean of exp(reward / beta) is the best there is.
    best = beta * float((reference * (reward / beta).exp()).sum().log())
    gained = float((found * (reward - beta * (found / reference).log())).sum())
    assert gained == pytest.approx(best, abs=1e-3)
    assert float(value) == pytest.approx(best, abs=0.02)
    # Both estimators measure how far it went.
    drawn = kl_terms(found.log(), reference.log(), estimator)
    exact = float((found * (found / reference).log()).sum())
    assert float((found * drawn).sum()) == pytest.approx(exact, abs=1e-12)


def test_policy_losses_by_hand() -> None:
    old = torch.zeros(4, dtype=torch.float64)
    new = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64).log()
    losses, clipped = clipped_policy_losses(new, old, tensor(1.0, -1.0, 1.0, -1.0)[0:4], 0.2)
    # Pushed on only up to 1.2 where that pays, pulled back wherever it went too far.
    assert torch.allclose(losses, tensor(-1.2, 1.5, -0.5, 0.8))
    assert clipped.tolist() == [True, False, False, True]


def test_value_losses_by_hand() -> None:
    losses, clipped = clipped_value_losses(
        tensor(1.0, 0.1, 1.0), tensor(0.0, 0.0, 0.0), tensor(1.0, 1.0, -1.0), 0.2
    )
    # (0.2 - 1)^2 / 2; (0.1 - 1)^2 / 2; (1 + 1)^2 / 2
    assert torch.allclose(losses, tensor(0.32, 0.405, 2.0))
    assert clipped.tolist() == [True, False, False]


def side_by_side(work: Callable[[Tensor, Tensor, Total], object], values: Tensor) -> list[object]:
    """Do the same in two threads that add up like processes, each with its own rows."""
    barrier, slots, found = threading.Barrier(2), [torch.zeros(0)] * 2, [object()] * 2

    def run(rank: int) -> None:
        def total(value: Tensor) -> Tensor:
            slots[rank] = value
            barrier.wait()
            result = slots[0] + slots[1]
            barrier.wait()
            return result

        found[rank] = work(values[rank : rank + 1], MASK[rank : rank + 1], total)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_whitening_is_over_all_processes_and_no_padding() -> None:
    values = tensor([1.0, 2.0, 3.0], [6.0, 1e6, 1e6])
    # Mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    expected = (values - 3) / math.sqrt(3.5 + 1e-8)
    expected[~MASK] = 0
    assert torch.allclose(whitened(values, MASK, alone), expected)
    one, other = side_by_side(whitened, values)
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    assert torch.allclose(torch.cat([one, other]), expected)
    mean, variance = mean_and_variance(values, MASK, alone)
    assert (float(mean), float(variance)) == pytest.approx((3.0, 3.5))


def test_explained_variance() -> None:
    returns = tensor([1.0, 2.0, 3.0], [6.0, 0.0, 0.0])
    assert explained_variance(returns, returns, MASK, alone) == pytest.approx(1.0)
    assert explained_variance(torch.zeros_like(returns), returns, MASK, alone) == 0.0
    assert explained_variance(-returns, returns, MASK, alone) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones_like(returns), MASK, alone) == 0.0


def test_the_adaptive_penalty_by_hand() -> None:
    assert adapted_kl_coefficient(0.1, 6.0, 6.0, 64, 640) == pytest.approx(0.1)
    # Twice too far: an error of 1 counts as 0.2, for a tenth of the horizon.
    assert adapted_kl_coefficient(0.1, 12.0, 6.0, 64, 640) == pytest.approx(0.1 * 1.02)
    assert adapted_kl_coefficient(0.1, 5.4, 6.0, 64, 640) == pytest.approx(0.1 * 0.99)


def test_titles_are_parts_of_a_sentence() -> None:
    assert PPO().title == "proximal policy optimization (PPO)"
    assert RLOO().title == "REINFORCE with a leave-one-out baseline (RLOO)"
