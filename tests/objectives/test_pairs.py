"""The arithmetic of the objectives, by hand, and against TRL's formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from veridical.models.heads import token_logps
from veridical.models.logprobs import ResponseLogps
from veridical.objectives.comparison import implicit_rewards
from veridical.objectives.dpo import dpo_loss
from veridical.objectives.ipo import ipo_loss
from veridical.objectives.likelihood import mean_token_nll
from veridical.objectives.several import averaged_loss
from veridical.objectives.slic import slic_loss
from veridical.runtime.errors import UserError
from veridical.train.objectives import (
    LossName,
    PreferenceLoss,
    check_loss,
    objective,
    pair_losses,
)


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


def test_ipo_by_hand() -> None:
    """Log-ratios 2 and -1, beta 0.5: (3 - 1)^2 = 4; where nothing differs 1 / (4 * 0.25) = 1."""
    a, b, c, d = (torch.tensor([x]) for x in (-10.0, -9.0, -12.0, -8.0))
    assert float(ipo_loss(a, b, c, d, 0.5)) == 4.0
    assert float(ipo_loss(a, b, a, b, 0.5)) == 1.0


def test_slic_by_hand() -> None:
    """Beta 0.1: 1 - 0.3; once 10 nats apart nothing is left; where nothing differs 1."""
    a, b, c, d = (torch.tensor([x]) for x in (-10.0, -9.0, -12.0, -8.0))
    assert math.isclose(float(slic_loss(a, b, c, d, 0.1)), 0.7, abs_tol=1e-6)
    assert float(slic_loss(a + 20, b, c, d, 0.1)) == 0.0
    assert float(slic_loss(a, b, a, b, 0.1)) == 1.0


def test_averaged_loss_by_hand() -> None:
    losses = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert averaged_loss(losses, 0.25).tolist() == [2.5, 2.0]
    assert averaged_loss(losses[:, :1], 0.25).tolist() == [1.0, 2.0]
    three = torch.tensor([[1.0, 3.0, 5.0]])
    assert averaged_loss(three, 0.5).tolist() == [2.5]
    # A repeated last answer changes nothing, which is how rows with fewer are filled up.
    assert averaged_loss(torch.tensor([[1.0, 3.0, 3.0]]), 0.5).tolist() == [2.0]


def slow_pair_loss(
    name: str, chosen: list[float], rejected: list[float], old: list[list[float]], beta: float
) -> float:
    """One pair, token by token, in Python's own float64."""
    ratios = [
        math.fsum(new) - math.fsum(before)
        for new, before in zip((chosen, rejected), old, strict=True)
    ]
    h = ratios[0] - ratios[1]
    if name == "sigmoid":
        return math.log1p(math.exp(-beta * h))
    return (h - 1 / (2 * beta)) ** 2 if name == "ipo" else max(0.0, 1 - beta * h)


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "slic"])
def test_objectives_against_a_slow_reference(name: LossName) -> None:
    draw = torch.Generator().manual_seed(1)
    tokens = -torch.rand(4, 2, 7, generator=draw, dtype=torch.float64)  # pair, branch, token
    old = -torch.rand(4, 2, 7, generator=draw, dtype=torch.float64)
    loss = PreferenceLoss(name, beta=0.4)
    ours = pair_losses(loss, tokens.sum(-1), old.sum(-1))
    for pair in range(4):
        chosen, rejected = tokens[pair].tolist()
        slow = slow_pair_loss(name, chosen, rejected, old[pair].tolist(), 0.4)
        assert math.isclose(float(ours[pair]), slow, rel_tol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "slic"])
def test_the_known_value_at_the_start_and_its_slope(name: LossName) -> None:
    loss = PreferenceLoss(name, beta=0.3)
    logps = torch.tensor([[-3.0, -5.0]], dtype=torch.float64)
    assert math.isclose(float(pair_losses(loss, logps, logps)), loss.at_start, rel_tol=1e-12)
    step = torch.tensor([[1e-6, 0.0]], dtype=torch.float64)
    change = float((pair_losses(loss, logps + step, logps) - loss.at_start).abs()) / 1e-6
    assert change <= loss.slope_at_start * (1 + 1e-5)


def test_per_token_divides_both_branches_by_their_length() -> None:
    sums = torch.tensor([[-6.0, -4.0]], dtype=torch.float64)
    old = torch.tensor([[-9.0, -2.0]], dtype=torch.float64)
    counts = torch.tensor([[3, 2]])
    outcome = objective(PreferenceLoss("ipo", 0.5, per_token=True))(
        ResponseLogps(sums, counts), old
    )
    # (-2 + 3) - (-2 + 1) = 2; 2 - 1 = 1
    assert math.isclose(float(outcome.loss_sum), 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "--beta is 0"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"name": "ipo", "label_smoothing": 0.1}, "belongs to --loss sigmoid"),
        ({"gamma": 1.5}, "--gamma is 1.5"),
        ({"nll_weight": -1.0}, "can't be negative"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_loss(PreferenceLoss(**settings))
