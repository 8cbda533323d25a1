"""The arithmetic of the objectives, by hand, and against TRL's formula."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, get_args

import pytest
import torch

from veridical.cli.signatures import documentation_of
from veridical.models.heads import log_squares, token_logps
from veridical.objectives.aot import AOT, UnpairedAOT
from veridical.objectives.averaged import AveragedPreference, averaged_loss
from veridical.objectives.base import Objective, PairLogps, PairLoss, implicit_rewards
from veridical.objectives.bco import BCO
from veridical.objectives.combined import Combined
from veridical.objectives.ddpo import change_weights
from veridical.objectives.discopop import DiscoPOP
from veridical.objectives.dpo import DPO, dpo_loss
from veridical.objectives.fdpo import FDPO
from veridical.objectives.ipo import IPO, ipo_loss
from veridical.objectives.kto import KTO
from veridical.objectives.lddpo import LDDPO
from veridical.objectives.likelihood import Likelihood, mean_token_nll
from veridical.objectives.mpo import MPO
from veridical.objectives.orpo import ORPO
from veridical.objectives.preference import Preference, pair_accuracy
from veridical.objectives.simpo import SimPO
from veridical.objectives.slic import slic_loss
from veridical.objectives.table import AnyPairLoss, AnyTerm
from veridical.objectives.wpo import policy_weights
from veridical.runtime.errors import UserError


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


def test_a_pairs_factor_multiplies_beta() -> None:
    """Log-ratios 2 and -1, beta 0.1, factors 1 and 2: logits 0.3 and 0.6, rewards 0.2 and 0.4."""
    policy, reference = torch.tensor([[-10.0, -9.0]] * 2), torch.tensor([[-12.0, -8.0]] * 2)
    factors, counts = torch.tensor([[1.0], [2.0]]), torch.ones(2, 2)
    logps = PairLogps(policy, reference, counts, factors)
    loss = Preference(DPO(0.1))
    assert torch.allclose(loss(logps), torch.tensor([0.554355, 0.437488]), atol=1e-6)
    measures = loss.measures(logps)
    assert torch.allclose(measures["rewards_chosen"], torch.tensor([0.2, 0.4]))
    assert torch.allclose(measures["rewards_margin"], torch.tensor([0.3, 0.6]))
    assert measures["rewards_accuracy"].tolist() == [1.0, 1.0]
    assert logps.per_token().beta_factors is factors
    several = PairLogps(policy[:, [0, 1, 1]], reference[:, [0, 1, 1]], torch.ones(2, 3), factors)
    averaged = AveragedPreference(DPO(0.1))(several)
    assert torch.allclose(averaged, torch.tensor([0.554355, 0.437488]), atol=1e-6)


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


def test_what_was_corrected_weighs_more_by_hand() -> None:
    """Only runs of 3 equal tokens are unchanged; what one answer adds to the other is not weighed.

    1 2 3 and 6 7 8 are equal. Between them 4 5 became 9; 0 0 at the end is in one answer alone.
    """
    chosen, rejected = [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 6, 7, 8, 0, 0]
    weights = change_weights(chosen, rejected, 4.0)
    assert weights == ([1, 1, 1, 4, 4, 1, 1, 1], [1, 1, 1, 4, 1, 1, 1, 1, 1])
    # 6 7 alone are too short to count as equal: all from 4 on is changed.
    weights = change_weights([1, 2, 3, 4, 6, 7], [1, 2, 3, 9, 6, 7], 4.0)
    assert weights == ([1, 1, 1, 4, 4, 4], [1, 1, 1, 4, 4, 4])
    assert change_weights([1, 2], [3], 4.0) == ([4, 4], [4])
    assert change_weights(chosen, chosen, 4.0) == ([1] * 8, [1] * 8)
    same = change_weights(chosen, rejected, 1.0)
    assert same == ([1] * 8, [1] * 9)


def test_a_mean_over_weighed_tokens_divides_by_the_weights() -> None:
    """Sums -6 and -4 of weight sums 3 and 2 against -9 and -2: ratios 1 and -1, logit 0.1 * 2.

    -ln sigmoid(0.2) = 0.598139; the likelihood is 6 / 3. An answer of weight 0 has mean 0.
    """
    policy, old = torch.tensor([[-6.0, -4.0]]), torch.tensor([[-9.0, -2.0]])
    sums = torch.tensor([[3.0, 2.0]])
    logps = PairLogps(policy, old, torch.tensor([[7, 7]]), weight_sums=sums)
    assert float(Preference(DPO(0.1), per_token=True)(logps)) == pytest.approx(0.598139, abs=1e-6)
    assert float(Likelihood(1.0)(logps)) == 2.0
    none = PairLogps(policy * 0, old * 0, torch.tensor([[7, 7]]), weight_sums=sums * 0)
    assert none.per_token().policy.tolist() == [[0.0, 0.0]]


def test_means_of_answers_under_other_images_are_means_too() -> None:
    """Sums 14 nats apart over 7 tokens are means 2 nats apart."""
    logps = paired(torch.tensor([[-7.0, -14.0, -21.0]]), torch.zeros(1, 3)).per_token()
    assert logps.every_policy.tolist() == [[-1.0, -2.0, -3.0]]


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


def slow_pair_loss(name: str, new: list[list[float]], old: list[list[float]], beta: float) -> float:
    """One pair, token by token, in Python's own float64: chosen, rejected, and other branches."""
    ratios = [math.fsum(now) - math.fsum(before) for now, before in zip(new, old, strict=True)]
    h = ratios[0] - ratios[1]
    found = other_slow_losses(new, ratios, beta)
    if name in ("symmpo", "svco"):
        return slow_pictures(ratios, beta)[name]
    if name in found:
        return found[name]
    if name == "vdpo":
        sums = [math.fsum(tokens) for tokens in new]
        before = math.fsum(old[0]) - math.fsum(old[1])
        margin = 2 * (sums[0] - sums[1]) - (sums[2] - sums[3]) - before
        return math.log1p(math.exp(-beta * margin))
    if name == "mdpo":
        margins = (h, ratios[0] - ratios[2], ratios[0])
        return math.fsum(math.log1p(math.exp(-beta * margin)) for margin in margins)
    if name in ("dpo", "ddpo", "lddpo", "wpo", "aot", "aot_unpaired"):  # of a single pair
        return math.log1p(math.exp(-beta * h))
    return (h - 1 / (2 * beta)) ** 2 if name == "ipo" else max(0.0, 1 - beta * h)


def other_slow_losses(new: list[list[float]], ratios: list[float], beta: float) -> dict[str, float]:
    """By name, each formula as its paper has it."""

    def surprise(x: float) -> float:
        return math.log1p(math.exp(-x))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    good, bad = (beta * ratio for ratio in ratios[:2])
    margin, e, q = good - bad, 0.1, sigmoid(good - bad)
    sums = [math.fsum(tokens) for tokens in new[:2]]
    means = [total / len(tokens) for total, tokens in zip(sums, new, strict=False)]
    odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in means]
    quality = surprise(good) + surprise(-bad)
    blend = sigmoid(margin / 0.05)
    shares = [2 * math.exp(ratio) / (math.exp(ratio) + 1) for ratio in ratios[:2]]
    return {
        "fdpo": surprise(beta * (math.log(shares[0]) - math.log(shares[1]))),
        "discopop": (1 - blend) * surprise(margin) + blend * math.exp(-margin),
        "bco": quality,
        "kto": slow_kto([*ratios, 0.0, 0.0], beta),
        "chip": surprise(beta * (2 * ratios[0] - ratios[1] - ratios[2])),
        "mpo": 0.8 * surprise(margin) + 0.2 * quality - means[0],
        "robust": ((1 - e) * surprise(margin) - e * surprise(-margin)) / (1 - 2 * e),
        "exo": q * math.log(q / (1 - e)) + (1 - q) * math.log((1 - q) / e),
        "nca": surprise(good) + (surprise(-good) + surprise(-bad)) / 2,
        "sppo": (ratios[0] - 0.5 / beta) ** 2 + (ratios[1] + 0.5 / beta) ** 2,
        "apo_zero": 1 - sigmoid(good) + sigmoid(bad),
        "apo_down": sigmoid(good) + 1 - sigmoid(margin),
        "simpo": surprise(beta * (means[0] - means[1]) - 0.5 * beta),
        "cpo": surprise(beta * (sums[0] - sums[1])),
        "orpo": beta * surprise(math.log(odds[0] / odds[1])),
    }


def slow_pictures(ratios: list[float], beta: float) -> dict[str, float]:
    """Two pictures: of w and l under the first, and four more branches as the losses have them."""

    def surprise(nats: float) -> float:
        return math.log1p(math.exp(-beta * nats))

    chosen, rejected, *more = ratios[:6]
    w2, v2, v1 = more[:3]  # w and its counterpart v under the second, and v under the first
    first, second = chosen - v1, v2 - w2
    symmpo = (
        surprise(chosen - rejected), 0.5 * surprise(first), 0.5 * surprise(second),
        surprise(chosen), surprise(v2), 1e-4 * (first - second) ** 2,
    )  # fmt: skip
    w2, l2, w0, l0 = [*more, 0.0][:4]  # both under the second, and both without a picture
    svco = (chosen - w0, w0 - w2, l2 - l0, l0 - rejected)
    return {"symmpo": math.fsum(symmpo), "svco": math.fsum(map(surprise, svco))}


def slow_kto(ratios: list[float], beta: float) -> float:
    """A good and a bad answer, against the mean ratio of the next two, mismatched, if above 0."""
    shift = max(0.0, (ratios[2] + ratios[3]) / 2)
    gains = (ratios[0] - shift, shift - ratios[1])
    return math.fsum(1 - 1 / (1 + math.exp(-beta * gain)) for gain in gains) / 2


LOG_SQUARE = -0.4
"""Log of the sum of squared probabilities, at every token."""


def paired(policy: torch.Tensor, reference: torch.Tensor) -> PairLogps:
    """Chosen, rejected, and both again under other images; 7 tokens each."""
    counts = torch.full(policy.shape, 7)
    other = PairLogps(policy[:, 2:], reference[:, 2:], counts[:, 2:])
    own = policy[:, :2], reference[:, :2], counts[:, :2]
    weights = policy_weights(own[0], torch.full_like(own[0], 7 * LOG_SQUARE), own[2])
    return PairLogps(*own, contrast=other, policy_weights=weights)


def slow_weight(tokens: list[list[float]]) -> float:
    """Of a pair: how likely the policy is to say both answers, against a token that it draws."""
    return math.exp(math.fsum(math.fsum(own) / len(own) - LOG_SQUARE for own in tokens[:2]))


def losses_of(beta: float) -> list[PairLoss]:
    return [loss(beta) for loss in get_args(AnyPairLoss)]


def branches(loss: PairLoss) -> int:
    """Two answers, and up to four that are read once more."""
    return 2 + (len(loss.views) or 2)


@pytest.mark.parametrize("loss", losses_of(0.4), ids=lambda loss: loss.name)
def test_objectives_against_a_slow_reference(loss: PairLoss) -> None:
    draw = torch.Generator().manual_seed(1)
    shape = (4, branches(loss), 7)  # pair, branch, token
    tokens, old = (-torch.rand(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    if loss.over_batch or loss.mismatched:
        tokens, old = tokens[:1].expand(shape), old[:1].expand(shape)
    ours = loss(paired(tokens.sum(-1), old.sum(-1)))
    for pair in range(4):
        slow = slow_pair_loss(loss.name, tokens[pair].tolist(), old[pair].tolist(), 0.4)
        slow *= slow_weight(tokens[pair].tolist()) if loss.name == "wpo" else 1.0
        assert math.isclose(float(ours[pair, 0]), slow, rel_tol=1e-12)


@pytest.mark.parametrize("loss", losses_of(0.4), ids=lambda loss: loss.name)
def test_gradients_against_a_slow_reference(loss: PairLoss) -> None:
    """Of one token of each branch, by the slow formula on either side of it."""
    draw = torch.Generator().manual_seed(2)
    shape = (branches(loss), 7)
    tokens, old = (-torch.rand(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    tokens.requires_grad_()
    loss(paired(tokens.sum(-1)[None], old.sum(-1)[None])).sum().backward()
    assert tokens.grad is not None
    held = slow_weight(tokens.tolist()) if loss.name == "wpo" else 1.0  # it has no gradient
    for branch in range(branches(loss)):
        if loss.name in ("vdpo", "kto") and branch > 1:
            assert float(tokens.grad[branch].abs().sum()) == 0  # that part has no gradient
            continue
        moved = [tokens.tolist(), tokens.tolist()]
        for by, one in zip((1e-6, -1e-6), moved, strict=True):
            one[branch][0] += by
        up, down = (slow_pair_loss(loss.name, one, old.tolist(), 0.4) for one in moved)
        slope = held * (up - down) / 2e-6
        assert float(tokens.grad[branch, 0]) == pytest.approx(slope, abs=1e-7)


WITH_VIEWS = [loss for loss in losses_of(0.4) if loss.views]
TERMS = "dpo:0.8,bco:0.2:beta=0.2:reward_shift=0.3,simpo:0.5,nll:0.7"


def test_terms_are_added_up_by_a_slow_reference() -> None:
    """Each with its weight and its own settings; losses are logged one by one."""
    draw = torch.Generator().manual_seed(3)
    tokens, old = (-torch.rand(3, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    objective = Preference(Combined(0.4, TERMS))
    logps = paired(tokens.sum(-1)[None], old.sum(-1)[None])
    good, bad = (float(0.2 * (tokens[i] - old[i]).sum()) for i in range(2))
    quality = math.log1p(math.exp(0.3 - good)) + math.log1p(math.exp(bad - 0.3))
    plain, rewarded = slow_pair_loss("dpo", tokens.tolist(), old.tolist(), 0.4), quality
    simple = slow_pair_loss("simpo", tokens.tolist(), old.tolist(), 2.0)
    nll = -float(tokens[0].mean())
    slow = 0.8 * plain + 0.2 * rewarded + 0.5 * simple + 0.7 * nll
    assert float(objective(logps)) == pytest.approx(slow, rel=1e-12)
    measures = objective.measures(logps)
    parts = {name: float(measures[f"loss_{name}"]) for name in ("dpo", "bco", "simpo", "nll")}
    assert parts == pytest.approx({"dpo": plain, "bco": quality, "simpo": simple, "nll": nll})
    start = objective.with_known_start()
    expected = 0.8 * math.log(2) + 0.2 * (math.log1p(math.exp(0.3)) + math.log1p(math.exp(-0.3)))
    assert start.at_start == pytest.approx(expected, rel=1e-12)
    assert float(start(paired(*[tokens.sum(-1)[None]] * 2))) == pytest.approx(expected)
    assert start.slope_at_start == pytest.approx(0.8 * 0.4 + 0.2 * 0.4)


def test_a_sum_of_losses_with_other_answers_is_their_sum() -> None:
    """Also where one reads more answers beside the pair's own than the other."""
    draw = torch.Generator().manual_seed(5)
    policy, reference = (-torch.rand(3, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    logps, compared = paired(policy, reference), []
    for one, other in itertools.combinations(WITH_VIEWS, 2):
        objective = Preference(Combined(0.4, f"{one.name}:1,{other.name}:2"))
        try:
            objective.check()
        except UserError:
            continue  # neither reads what the other does
        compared.append({one.name, other.name})
        losses = [weight * part(_own(logps, part)).squeeze(-1) for weight, part in objective.parts]
        assert torch.allclose(objective(_own(logps, objective)), losses[0] + losses[1]), compared
    assert {"vdpo", "svco"} in compared


def _own(logps: PairLogps, loss: Preference | Objective) -> PairLogps:
    """With as many answers for comparison as the loss asks for."""
    found = logps.contrast
    assert found is not None
    asked = 2 if loss.mismatched else len(loss.views)
    policy, reference, counts = (
        one[:, :asked] for one in (found.policy, found.reference, found.token_counts)
    )
    own = PairLogps(policy, reference, counts) if asked else None
    return dataclasses.replace(logps, contrast=own)


def test_mpo_is_a_weighted_sum_of_three() -> None:
    """It starts at 0.8 ln 2 + 0.4 ln 2, the likelihood aside, and so do its terms."""
    sums, old = torch.tensor([[-6.0, -4.0]]), torch.tensor([[-9.0, -2.0]])
    logps = PairLogps(sums, old, torch.tensor([[3, 2]]), mean_log_ratio=0.5)
    terms = Combined(0.3, "dpo:0.8,bco:0.2:reward_shift=running,nll:1")
    assert torch.equal(Preference(MPO(0.3))(logps), Preference(terms)(logps))
    assert not torch.equal(Preference(MPO(0.3, reward_shift=0.0))(logps), Preference(terms)(logps))
    for loss in (MPO(0.3), terms):
        assert Preference(loss).with_known_start().at_start == pytest.approx(1.2 * math.log(2))
        assert Preference(loss).follows_rewards
    assert not Preference(MPO(reward_shift=0.0)).follows_rewards


def test_a_running_shift_is_the_mean_reward_of_earlier_steps() -> None:
    """Beta 0.5 and a mean log-ratio of 0.4: shift 0.2; rewards 1.5 and -1."""
    sums, old = torch.tensor([[-6.0, -4.0]]), torch.tensor([[-9.0, -2.0]])
    logps = PairLogps(sums, old, torch.tensor([[3, 2]]), mean_log_ratio=0.4)
    expected = math.log1p(math.exp(-1.3)) + math.log1p(math.exp(-1.2))
    assert float(Preference(BCO(0.5, "running"))(logps)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [AOT(0.4, 0.1), UnpairedAOT(0.4, 0.1)], ids=["aot", "unpaired"])
def test_optimal_transport_compares_ranks(loss: AOT) -> None:
    """Sorted margins of the policy with those of the reference; or ratios, chosen with rejected."""
    draw = torch.Generator().manual_seed(4)
    new, old = (-5 * torch.rand(5, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    rows = list(zip(new.tolist(), old.tolist(), strict=True))
    if loss.name == "aot":
        above, below = [a - b for (a, b), _ in rows], [c - d for _, (c, d) in rows]
    else:
        above, below = [a - c for (a, _), (c, _) in rows], [b - d for (_, b), (_, d) in rows]
    slow = 0.0
    for upper, lower in zip(sorted(above), sorted(below), strict=True):
        margin = 0.4 * (upper - lower)
        slow += 0.9 * math.log1p(math.exp(-margin)) + 0.1 * math.log1p(math.exp(margin))
    assert float(loss(paired(new, old)).sum()) == pytest.approx(slow, rel=1e-12)


def labeled(policy: torch.Tensor, reference: torch.Tensor, labels: list[bool]) -> PairLogps:
    """Answers without a pair and, in the second column, those to other prompts."""
    counts = torch.full(policy.shape, 7)
    other = PairLogps(policy[:, 1:], reference[:, 1:], counts[:, 1:])
    return PairLogps(
        policy[:, :1], reference[:, :1], counts[:, :1], contrast=other,
        labels=torch.tensor(labels).unsqueeze(-1),
    )  # fmt: skip


@pytest.mark.parametrize("moved", [2.0, -2.0], ids=["moved", "below zero"])
def test_single_answers_by_a_slow_reference(moved: float) -> None:
    """Each against the same estimate, which is 0 where other answers became less likely."""
    draw = torch.Generator().manual_seed(5)
    new, old = (-5 * torch.rand(4, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    new[:, 1] = old[:, 1] + moved * torch.rand(4, generator=draw, dtype=torch.float64)
    new.requires_grad_()
    labels, loss = [True, False, False, True], KTO(0.4, 1.5, 0.5)
    found = Preference(loss)(labeled(new, old, labels))
    found.sum().backward()
    shift = max(0.0, math.fsum((new[:, 1] - old[:, 1]).tolist()) / 4)
    for row, good in enumerate(labels):
        sign, weight = (1, 1.5) if good else (-1, 0.5)
        gain = sign * (float((new - old).detach()[row, 0]) - shift)
        value = 1 / (1 + math.exp(-0.4 * gain))
        assert float(found[row]) == pytest.approx(weight * (1 - value), rel=1e-12)
        slope = -sign * weight * 0.4 * value * (1 - value)
        assert new.grad is not None
        assert new.grad[row].tolist() == pytest.approx([slope, 0.0], rel=1e-12)
    measures = Preference(loss).measures(labeled(new, old, labels))
    assert measures["kl"].tolist() == pytest.approx([shift] * 4)
    assert measures["rewards_chosen"].shape == measures["rewards_rejected"].shape == (2,)
    gains = [float(0.4 * (new - old).detach()[row, 0]) for row in range(4)]
    margins = [gains[0], -gains[1], -gains[2], gains[3]]
    signs = [1, -1, -1, 1]
    expected = [m - s * 0.4 * shift for m, s in zip(margins, signs, strict=True)]
    assert measures["rewards_margin"].tolist() == pytest.approx(expected)


def test_a_pair_is_a_good_and_a_bad_answer() -> None:
    """The mean of two rows' losses beside the same answers to other prompts."""
    draw = torch.Generator().manual_seed(6)
    new, old = (-5 * torch.rand(3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    loss = Preference(KTO(0.4, 1.5, 0.5))
    apart = [torch.cat([one[:, [0, 2]], one[:, [1, 3]]]) for one in (new, old)]
    rows = loss(labeled(apart[0], apart[1], [True] * 3 + [False] * 3))
    assert torch.allclose(loss(paired(new, old)), rows.view(2, 3).mean(0))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_divergences_by_a_slow_reference(alpha: float) -> None:
    """Forward KL: 1 - 1/u of log-ratios 2 and -1; alpha 0.3: (1 - u^-0.3) / 0.3."""
    given = FDPO(0.4, "forward_kl") if alpha == 1 else FDPO(0.4, "alpha", alpha)
    slopes = [(1 - math.exp(ratio) ** -alpha) / alpha for ratio in (2, -1)]
    new, old = (torch.tensor([pair], dtype=torch.float64) for pair in ([-8.0, -9.0], [-10.0, -8.0]))
    slow = math.log1p(math.exp(-0.4 * (slopes[0] - slopes[1])))
    assert float(given(paired(new, old))) == pytest.approx(slow, rel=1e-12)


FAR = [FDPO(0.1, "forward_kl"), FDPO(0.1, "alpha", 0.2), FDPO(0.1), DiscoPOP(0.1), KTO(0.1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", FAR, ids=lambda loss: getattr(loss, "divergence", loss.name))
def test_powers_stay_finite_far_out(loss: PairLoss, dtype: torch.dtype) -> None:
    """Policy and reference thousands of nats apart, in either direction."""
    far = torch.tensor([[-3000.0, 0.0], [0.0, -3000.0], [-3000.0, -3000.0]], dtype=dtype)
    far.requires_grad_()
    found = loss(paired(far[:, [0, 1, 0, 1]], torch.zeros(3, 4, dtype=dtype)))
    found.sum().backward()
    assert found.isfinite().all() and far.grad is not None and far.grad.isfinite().all()


def test_log_squares_against_a_slow_softmax() -> None:
    """Also in half precision, and of logits far apart."""
    logits = 3 * torch.randn(3, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for row, found in zip(logits.tolist(), log_squares(logits).tolist(), strict=True):
        total = math.fsum(math.exp(logit) for logit in row)
        slow = math.log(math.fsum((math.exp(logit) / total) ** 2 for logit in row))
        assert found == pytest.approx(slow, rel=1e-12)
    far = torch.tensor([[3e4, -3e4], [3e4, 3e4]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert log_squares(far.to(dtype)).tolist() == pytest.approx([0.0, -math.log(2)])


@pytest.mark.parametrize("terms", ["wpo:1", "dpo:0.5,wpo:0.5", "kto:2:desirable_weight=3"])
def test_terms_without_what_depends_on_the_rows(terms: str) -> None:
    """Weights of rows are left out of the first check, not the loss with them."""
    start = Preference(Combined(0.4, terms)).with_known_start()
    logps = torch.tensor([[-3.0, -5.0, -4.0, -2.0]], dtype=torch.float64)
    assert start.at_start is not None
    assert float(start(paired(logps, logps))) == pytest.approx(start.at_start)


def test_what_the_longer_answer_has_more_weighs_less() -> None:
    loss = LDDPO(excess_weight=0.25)
    assert loss.weigh([1, 2, 3, 4], [5, 6]) == ([1, 1, 0.25, 0.25], [1, 1])
    assert loss.weigh([1], [5, 6]) == ([1], [1, 0.25])


def test_figures_need_no_float64() -> None:
    """Which some devices lack."""
    reward = torch.zeros(2, device="meta")
    assert pair_accuracy(reward, reward).dtype == torch.float32


@pytest.mark.parametrize("terms", ["simpo:1,nll:1", "dpo:1:beta=0.3,simpo:1"])
def test_a_common_beta_that_no_term_has_is_refused(terms: str) -> None:
    with pytest.raises(UserError, match=r"--beta is that of terms .* leave --beta out"):
        Preference(Combined(0.2, terms)).check()
    Preference(Combined(0.2, "dpo:1,simpo:1")).check()
    Preference(Combined(terms=terms)).check()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("", "needs the losses and their weights: --terms dpo:0.8"),
        ("dpo", "'dpo' has no weight. Write it as NAME:WEIGHT"),
        ("dpo:0", "the weight of dpo is 0; give a number above 0"),
        ("dpo:nan", "the weight of dpo is nan"),
        ("dpo:1,dpo:2", "has dpo twice"),
        ("dop:1", r"no loss 'dop' \(did you mean dpo"),
        ("nll:1", "no loss that compares two answers"),
        ("mpo:1", "mpo is a sum itself. Write dpo:0.8"),
        ("ddpo:1,nll:1", "can't have ddpo: its weights of tokens would"),
        (
            "dpo:1:gamma=3",
            "'gamma=3' is not a setting of dpo. Its settings: beta=..., label_smoothing",
        ),
        ("bco:1:reward_shift=x", "reward_shift of bco is 'x'; give running or a number"),
        ("dpo:1:beta=1:beta=2", "has a setting twice"),
        ("dpo:1:beta=-1", r"--terms, dpo: --beta is -1.0; give above 0.* dpo:1:setting=value"),
        ("fdpo:2:divergence=alpha", "--terms, fdpo: .*divergence-alpha.* fdpo:2:setting=value"),
    ],
)
def test_terms_that_make_no_sense(terms: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preference(Combined(terms=terms)).check()


@pytest.mark.parametrize("loss", losses_of(0.3), ids=lambda loss: loss.name)
def test_the_known_value_at_the_start_and_its_slope(loss: PairLoss) -> None:
    """Of every loss that knows it, beside a reference that is the policy."""
    logps = torch.tensor([[-3.0, -5.0, -4.0, -2.0, -1.0, -6.0]], dtype=torch.float64)
    logps = logps[:, : branches(loss)]
    loss = loss.with_known_start()
    if loss.at_start is None:
        assert not loss.needs_reference or loss.name == "vdpo"
        return
    assert math.isclose(float(loss(paired(logps, logps))), loss.at_start, rel_tol=1e-12)
    for away in ([1e-6], [5e-7, -5e-7, -5e-7], [5e-7, -5e-7, -5e-7, 5e-7, 5e-7, -5e-7]):
        away = away[: branches(loss)]
        step = torch.zeros_like(logps)
        step[0, : len(away)] = torch.tensor(away)
        moved = float(loss(paired(logps + step, logps)))
        assert abs(moved - loss.at_start) / 1e-6 <= loss.slope_at_start * (1 + 1e-5)


def one_pair(loss_of: Preference) -> float:
    sums = torch.tensor([[-6.0, -4.0]], dtype=torch.float64)
    old = torch.tensor([[-9.0, -2.0]], dtype=torch.float64)
    return float(loss_of(PairLogps(sums, old, torch.tensor([[3, 2]]))))


def test_per_token_divides_both_branches_by_their_length() -> None:
    """(-2 + 3) - (-2 + 1) = 2; 2 - 1 = 1."""
    assert math.isclose(one_pair(Preference(IPO(0.5), per_token=True)), 1.0)


@pytest.mark.parametrize("loss", [SimPO(2.0), ORPO(2.0)], ids=lambda loss: loss.name)
def test_rewards_of_a_loss_of_means_are_of_means(loss: SimPO | ORPO) -> None:
    """-6 over 3 tokens is -2, -4 over 1 token -4: the sums would rank them the other way."""
    sums, counts = torch.tensor([[-6.0, -4.0]]), torch.tensor([[3, 1]])
    measures = Preference(loss).measures(PairLogps(sums, torch.zeros(1, 2), counts))
    assert measures["rewards_chosen"].tolist() == [-4.0]
    assert measures["rewards_margin"].tolist() == [4.0]
    assert measures["rewards_accuracy"].tolist() == [1.0]


def uneven(dtype: torch.dtype = torch.float64) -> tuple[PairLogps, list[list[list[float]]]]:
    """Four pairs of answers of very different lengths, some weighed; and their tokens' log-ratios.

    The ratios of an answer are its tokens' weighed log-ratios, followed by the sum of weights.
    """
    draw = torch.Generator().manual_seed(11)
    lengths = [(3, 17), (40, 2), (5, 6), (1, 30)]
    columns: dict[str, list[list[float]]] = {"policy": [], "reference": [], "weights": []}
    ratios: list[list[list[float]]] = []
    for pair in lengths:
        answers = []
        for key in columns:
            columns[key].append([])
        for length in pair:
            new, old = -3 * torch.rand(2, length, generator=draw, dtype=torch.float64)
            weights = 1 + torch.rand(length, generator=draw, dtype=torch.float64)
            columns["policy"][-1].append(math.fsum((weights * new).tolist()))
            columns["reference"][-1].append(math.fsum((weights * old).tolist()))
            columns["weights"][-1].append(math.fsum(weights.tolist()))
            answers.append([*(weights * (new - old)).tolist(), columns["weights"][-1][-1]])
        ratios.append(answers)
    policy, reference, weights = (torch.tensor(one, dtype=dtype) for one in columns.values())
    counts = torch.tensor(lengths)
    other = PairLogps(
        policy.flip(0), reference.flip(0), counts.flip(0), weight_sums=weights.flip(0)
    )
    return PairLogps(policy, reference, counts, weight_sums=weights, contrast=other), ratios


PER_TOKEN = [
    loss
    for loss in losses_of(0.4)
    if not (loss.averages_tokens or loss.follows_rewards or loss.views or loss.needs_squares)
]


@pytest.mark.parametrize("loss", PER_TOKEN, ids=lambda loss: loss.name)
def test_what_is_logged_as_reward_is_what_the_loss_reads(loss: Any) -> None:
    """With `--per-token true` beta times a weighed mean of log-ratios, by a slow loop."""
    logps, ratios = uneven()
    measures = Preference(loss, per_token=True).measures(logps)
    slow = [[0.4 * math.fsum(own[:-1]) / own[-1] for own in pair] for pair in ratios]
    for column, branch in enumerate(("chosen", "rejected")):
        expected = [pair[column] for pair in slow]
        assert measures[f"rewards_{branch}"].tolist() == pytest.approx(expected, rel=1e-12)
        assert torch.equal(measures[f"logps_{branch}"], logps.policy[:, column])
    margins = [good - bad for good, bad in slow]
    assert measures["rewards_margin"].tolist() == pytest.approx(margins, rel=1e-12)
    assert measures["rewards_accuracy"].tolist() == [float(margin > 0) for margin in margins]
    sums = Preference(loss).measures(logps)
    assert measures["rewards_accuracy"].tolist() != sums["rewards_accuracy"].tolist()
    if loss.mismatched:
        every = [math.fsum(own[:-1]) / own[-1] for pair in ratios for own in pair]
        shift = max(0.0, math.fsum(every) / len(every))
        assert measures["kl"].tolist() == pytest.approx([shift] * 4, rel=1e-12)


def test_the_logged_margin_is_that_of_the_loss_itself() -> None:
    """The loss as a function of the logged margin: of DPO -ln sigmoid, of IPO its square."""
    logps, _ = uneven()
    dpo, ipo = Preference(DPO(0.4), per_token=True), Preference(IPO(0.4), per_token=True)
    margin = dpo.measures(logps)["rewards_margin"]
    assert torch.allclose(dpo(logps), -torch.nn.functional.logsigmoid(margin), rtol=1e-12)
    margin = ipo.measures(logps)["rewards_margin"]
    assert torch.allclose(ipo(logps), (margin / 0.4 - 1 / 0.8) ** 2, rtol=1e-12)


def test_rewards_of_single_answers_are_what_the_loss_reads() -> None:
    """Also their margin against the divergence, which then is one of means; log-probs stay sums."""
    logps, ratios = uneven()
    labels, other = [True, False, False, True], logps.contrast
    assert other is not None and other.weight_sums is not None
    single = PairLogps(
        logps.policy[:, :1], logps.reference[:, :1], logps.token_counts[:, :1],
        weight_sums=None if logps.weight_sums is None else logps.weight_sums[:, :1],
        contrast=PairLogps(
            # Half a nat more a token, so that the estimate is above its floor of 0.
            other.policy[:, :1] + 2 * other.weight_sums[:, :1], other.reference[:, :1],
            other.token_counts[:, :1], weight_sums=other.weight_sums[:, :1],
        ),
        labels=torch.tensor(labels).unsqueeze(-1),
    )  # fmt: skip
    loss = Preference(KTO(0.4), per_token=True)
    measures = loss.measures(single)
    means = [math.fsum(pair[0][:-1]) / pair[0][-1] for pair in ratios]
    shift = math.fsum(means) / 4 + 2
    assert measures["kl"].tolist() == pytest.approx([shift] * 4, rel=1e-12)
    expected = [
        (1 if good else -1) * 0.4 * (own - shift) for own, good in zip(means, labels, strict=True)
    ]
    assert measures["rewards_margin"].tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(loss(single), torch.sigmoid(-measures["rewards_margin"]), rtol=1e-12)
    assert measures["logps_chosen"].tolist() == single.policy[[0, 3], 0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equal_policies_tie_within_rounding_per_token(dtype: torch.dtype) -> None:
    """Rewards that differ by the sums' rounding in float32 count half, whatever the length."""
    logps, _ = uneven(torch.float32)
    sums = logps.policy.to(dtype).float()
    same = dataclasses.replace(logps, policy=sums * (1 + 2e-7), reference=sums)
    measures = Preference(DPO(0.4), per_token=True).measures(same)
    assert measures["rewards_accuracy"].tolist() == [0.5] * 4
    # A hundredth of a nat in the sum of 30 tokens is not a rounding.
    moved = dataclasses.replace(same, policy=sums + torch.tensor([[0.01, -0.01]]))
    assert Preference(DPO(0.4), per_token=True).measures(moved)["rewards_accuracy"].eq(1).all()


def test_rewards_of_a_sum_compare_with_the_reference_where_a_term_does() -> None:
    """Of SimPO beside DPO they would be means less a reference's, which neither loss reads."""
    logps, _ = uneven()
    mixed = Preference(Combined(terms="simpo:1,dpo:1:beta=0.3")).measures(logps)
    alone = Preference(DPO(0.3)).measures(logps)
    for name, values in alone.items():
        assert torch.equal(mixed[name], values), name


def test_terms_add_up_with_their_weights() -> None:
    """(5 - 1)^2 = 16, and 6 nats over 3 tokens, whatever `per_token` does to the loss."""
    assert math.isclose(one_pair(Preference(IPO(0.5), (Likelihood(0.25),))), 16.5)
    both = (Likelihood(0.25), Likelihood(1.0))
    assert math.isclose(one_pair(Preference(IPO(0.5), both, per_token=True)), 1.0 + 2.5)


def test_only_what_is_known_at_the_start_is_compared_there() -> None:
    objective = Preference(DPO(0.1), (Likelihood(0.5),))
    assert objective.at_start is None
    assert objective.with_known_start() == Preference(DPO(0.1))
    assert objective.with_known_start().at_start == math.log(2)


def test_an_objective_describes_itself() -> None:
    objective = AveragedPreference(IPO(0.9), (Likelihood(0.5),), per_token=True)
    assert objective.describe() == {
        "name": "ipo",
        "title": "identity preference optimization (IPO)",
        "options": {
            "loss": "ipo", "beta": 0.9, "nll_weight": 0.5, "per_token": True,
            "first_rejected_weight": 0.5,
        },
        "at_start": 1 / (4 * 0.81),
        "needs_reference": True,
        "rewards": {"beta": 0.9, "of": "means"},
    }  # fmt: skip
    assert Preference(SimPO()).describe()["rewards"] == {"beta": 2.0, "of": "means"}
    mixed = Preference(Combined(terms="simpo:1,dpo:1:beta=0.3")).describe()
    assert mixed["rewards"] == {"beta": 0.3, "of": "sums"}
    assert "nll_weight" not in str(Preference().describe()["options"])
    assert KTO().title == "Kahneman-Tversky optimization (KTO)"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Preference(DPO(beta=0.0)), "--beta is 0.0; give above 0"),
        (Preference(IPO(beta=math.inf)), "--beta is inf"),
        (Preference(DPO(label_smoothing=0.5)), "--label-smoothing is 0.5; give 0 to below 0.5"),
        (AveragedPreference(first_rejected_weight=1.5), "--first-rejected-weight is 1.5"),
        (Preference(SimPO(), per_token=True), "--loss simpo divides.* would divide them twice"),
        (Preference(ORPO(), per_token=True), "--loss orpo divides .* Leave --per-token out"),
        (Preference(terms=(Likelihood(-1.0),)), "--nll-weight is -1.0; give 0 or more"),
        (Preference(MPO(), (Likelihood(1.0),)), "--loss mpo has the likelihood already"),
        (Preference(MPO(), per_token=True), "running reward shift .* Leave --per-token out"),
        (Preference(Combined(terms="dpo:1,simpo:1"), per_token=True), "--terms simpo divides"),
        (Preference(Combined(terms="dpo:1,nll:1"), (Likelihood(1.0),)), "^--terms has the likel"),
        (Preference(Combined(terms="kto:1,mdpo:1")), "can't have both kto and mdpo"),
        (Preference(Combined(terms="symmpo:1,svco:1")), "have both symmpo and svco"),
        (Preference(KTO(desirable_weight=0.0)), "--desirable-weight is 0.0; give above 0"),
        (Preference(FDPO(divergence="alpha")), "needs --divergence-alpha, such as 0.5"),
        (Preference(FDPO(divergence_alpha=0.5)), "means nothing with --divergence js"),
        (Preference(LDDPO(excess_weight=1.0)), "--excess-weight is 1.0; give 0 to below 1"),
        (Preference(MPO(quality_weight=0.0, reward_shift=1.0)), "Leave --reward-shift out"),
    ],
)
def test_settings_that_make_no_sense(objective: Preference, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective.check()


def test_every_loss_and_term_documents_its_fields() -> None:
    parts = (*get_args(AnyPairLoss), *get_args(tuple[AnyTerm]))
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        documented = documentation_of(part)
        assert all(documented.get(field.name) for field in dataclasses.fields(part))
