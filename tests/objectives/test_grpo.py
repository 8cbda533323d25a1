"""GRPO and its variants: by hand, by a slow loop, by enumeration of a small policy, and as TRL."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from veridical.judges.symbolic import Symbolic, overlong, symbolic_reward
from veridical.objectives.grpo import GRPO, equal_rewards, group_advantages
from veridical.objectives.policy_gradient import SampledTokens, ScoredTokens
from veridical.objectives.rloo import leave_one_out_advantages
from veridical.runtime.errors import UserError

LIMIT = 2
PLAIN = GRPO(samples=2, divide_by_deviation=False, average="limit", kl_coefficient=0.0)
RESPONSES = [(2,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
"""All that a policy of three tokens can say: 2 ends a response, and so does the second token."""


def alone(value: Tensor) -> Tensor:
    return value


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_group_advantages_by_hand() -> None:
    rewards = tensor([1.0, 2.0, 6.0, 3.0], [5.0, 5.0, 5.0, 5.0])
    centered = group_advantages(rewards, False)
    assert torch.allclose(centered, tensor([-2.0, -1.0, 3.0, 0.0], [0.0] * 4))
    # The deviation of a sample: sqrt((4 + 1 + 9 + 0) / 3).
    divided = group_advantages(rewards, True)
    expected = tensor([-2.0, -1.0, 3.0, 0.0]) / (math.sqrt(14 / 3) + 1e-4)
    assert torch.allclose(divided[0], expected) and not divided[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_leaves_is_no_difference(dtype: torch.dtype) -> None:
    rewards = torch.tensor([[0.7, 0.7], [0.7, 0.7 + 1e-7], [0.7, 0.701], [0.0, 0.0]], dtype=dtype)
    assert equal_rewards(rewards).tolist() == [True, True, False, True]
    for divide in (True, False):
        found = group_advantages(rewards, divide)
        assert not found[[0, 1, 3]].any() and found[2].all()


@pytest.mark.parametrize("k", [2, 3, 5, 6, 7, 8, 16])
def test_equal_rewards_have_no_advantage_to_the_bit(k: int) -> None:
    """Adam makes a whole step of the smallest gradient."""
    equal = torch.tensor([0.1, 1 / 3, 2 / 3, 0.7, 2.9, -1.1, 1e4 / 3]).unsqueeze(-1).expand(-1, k)
    if k in (3, 6, 7):  # what float32 makes of it otherwise
        assert (equal - equal.mean(-1, keepdim=True)).any()
    assert not leave_one_out_advantages(equal).any()
    for divide in (True, False):
        assert not group_advantages(equal, divide).any()


def test_a_response_s_advantage_is_that_of_its_tokens() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    sampled = SampledTokens(tensor(1.0, 4.0), zeros, zeros, zeros, mask)
    found = PLAIN.advantages(sampled, 0.0, alone)
    assert torch.equal(found.advantages, tensor([-1.5, -1.5], [1.5, 0.0]))
    assert found.returns is None and found.explained_variance == 0.0


# --- a policy whose every response can be listed ------------------------------------------------


def logps_of(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token of every response, and the mask. Shape of theta: (3, 3)."""
    logps = theta.log_softmax(-1)  # of the first token, and of the second after 0 and after 1
    rows = [
        [logps[0, one[0]], logps[one[0] + 1, one[1]] if len(one) > 1 else logps.new_zeros(())]
        for one in RESPONSES
    ]
    mask = torch.tensor([[True, len(one) > 1] for one in RESPONSES])
    return torch.stack([torch.stack(row) for row in rows]), mask


def loss_of(objective: GRPO, drawn: tuple[int, ...], theta: Tensor, rewards: Tensor,
            reference: Tensor) -> Tensor:  # fmt: skip
    """The loss of one group that was drawn from the policy itself."""
    logps, mask = (values[list(drawn)] for values in logps_of(theta))
    scored = ScoredTokens(logps, logps.detach(), logps_of(reference)[0][list(drawn)], mask, LIMIT)
    nothing = torch.zeros_like(logps)
    sampled = SampledTokens(rewards[list(drawn)], nothing, nothing, nothing, mask)
    advantages = objective.advantages(sampled, 0.0, alone).advantages
    losses, _ = objective.policy_losses(scored, advantages, objective.kl_coefficient)
    return losses[mask].sum() / objective.divisor(mask)


def expected_gradient(objective: GRPO, theta: Tensor, rewards: Tensor, reference: Tensor) -> Tensor:
    """Over every group that can be drawn, weighted by its probability."""
    total = torch.zeros_like(theta)
    logps = logps_of(theta)[0].detach().sum(-1)
    for drawn in itertools.product(range(len(RESPONSES)), repeat=objective.samples):
        loss = loss_of(objective, drawn, theta, rewards, reference)
        total += logps[list(drawn)].sum().exp() * torch.autograd.grad(loss, theta)[0]
    return total


@pytest.fixture
def theta() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, dtype=torch.float64).requires_grad_()


@pytest.fixture
def rewards() -> Tensor:
    return tensor(1.0, -2.0, 0.5, 3.0, 0.25, -1.0, 2.0)


def test_without_its_divisions_it_follows_the_expected_reward(
    theta: Tensor, rewards: Tensor
) -> None:
    """Dr. GRPO is unbiased: (k - 1) / k of the gradient, by a constant."""
    found = expected_gradient(replace(PLAIN, samples=3), theta, rewards, theta.detach())
    expected = (logps_of(theta)[0].sum(-1).exp() * rewards).sum()
    (exact,) = torch.autograd.grad(-2 / 3 * expected / LIMIT, theta)
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)


def test_the_mean_of_each_response_favors_short_ones(theta: Tensor, rewards: Tensor) -> None:
    """Each response's part is divided by its tokens, and so is what the group expected of it."""
    found = expected_gradient(replace(PLAIN, average="responses"), theta, rewards, theta.detach())
    logps, mask = logps_of(theta)
    chances = logps.sum(-1).exp().detach()
    better = rewards - (chances * rewards).sum()
    exact_loss = -1 / 2 * (chances * better / mask.sum(-1) * logps.sum(-1)).sum()
    (exact,) = torch.autograd.grad(exact_loss, theta)
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)
    # GSPO's ratio, 1 here, has the same slope.
    by_response = replace(PLAIN, average="responses", ratio="response", minibatches=2)
    assert torch.allclose(
        expected_gradient(by_response, theta, rewards, theta.detach()), exact, rtol=0, atol=1e-12
    )


def test_divided_by_the_deviation_it_counts_who_wins(theta: Tensor, rewards: Tensor) -> None:
    """Of two responses one has 1 / sqrt 2 and the other less that, whatever they earned."""
    objective, large = replace(PLAIN, divide_by_deviation=True), 1e8 * rewards
    found = expected_gradient(objective, theta, large, theta.detach())
    logps = logps_of(theta)[0].sum(-1)
    chances = logps.exp().detach()
    wins = (rewards.unsqueeze(1) - rewards.unsqueeze(0)).sign() @ chances
    (exact,) = torch.autograd.grad(-(chances * wins * logps).sum() / math.sqrt(2) / LIMIT, theta)
    assert torch.allclose(found, exact, rtol=0, atol=1e-10)


def test_the_penalty_s_slope_is_that_of_the_other_divergence(theta: Tensor) -> None:
    """k3's own gradient is that of KL(reference || policy), at the states the policy visits."""
    reference = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3)
    objective = replace(PLAIN, kl_coefficient=0.3)
    found = expected_gradient(objective, theta, torch.zeros(7, dtype=torch.float64), reference)
    logps, theirs = theta.log_softmax(-1), reference.log_softmax(-1)
    divergences = (theirs.exp() * (theirs - logps)).sum(-1)
    visited = torch.cat([tensor(1.0), logps[0, :2].detach().exp()])
    (exact,) = torch.autograd.grad(0.3 * (visited * divergences).sum() / LIMIT, theta)
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)


# --- a slow loop, and TRL -----------------------------------------------------------------------

WAYS = [
    GRPO(samples=2, kl_coefficient=0.1),
    GRPO(samples=2, kl_coefficient=0.0, average="limit", divide_by_deviation=False),
    GRPO(samples=2, clip_high=0.28, average="tokens", kl_coefficient=0.0, minibatches=2),
    GRPO(samples=2, clip=0.02, clip_high=0.04, ratio="response", minibatches=2),
    GRPO(samples=2, clip=0.02, ratio="response", average="tokens", minibatches=2),
]


def batch(dtype: torch.dtype = torch.float64) -> tuple[ScoredTokens, Tensor]:
    """Four responses of 1 to 5 tokens, moved enough for clipping on either side."""
    torch.manual_seed(0)
    mask = torch.tensor([[True] * n + [False] * (5 - n) for n in (5, 1, 3, 4)])
    old, shift, away = -torch.rand(3, 4, 5, dtype=torch.float64)
    old, moved = torch.where(mask, old, 0.0), torch.where(mask, 1.2 * (shift + 0.5), 0.0)
    reference = torch.where(mask, old + away + 0.5, 0.0)
    logps = (old + moved).to(dtype).requires_grad_()
    advantages = torch.where(mask, tensor(1.5, -0.5, -1.5, 0.75).unsqueeze(-1), 0.0)
    tokens = ScoredTokens(logps, old.to(dtype), reference.to(dtype), mask, 6)
    return tokens, advantages.to(dtype)


def slow_loss(objective: GRPO, tokens: ScoredTokens, advantages: Tensor) -> tuple[Tensor, int]:
    """The loss token by token, as it is written in the papers; and how many tokens were clipped."""
    high = objective.clip_high or objective.clip
    total, clipped, count = tokens.logps.new_zeros(()), 0, 0
    for row in range(len(tokens.mask)):
        length = int(tokens.mask[row].sum())
        log_ratios = [tokens.logps[row, t] - tokens.old_logps[row, t] for t in range(length)]
        if objective.ratio == "response":
            log_ratios = [sum(log_ratios, tokens.logps.new_zeros(())) / length] * length
        own = tokens.logps.new_zeros(())
        for t in range(length):
            ratio, advantage = log_ratios[t].exp(), float(advantages[row, t])
            value = float(ratio.detach())
            near = min(max(value, 1 - objective.clip), 1 + high)
            held = near * advantage < value * advantage
            gained = tokens.logps.new_tensor(near * advantage) if held else ratio * advantage
            step = tokens.reference_logps[row, t] - tokens.logps[row, t]
            own = own - gained + objective.kl_coefficient * (step.exp() - 1 - step)
            clipped, count = clipped + held, count + 1
        total = total + (own / length if objective.average == "responses" else own)
    divisor = {"responses": 4, "tokens": count, "limit": 4 * tokens.limit}[objective.average]
    return total / divisor, clipped


@pytest.mark.parametrize("objective", WAYS)
def test_a_slow_loop_agrees(objective: GRPO) -> None:
    tokens, advantages = batch()
    losses, clipped = objective.policy_losses(tokens, advantages, objective.kl_coefficient)
    found = losses[tokens.mask].sum() / objective.divisor(tokens.mask)
    expected, held = slow_loss(objective, tokens, advantages)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert int(clipped[tokens.mask].sum()) == held > 0
    (ours,) = torch.autograd.grad(found, tokens.logps)
    (theirs,) = torch.autograd.grad(expected, tokens.logps)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12) and theirs.any()
    assert not ours[~tokens.mask].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", WAYS[:4:3])
def test_narrow_numbers_come_near(objective: GRPO, dtype: torch.dtype) -> None:
    wide, narrow = batch(), batch(dtype)
    losses = []
    for tokens, advantages in (wide, narrow):
        found, _ = objective.policy_losses(tokens, advantages, objective.kl_coefficient)
        losses.append(float(found.detach()[tokens.mask].sum()))
    assert losses[1] == pytest.approx(losses[0], abs=20 * torch.finfo(dtype).eps)


TRLS = {"responses": "grpo", "tokens": "dapo", "limit": "dr_grpo"}


@pytest.mark.parametrize("objective", WAYS)
def test_trl_agrees(objective: GRPO) -> None:
    """The loss and its gradient, of TRL's own method, which is given the log-probs."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    tokens, advantages = batch()
    mask = tokens.mask.long()
    high = objective.clip if objective.clip_high is None else objective.clip_high
    theirs: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (tokens.logps, tokens.old_logps, None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token" if objective.ratio == "token" else "sequence",
        beta=objective.kl_coefficient, loss_type=TRLS[objective.average],
        epsilon_low=objective.clip, epsilon_high=high, use_vllm=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        max_completion_length=tokens.limit, _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(
            num_processes=1, reduce=lambda value, reduction: value, gather=lambda value: value
        ),
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask,
        "completion_mask": mask, "advantages": advantages[:, 0],
        "old_per_token_logps": tokens.old_logps, "ref_per_token_logps": tokens.reference_logps,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, None, inputs)
    losses, _ = objective.policy_losses(tokens, advantages, objective.kl_coefficient)
    found = losses[tokens.mask].sum() / objective.divisor(tokens.mask)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(found, tokens.logps)
    assert torch.allclose(ours, torch.autograd.grad(expected, tokens.logps)[0], rtol=0, atol=1e-12)


def test_trl_divides_and_punishes_alike() -> None:
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = tensor([1.0, 2.0, 6.0, 3.0], [0.5, 0.25, 0.5, 0.5])
    centered = rewards - rewards.mean(-1, keepdim=True)
    expected = centered / (nanstd(rewards, dim=1).unsqueeze(1) + 1e-4)
    # Its correction of the variance, 4 / 3, is a float32.
    assert torch.allclose(group_advantages(rewards, True), expected, rtol=1e-7, atol=0)
    punish = pytest.importorskip("trl.rewards").get_soft_overlong_punishment(40, 8)
    for tokens in (1, 31, 32, 33, 37, 40):
        (theirs,) = punish(completion_ids=[[0] * tokens])
        assert -overlong(tokens, 40, 0.2) == pytest.approx(theirs, abs=1e-12), tokens
    given = Symbolic(overlong_penalty=2.0, overlong_share=0.5, no_end_penalty=1.0)
    assert symbolic_reward(given, "", 30, 40, False, None) == pytest.approx(-1.0)
    assert symbolic_reward(given, "", 40, 40, True, None) == pytest.approx(-3.0)


def test_options_without_effect_are_refused() -> None:
    for objective in (GRPO(clip_high=0.28), GRPO(ratio="response")):
        with pytest.raises(UserError, match="has no effect with one optimizer step"):
            objective.check_updates(4)
        replace(objective, minibatches=2).check_updates(4)
        replace(objective, inner_epochs=2).check_updates(4)
    assert GRPO().title == "group relative policy optimization (GRPO)"
