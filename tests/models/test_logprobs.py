"""The shared-prefix path against the two-row path and the stock forward.

Most of it in float64 with norms that compute in it; what holds on the model that ships is last.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from PIL import Image

from veridical.checks import prefix_sharing
from veridical.checks.prefix_sharing import sharing
from veridical.data.records import assistant_message, user_message
from veridical.models import batching, logprobs
from veridical.models.batching import collate, row_batch, shared_batch
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.prefix_masks import shared_mask
from veridical.models.rendering import Group, render_group
from veridical.models.rounding import rounding_of_logps
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.dpo import dpo_loss
from veridical.runtime.options import DtypeName


def test_shared_prefix_equals_two_rows_equals_stock(policy: Policy, groups: list[Group]) -> None:
    with torch.no_grad():
        shared = response_logps(policy.model, shared_batch(policy, groups))
        rows = response_logps(policy.model, row_batch(policy, groups))
        stock = torch.stack([stock_logps(policy, group) for group in groups])
    assert torch.allclose(shared.sums, rows.sums, rtol=0, atol=1e-10)
    assert torch.allclose(shared.sums, stock, rtol=0, atol=1e-10)
    assert torch.equal(shared.counts, rows.counts)
    expected = [[len(ids) for ids in group.response_ids] for group in groups]
    assert shared.counts.tolist() == expected


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradients_are_equal(
    policy: Policy, groups: list[Group], checkpointing: bool, kind: str
) -> None:
    tuning = Tuning(
        kind="full" if kind == "full" else "lora", rank=4, alpha=8, train_projector=True
    )
    policy = prepare_training(policy, tuning)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.model.train()
    gradients = []
    for path in ("shared", "two-row", "stock"):
        policy.model.zero_grad()
        if path == "stock":
            sums = torch.stack([stock_logps(policy, group) for group in groups])
        else:
            sums = response_logps(policy.model, collate(policy, groups, path == "shared")).sums
        zeros = torch.zeros(len(groups), dtype=torch.float64)
        dpo_loss(sums[:, 0], sums[:, 1], zeros, zeros - 1, 0.1).mean().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() == gradients[2].keys()
    assert any("multi_modal_projector" in name for name in gradients[0])
    assert not any("vision_tower" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=0, atol=1e-10), name
        assert torch.allclose(gradient, gradients[2][name], rtol=0, atol=1e-10), name


def test_text_only_rows_may_stand_beside_rows_with_images(
    policy: Policy, groups: list[Group]
) -> None:
    text_only = render_group(
        policy,
        "text",
        [],
        [user_message("Describe the image.", images=0)],
        [[assistant_message("This is a park.")], [assistant_message("No.")]],
    )
    mixed = [groups[0], text_only, groups[1]]
    with torch.no_grad():
        shared = response_logps(policy.model, shared_batch(policy, mixed)).sums
        rows = response_logps(policy.model, row_batch(policy, mixed)).sums
        stock = torch.stack([stock_logps(policy, group) for group in mixed])
    assert torch.allclose(shared, rows, rtol=0, atol=1e-10)
    assert torch.allclose(shared, stock, rtol=0, atol=1e-10)


def test_a_group_may_have_many_responses(policy: Policy, groups: list[Group]) -> None:
    group = dataclasses.replace(
        groups[0],
        response_texts=groups[0].response_texts * 2,
        response_ids=groups[0].response_ids * 2,
        cut=(False,) * 4,
    )
    with torch.no_grad():
        sums = response_logps(policy.model, shared_batch(policy, [group])).sums[0]
    assert torch.allclose(sums[:2], sums[2:], rtol=0, atol=1e-10)


def test_cut_responses_lose_their_end_on_both_paths(policy: Policy, groups: list[Group]) -> None:
    cut = [
        dataclasses.replace(
            g, response_ids=tuple(ids[:3] for ids in g.response_ids), cut=(True, True)
        )
        for g in groups
    ]
    with torch.no_grad():
        shared = response_logps(policy.model, shared_batch(policy, cut))
        rows = response_logps(policy.model, row_batch(policy, cut))
    assert torch.allclose(shared.sums, rows.sums, rtol=0, atol=1e-10)
    assert int(shared.counts.max()) == 3


def test_mask_cuts_the_block_between_responses() -> None:
    mask = shared_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
        ]
    ).bool()
    # Padding may look at the prompt: nobody reads what it computes.
    assert torch.equal(mask, expected)


def test_sdpa_takes_theadded_mask_for_the_boolean_one(policy: Policy) -> None:
    torch.manual_seed(0)
    mask = shared_mask(torch.tensor([[0, 0, 1, 1, 2], [0, 1, 2, -1, -1]]))
    added = logprobs.added_mask(policy.core, mask)
    assert added.dtype == policy.model.dtype == torch.float64
    assert torch.equal(added == 0, mask)
    assert torch.equal(added == -torch.inf, ~mask)
    states = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.equal(attend(states, states, states, added), attend(states, states, states, mask))
    by_kind = logprobs.added_mask(policy.core, {"one": mask, "other": mask.clone()})
    assert by_kind.keys() == {"one", "other"}
    assert torch.equal(by_kind["other"], added)


def test_probe_admits_llava(policy: Policy, groups: list[Group]) -> None:
    assert sharing(policy, groups).allowed


def test_probe_refuses_an_attention_without_masks(policy: Policy, groups: list[Group]) -> None:
    policy.core.config.get_text_config()._attn_implementation_internal = "flash_attention_2"
    verdict = sharing(policy, groups)
    assert not verdict.allowed
    assert "--attention sdpa" in verdict.reason


def test_probe_refuses_windows(policy: Policy, groups: list[Group]) -> None:
    config = copy.deepcopy(policy.core.config)
    config.text_config.layer_types = ["sliding_attention"] * 3
    policy.core.config = config
    assert "mask of their own" in sharing(policy, groups).reason


def test_probe_sees_responses_that_see_each_other(
    policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = batching.shared_batch

    def leaking(policy: Policy, groups: list[Group]) -> object:
        batch = honest(policy, groups)
        length = batch.inputs["attention_mask"].shape[-1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        batch.inputs["attention_mask"] = causal.expand_as(batch.inputs["attention_mask"])
        return batch

    monkeypatch.setattr(prefix_sharing, "shared_batch", leaking)
    assert not sharing(policy, groups).allowed


def test_a_response_with_its_own_image(policy: Policy, groups: list[Group]) -> None:
    """Shared layout = two rows = the stock forward where a branch sees another image."""
    own = [
        dataclasses.replace(group, response_images=(None, groups[(i + 1) % 3].images))
        if i != 1
        else group
        for i, group in enumerate(groups[:3])
    ]
    stock = torch.stack([stock_logps(policy, group) for group in own])
    for share in (True, False):
        ours = response_logps(policy.model, collate(policy, own, share)).sums
        assert torch.allclose(ours, stock, rtol=0, atol=1e-10)
    plain = response_logps(policy.model, collate(policy, groups[:3], True)).sums
    assert torch.allclose(plain[:, 0], ours[:, 0], rtol=0, atol=1e-10)
    assert (plain[[0, 2], 1] - ours[[0, 2], 1]).abs().min() > 1e-4


def test_only_learned_tokens_count(policy: Policy, groups: list[Group]) -> None:
    """The sum over a part of the tokens and over the rest make the whole, in both layouts."""
    parts = [
        tuple(torch.arange(len(ids)) % 3 == 0 for ids in group.response_ids) for group in groups
    ]
    for share in (True, False):
        whole = response_logps(policy.model, collate(policy, groups, share))
        some, rest = (
            response_logps(
                policy.model,
                collate(
                    policy,
                    [
                        dataclasses.replace(g, learned=tuple(m == keep for m in masks))
                        for g, masks in zip(groups, parts, strict=True)
                    ],
                    share,
                ),
            )
            for keep in (True, False)
        )
        assert torch.allclose(some.sums + rest.sums, whole.sums, rtol=0, atol=1e-10)
        assert torch.equal(some.counts + rest.counts, whole.counts)
        assert bool((some.counts < whole.counts).all())


def test_the_unit_of_rounding_covers_answers_near_to_certain() -> None:
    """What a model said itself sums up to nearly 0 nats, but its logits are as large as ever."""
    torch.manual_seed(0)
    exact = torch.randn(200, 64, 50, dtype=torch.float64)
    exact[..., 0] += 16
    noise = 1 + torch.finfo(torch.float32).eps * (torch.rand_like(exact) - 0.5)
    sums, noisy = (x.log_softmax(-1)[..., 0].sum(-1) for x in (exact, exact * noise))
    assert sums.abs().max() < 1
    moved = (noisy - sums).abs()
    unit = rounding_of_logps(sums, torch.float32, 64)
    naive = torch.finfo(torch.float32).eps
    assert float(moved.max()) < unit
    assert unit < 200 * naive
    # A long improbable answer is rounded as its sum is.
    assert rounding_of_logps(torch.tensor([-900.0]), torch.float32, 4) == pytest.approx(900 * naive)


def _gradient(policy: Policy, groups: list[Group], path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of these rows, and the gradient of all trained weights as one vector."""
    policy.model.zero_grad()
    if path == "stock":
        sums = torch.stack([stock_logps(policy, group) for group in groups])
    else:
        sums = response_logps(policy.model, collate(policy, groups, path == "shared")).sums
    zeros = torch.zeros(len(groups), dtype=sums.dtype)
    dpo_loss(sums[:, 0], sums[:, 1], zeros, zeros - 1, 0.1).mean().backward()
    found = [p.grad.double().flatten() for p in policy.model.parameters() if p.grad is not None]
    return sums.detach().double(), torch.cat(found)


def _shipped(dtype: DtypeName, pictures: list[Image.Image]) -> tuple[Policy, list[Group]]:
    torch.manual_seed(0)
    policy = prepare_training(load_policy("embedded", dtype, "cpu"), Tuning(rank=4, alpha=8))
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    prompt = [user_message("Describe the image.")]
    said = [("There is a red cup.", "There is a blue dog on the left."), ("Yes.", "No, a cat.")]
    groups = [
        render_group(policy, f"{i}", [picture], prompt, [[assistant_message(t)] for t in texts])
        for i, (picture, texts) in enumerate(zip(pictures, said * 2, strict=False))
    ]
    return policy, groups


@pytest.mark.parametrize(
    ("dtype", "logps", "gradients"), [("float64", 1e-10, 1e-6), ("float32", 1e-4, 1e-5)]
)
def test_what_is_equal_on_the_model_that_ships(
    pictures: list[Image.Image], dtype: DtypeName, logps: float, gradients: float
) -> None:
    """Llama's norm computes in float32 in every dtype, so gradients are equal to its rounding."""
    policy, groups = _shipped(dtype, pictures)
    shared, gradient = _gradient(policy, groups, "shared")
    for path in ("two-row", "stock"):
        sums, other = _gradient(policy, groups, path)
        assert float((sums - shared).abs().max()) < logps
        assert float((other - gradient).norm()) < gradients * float(gradient.norm())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_both_layouts_are_as_near_to_float32s_gradients(
    pictures: list[Image.Image], dtype: DtypeName
) -> None:
    policy, groups = _shipped(dtype, pictures)
    model = cast_weights(copy.deepcopy(policy.model), torch.float32)
    exact = Policy(model, policy.processor, "exact")
    _, true = _gradient(exact, groups, "stock")
    away = {
        path: float((_gradient(policy, groups, path)[1] - true).norm() / true.norm())
        for path in ("shared", "two-row", "stock")
    }
    assert away["shared"] < 2 * max(away["two-row"], away["stock"])
    assert away["shared"] < {"bfloat16": 0.2, "float16": 0.03}[dtype], away
