"""The arithmetic of the objectives, by hand, and against TRL's formula."""

from __future__ import annotations

import math

import torch

from veridical.losses import dpo_loss, implicit_rewards, mean_token_nll, token_logps


def test_dpo_by_hand() -> None:
    """Log-ratios 2 and -1, beta 0.1: logit 0.3, loss -ln sigmoid(0.3) = 0.554355."""
    loss = dpo_loss(
        torch.tensor([-10.0]),
        torch.tensor([-9.0]),
        torch.tensor([-12.0]),
        torch.tensor([-8.0]),
        0.1,
    )
    assert math.isclose(float(loss), 0.554355, abs_tol=1e-6)


def test_dpo_is_ln_2_where_policy_and_reference_agree() -> None:
    logps = torch.randn(5, dtype=torch.float64)
    other = torch.randn(5, dtype=torch.float64)
    for smoothing in (0.0, 0.3):
        loss = dpo_loss(logps, other, logps, other, 0.7, smoothing)
        assert torch.allclose(loss, torch.full((5,), math.log(2), dtype=torch.float64))


def test_label_smoothing_mixes_the_swapped_pair() -> None:
    a, b, c, d = torch.randn(4, 6, dtype=torch.float64)
    expected = 0.8 * dpo_loss(a, b, c, d, 0.2) + 0.2 * dpo_loss(b, a, d, c, 0.2)
    assert torch.allclose(dpo_loss(a, b, c, d, 0.2, 0.2), expected)


def test_dpo_stays_finite_far_out() -> None:
    far = torch.tensor([-1e6], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss = dpo_loss(far, zero, zero, zero, 0.1)
    loss.backward()
    assert torch.isfinite(loss).all()
    assert far.grad is not None
    assert math.isclose(float(far.grad), -0.1)


def test_rewards_have_no_gradient() -> None:
    policy = torch.tensor([3.0], requires_grad=True)
    reward = implicit_rewards(policy, torch.tensor([1.0]), 0.5)
    assert float(reward) == 1.0
    assert not reward.requires_grad


def test_nll_is_per_token() -> None:
    nll = mean_token_nll(torch.tensor([-6.0, -4.0]), torch.tensor([3, 1]))
    assert nll.tolist() == [2.0, 4.0]


def test_token_logps_against_log_softmax() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64)
    targets = torch.tensor([0, 6, 3])
    expected = logits.log_softmax(-1)[torch.arange(3), targets]
    assert torch.allclose(token_logps(logits, targets), expected)
    low = token_logps(logits.bfloat16(), targets)
    assert low.dtype == torch.float32
