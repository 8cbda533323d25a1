"""Every family: our log-probs, gradients and samples are those of its own processor and forward.

Tiny random models of Transformers' own classes in float64, with each family's own processor.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family_models import Family
from PIL import Image

from veridical.checks.prefix_sharing import sharing
from veridical.checks.probes import masking_refusal
from veridical.data.image_checks import size_refusal
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.batching import collate, row_batch, shared_batch
from veridical.models.lengths import counting, measured
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.masked_prompts import encode_prompts, masked_prompt_batch
from veridical.models.measures import stock_logps
from veridical.models.placeholders import placeholder_counts
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group
from veridical.models.token_scores import token_scores
from veridical.models.tuning import Tuning, prepare_training
from veridical.models.vision_cache import VisionCache, features_if_taken
from veridical.objectives.dpo import dpo_loss
from veridical.runtime.cache import open_cache
from veridical.runtime.errors import UserError
from veridical.sampling import (
    Decoding,
    Request,
    complete_masked,
    never_sampled,
    respond,
)
from veridical.sampling.parity import require_parity
from veridical.sampling.rollouts import roll_out, rollout_group
from veridical.train.loop.start import load_start
from veridical.train.options import Training


def equal(family: Family, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal, as closely as this family computes."""
    return torch.allclose(one, other, rtol=family.close, atol=family.close)


@torch.no_grad()
def test_two_rows_equal_the_stock_forward(
    family: Family, policy: Policy, groups: list[Group]
) -> None:
    ours = response_logps(policy.model, row_batch(policy, groups)).sums
    stock = torch.stack([stock_logps(policy, group) for group in groups])
    assert equal(family, ours, stock)


@torch.no_grad()
def test_shared_prefix_equals_the_stock_forward(
    family: Family,
    policy: Policy,
    groups: list[Group],
    record_property: Callable[[str, object], None],
) -> None:
    verdict = sharing(policy, groups)
    assert verdict.allowed == (family.shares is None), verdict.reason
    if family.shares is not None:
        assert family.shares in verdict.reason
        record_property("refused", family.shares)
        return
    ours = response_logps(policy.model, shared_batch(policy, groups)).sums
    stock = torch.stack([stock_logps(policy, group) for group in groups])
    assert equal(family, ours, stock)


@torch.no_grad()
def test_a_row_alone_equals_the_row_in_a_batch(
    family: Family, policy: Policy, groups: list[Group]
) -> None:
    for share in (False, True) if family.shares is None else (False,):
        together = response_logps(policy.model, collate(policy, groups, share)).sums
        reverse = response_logps(policy.model, collate(policy, groups[::-1], share)).sums
        alone = [response_logps(policy.model, collate(policy, [g], share)).sums for g in groups]
        assert equal(family, together, torch.cat(alone))
        assert equal(family, together, reverse.flip(0))


def test_gradients_are_equal_and_stay_in_the_language_model(
    family: Family, policy: Policy, groups: list[Group]
) -> None:
    policy = prepare_training(policy, Tuning(kind="lora", rank=2, alpha=4))
    decoder = policy.core.get_decoder()
    inside = {id(parameter) for parameter in decoder.parameters()}
    trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(id(parameter) in inside for parameter in trained.values()), sorted(trained)
    for name, parameter in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    policy.model.train()
    gradients = [gradient(policy, groups, share) for share in (False, family.shares is None)]
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    gradients.append(gradient(policy, groups, family.shares is None))
    assert any(float(value.abs().max()) > 1e-6 for value in gradients[0].values())
    for name, value in gradients[0].items():
        assert all(equal(family, value, other[name]) for other in gradients[1:]), name


def gradient(policy: Policy, groups: list[Group], share: bool) -> dict[str, torch.Tensor]:
    policy.model.zero_grad()
    sums = response_logps(policy.model, collate(policy, groups, share)).sums
    zeros = torch.zeros(len(groups), dtype=torch.float64)
    dpo_loss(sums[:, 0], sums[:, 1], zeros, zeros - 1, 0.1).mean().backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_placeholders_are_features_after_truncation(
    family: Family, policy: Policy, groups: list[Group]
) -> None:
    cut = [
        dataclasses.replace(
            group, response_ids=tuple(ids[:2] for ids in group.response_ids), cut=(True, True)
        )
        for group in groups
    ]
    for share in (False, True) if family.shares is None else (False,):
        batch = collate(policy, cut, share)
        placeholders, features = placeholder_counts(policy, batch)
        assert placeholders == features
        assert [count > 0 for count in placeholders] == [
            bool(g.images) for g in cut for _ in range(1 if share else 2)
        ]


@torch.no_grad()
def test_images_are_told_apart_by_their_placeholder(
    family: Family, policy: Policy, groups: list[Group]
) -> None:
    two = groups[1]
    swapped = dataclasses.replace(two, images=two.images[::-1])
    ours = response_logps(policy.model, row_batch(policy, [two, swapped])).sums
    stock = torch.stack([stock_logps(policy, group) for group in (two, swapped)])
    assert equal(family, ours, stock)
    assert float((ours[0] - ours[1]).abs().max()) > 1e-3


def test_generation_in_a_batch_is_generation_one_by_one(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    asked = [
        Request(Prompt("a", pictures[:1], [user_message("Describe the image.")])),
        Request(
            Prompt("b", pictures[1:3], [user_message("Compare the two pictures. Yes.", images=2)])
        ),
        Request(Prompt("c", [], [user_message("What do you see?", images=0)])),
        Request(Prompt("d", pictures[3:], [user_message("Describe the image.")]), prefix="This is"),
    ]
    for temperature in (0.0, 1.0):
        together = respond(policy, asked, Decoding(8, temperature), label="")
        alone = [respond(policy, [r], Decoding(8, temperature), label="")[0] for r in asked]
        assert together == alone


@torch.no_grad()
def test_generation_from_kept_features_is_generation_from_pictures(
    family: Family,
    policy: Policy,
    pictures: list[Image.Image],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    asked = [
        Request(Prompt("a", pictures[:1], [user_message("Describe the image.")])),
        Request(
            Prompt("b", pictures[1:3], [user_message("Compare the two pictures. Yes.", images=2)])
        ),
        Request(Prompt("c", [], [user_message("What do you see?", images=0)])),
        Request(Prompt("d", pictures[:1], [user_message("What is this?")]), prefix="This is"),
    ]
    try:
        kept = VisionCache(policy, open_cache(str(tmp_path), 1))
        seeing = dataclasses.replace(policy, vision=kept)
        from_features = respond(seeing, asked, Decoding(8, 1.0), label="")
    except UserError as refusal:
        assert "Leave --vision-cache off" in str(refusal)
        assert family.keeps is not None and family.keeps in str(refusal)
        record_property("refused", family.keeps)
        # Where nobody demands it, images are encoded again instead.
        vision, reason = features_if_taken(policy, open_cache(str(tmp_path), 1))
        assert vision is not None or family.keeps in reason
        offered = dataclasses.replace(policy, vision=vision)
        sees = respond(offered, asked, Decoding(8, 1.0), label="")
        assert sees == respond(policy, asked, Decoding(8, 1.0), label="")
        return
    assert family.keeps is None
    assert from_features == respond(policy, asked, Decoding(8, 1.0), label="")


@torch.no_grad()
def test_rollouts_are_separate_answers_with_the_log_probs_of_a_forward_pass(
    family: Family, policy: Policy, pictures: list[Image.Image]
) -> None:
    asked = [
        Request(Prompt("a", pictures[:1], [user_message("Describe the image.")])),
        Request(
            Prompt("b", pictures[1:3], [user_message("Compare the two pictures. Yes.", images=2)])
        ),
        Request(Prompt("c", [], [user_message("What do you see?", images=0)])),
    ]
    rolled = roll_out(policy, asked, Decoding(8, 1.0), k=2)
    apart = [
        Request(dataclasses.replace(r.prompt, id=f"{r.prompt.id}/{n}"))
        for r in asked
        for n in range(2)
    ]
    slow = [respond(policy, [request], Decoding(8, 1.0), label="")[0] for request in apart]
    flat = [sample for row in rolled for sample in row]
    assert [s.token_ids for s in flat] == [s.token_ids for s in slow]
    groups = [rollout_group(policy, *pair) for pair in zip(asked, rolled, strict=True)]
    scores = token_scores(policy.model, row_batch(policy, groups), 1.0, never_sampled(policy))
    # A running state is kept in float32, and is made in another way of a whole row.
    kinds = getattr(policy.core.config.get_text_config(), "layer_types", None) or ()
    close = 1e-4 if "linear_attention" in kinds else max(1e-8, family.close)
    for row, sample in zip(scores.logps, flat, strict=True):
        drawn = torch.tensor(sample.logps, dtype=torch.float64)
        assert torch.allclose(row[: len(drawn)], drawn, rtol=0, atol=close)


@torch.no_grad()
def test_dropping_masked_image_tokens_is_masking_them(
    family: Family,
    policy: Policy,
    pictures: list[Image.Image],
    record_property: Callable[[str, object], None],
) -> None:
    prompt = [user_message("Describe the image.")]
    refusal = masking_refusal(policy, Request(Prompt("r", pictures[:1], prompt)))
    assert (refusal is None) == (family.masks is None), refusal
    if family.masks is not None:
        assert refusal is not None and family.masks in refusal
        record_property("refused", family.masks)
        return
    text = render_prompt(policy, prompt)
    encoded = encode_prompts(policy, [[pictures[0]], [pictures[1]]], [text, text])
    seen = [torch.arange(int(e.is_image.sum())) % 3 == 0 for e in encoded]
    logits = []
    for drop in (True, False):
        batch = masked_prompt_batch(policy, encoded, ["", "This is"], [text] * 2, seen, drop)
        logits.append(policy.core(**batch.inputs).logits[:, -1])
    assert equal(family, *logits)
    asked = [Request(Prompt(f"m{i}", [p], prompt), "This is") for i, p in enumerate(pictures)]
    keys = [request.prompt.id for request in asked]
    answers = [
        complete_masked(policy, asked, keys, 0.7, Decoding(6, 1.0), False, drop)
        for drop in (True, False)
    ]
    assert answers[0] == answers[1]


@torch.no_grad()
def test_save_and_load(policy: Policy, groups: list[Group], tmp_path: Path) -> None:
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path), dtype="float64", device="cpu")
    # Where torchvision is at hand it resizes the images of a loaded processor, a little otherwise.
    before = Policy(policy.model, loaded.processor, policy.name)
    ours, theirs = (response_logps(p.model, row_batch(p, groups)).sums for p in (before, loaded))
    # The loaded model's norms round to float32.
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_our_decoding_is_the_models_own_generate(policy: Policy) -> None:
    require_parity(policy)


def test_dpo_learns_in_single_and_half_precision(
    family: Family,
    policy: Policy,
    groups: list[Group],
    record_property: Callable[[str, object], None],
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        start = dataclasses.replace(policy, model=cast_weights(copy.deepcopy(policy.model), dtype))
        verdict = sharing(start, groups)
        expected = family.shares is None
        assert verdict.allowed == expected or dtype == torch.bfloat16, verdict.reason
        if expected and not verdict.allowed:
            record_property("refused", "bfloat16 in two rows")
        trained = prepare_training(start, Tuning(kind="lora", rank=2, alpha=4))
        weights = [p for p in trained.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-2)
        batch = collate(trained, groups[:1], verdict.allowed)
        with torch.no_grad():
            reference = response_logps(trained.model, batch).sums
        margins: list[float] = []
        for _ in range(4):
            sums = response_logps(trained.model, batch).sums
            loss = dpo_loss(sums[:, 0], sums[:, 1], reference[:, 0], reference[:, 1], 0.1)
            margins.append(float((sums[0, 0] - sums[0, 1]).detach()))
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        assert all(map(math.isfinite, margins)), margins
        assert margins[-1] > margins[0], margins


def test_what_is_not_supported_is_refused_by_name(refused: Family, tmp_path: Path) -> None:
    policy = refused.build()
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=tmp_path.name) as caught:
        load_start(str(tmp_path), Training(learning_rate=1e-6, device="cpu"))
    assert str(refused.refused) in str(caught.value)


# SmolVLM's processor has no such method, and LLaVA-OneVision's is not right for every size.
COUNTS = {
    "LLaVA", "LLaVA-NeXT", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5", "Idefics3", "InternVL", "Gemma 3",
}  # fmt: skip
SIDES = (5, 16, 17, 33, 48, 61, 90, 100, 257)


def test_counted_prompts_are_as_long_as_the_processor_makes_them(
    family: Family, policy: Policy
) -> None:
    sizes = [(width, height) for width in SIDES for height in SIDES]
    pictures = [Image.new("RGB", size) for size in sizes]
    usable = [p for p in pictures if not size_refusal(policy.processor, p.size)]
    rows = [[p] for p in usable] + [[usable[i], usable[-i], usable[i]] for i in range(1, 9)] + [[]]
    prompts = [
        (tuple(row), render_prompt(policy, [user_message("What do you see?", images=len(row))]))
        for row in rows
    ]
    counts = counting(policy, prompts)
    assert not isinstance(counts, str) or family.name not in COUNTS
    if isinstance(counts, str):
        pytest.skip("its processor cannot count: prompts are measured")
    wrong = [
        (tuple(i.size for i in prompt[0]), counts.length(prompt), measured(policy, prompt))
        for prompt in prompts
        if counts.length(prompt) != measured(policy, prompt)
    ]
    assert not wrong, wrong[:5]
