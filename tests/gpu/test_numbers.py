"""Log-probs, proofs, probes and gradients on a device are those of float64 on the CPU."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from family_models import Family
from PIL import Image
from torch import Tensor

from veridical.checks.prefix_sharing import sharing
from veridical.checks.probes import masking_refusal
from veridical.checks.proving import noise_floor, prove
from veridical.checks.starts import prove_start
from veridical.models import batch, prefix_masks
from veridical.models.batch import Batch
from veridical.models.batching import collate, row_batch
from veridical.models.logprobs import response_logps
from veridical.models.masked_prompts import masked_prompt_batch
from veridical.models.policy import Policy, takes_features
from veridical.models.rendering import Group
from veridical.models.reward_model import new_head
from veridical.models.token_scores import token_scores, token_values
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.dpo import dpo_loss
from veridical.objectives.policy_gradient import clipped_policy_losses
from veridical.objectives.ppo import clipped_value_losses
from veridical.sampling import Decoding, Request, never_sampled
from veridical.sampling.rollouts import roll_out, rollout_group

from .conftest import Tried, make_group

Measured = Callable[[str, float], float]


def layouts(family: Family) -> tuple[bool, ...]:
    return (False, True) if family.shares is None else (False,)


@torch.no_grad()
def test_log_probs_are_the_cpus(
    family: Family, tried: Tried, groups: list[Group], measured: Measured
) -> None:
    wanted = response_logps(tried.exact.model, row_batch(tried.exact, groups))
    for share in layouts(family):
        found = response_logps(tried.policy.model, collate(tried.policy, groups, share)).sums
        off = (found.cpu().double() - wanted.sums).abs() / wanted.counts.sqrt()
        assert measured("off", float(off.max())) < tried.bounds.logps


@torch.no_grad()
def test_the_five_proofs_hold(family: Family, tried: Tried, groups: list[Group]) -> None:
    share = sharing(tried.policy, groups).allowed

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        return collate(policy, rows, share)

    found = prove(tried.policy, groups, lay_out)
    floor = noise_floor(tried.policy, groups)
    ours = response_logps(tried.policy.model, lay_out(tried.policy, groups)).sums
    found.append(prove_start(ours, ours.cpu(), math.log(2), math.log(2), 0.1, floor))
    assert [(p.name, p.value, p.limit) for p in found if not p.passed] == []


@torch.no_grad()
def test_the_pixels_of_another_row_are_noticed(tried: Tried, pictures: list[Image.Image]) -> None:
    """As when a batch's images are sent in the wrong order."""
    turned = pictures[0].transpose(Image.Transpose.ROTATE_90)
    asked = ("Describe the image.", "This is a park. Yes.", "No.")
    pair = [make_group(tried.policy, "row", [picture], *asked) for picture in (pictures[0], turned)]

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        others = [row.images for row in reversed(rows)]
        crossed = [
            dataclasses.replace(row, images=images)
            for row, images in zip(rows, others, strict=True)
        ]
        return row_batch(policy, crossed)

    failed = [proof.name for proof in prove(tried.policy, pair, lay_out) if not proof.passed]
    assert "path_parity" in failed


@torch.no_grad()
def test_the_sharing_probe_finds_a_leak(
    family: Family, tried: Tried, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sharing(tried.policy, groups)
    assert honest.allowed == (family.shares is None), honest.reason
    if not honest.allowed:
        return

    def leaky(segments: Tensor, blocks: Tensor | None = None) -> Tensor:
        return shared_mask(segments.clamp(max=0), blocks)  # all responses are the prompt's

    shared_mask = prefix_masks.shared_mask
    monkeypatch.setattr(batch, "shared_mask", leaky)
    assert not sharing(tried.policy, groups).allowed


@torch.no_grad()
def test_the_masking_probe_finds_lost_positions(
    family: Family, tried: Tried, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = masking_refusal(tried.policy, requests[0])
    if refusal is not None and "this Transformers" in refusal:
        assert not takes_features(tried.policy.core)
        pytest.skip(refusal)
    assert (refusal is None) == (family.masks is None), refusal
    if refusal is not None:
        return

    def restarted(*given: Any) -> Any:
        batch, drop = masked_prompt_batch(*given), given[-1]
        if not drop:
            return batch
        counted = batch.inputs["attention_mask"].cumsum(-1) - 1
        batch.inputs["position_ids"] = counted.expand_as(batch.inputs["position_ids"]).clone()
        return batch

    monkeypatch.setattr("veridical.checks.probes.masked_prompt_batch", restarted)
    assert masking_refusal(tried.policy, requests[0]) is not None


@pytest.mark.parametrize("loss", ["dpo", "sft", "ppo"])
def test_a_step_has_the_cpus_loss_and_gradient(
    family: Family,
    tried: Tried,
    groups: list[Group],
    requests: list[Request],
    measured: Measured,
    loss: str,
) -> None:
    compute = {"dpo": dpo_of, "sft": sft_of, "ppo": ppo_of}[loss]
    if loss == "ppo":
        rolled = roll_out(tried.exact, requests, Decoding(6, 1.0), k=2)
        groups = [rollout_group(tried.exact, *pair) for pair in zip(requests, rolled, strict=True)]
    policy, exact = with_adapters(tried)
    share = family.shares is None
    found, wanted = (compute(one, groups, share) for one in (policy, exact))
    assert measured("loss off", abs(found.item() - wanted.item())) < tried.bounds.loss
    vectors = []
    for one, value in ((policy, found), (exact, wanted)):
        value.backward()
        gradients = [p.grad for p in one.model.parameters() if p.grad is not None]
        vectors.append(torch.cat([g.flatten().cpu().double() for g in gradients]))
    assert vectors[1].norm() > 1e-6
    off = float((vectors[0] - vectors[1]).norm() / vectors[1].norm())
    assert measured("gradient off", off) < tried.bounds.gradient
    if loss != "ppo":  # whose loss is relative to what it was before the step
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0).step()
        with torch.no_grad():
            assert compute(policy, groups, share).item() < found.item()


def with_adapters(tried: Tried) -> tuple[Policy, Policy]:
    """The same adapters on both models, none of them at zero."""
    torch.manual_seed(1)
    policy = prepare_training(tried.policy, Tuning(rank=2, alpha=4))
    exact = prepare_training(tried.exact, Tuning(rank=2, alpha=4))
    theirs = dict(exact.model.named_parameters())
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
                theirs[name].copy_(parameter)
    return policy, exact


def dpo_of(policy: Policy, groups: list[Group], share: bool) -> Tensor:
    sums = response_logps(policy.model, collate(policy, groups, share)).sums
    # Far from the policy's own, so that no rounding decides where the sigmoid is.
    reference = torch.tensor([[-20.0, -21.0]], device=sums.device, dtype=sums.dtype).expand_as(sums)
    losses = dpo_loss(sums[:, 0], sums[:, 1], reference[:, 0], reference[:, 1], 0.01)
    return losses.double().mean()


def sft_of(policy: Policy, groups: list[Group], share: bool) -> Tensor:
    found = response_logps(policy.model, collate(policy, groups, share))
    return -found.sums[:, 0].double().sum() / found.counts[:, 0].sum()


def ppo_of(policy: Policy, groups: list[Group], share: bool) -> Tensor:
    batch = collate(policy, groups, share)
    scores = token_scores(policy.model, batch, 1.0, never_sampled(policy))
    old = scores.logps.detach()
    noise = torch.Generator().manual_seed(2)
    advantages = torch.randn(old.shape, generator=noise, dtype=torch.float64).to(old)
    losses, _ = clipped_policy_losses(scores.logps, old, advantages, 0.2)
    head = copy.deepcopy(new_head(policy))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=noise) * 0.05)
    values = token_values(policy.model, head, batch).to(old)
    errors, _ = clipped_value_losses(values, values.detach(), advantages, 0.2)
    count = scores.mask.sum()
    return (losses[scores.mask].double().sum() + 0.1 * errors[scores.mask].double().sum()) / count
