"""Each invariant is broken on purpose, and the right proof must fire."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from veridical.checks import proof_texts
from veridical.checks.proof_texts import require
from veridical.checks.proofs import Proof, prove_placeholders
from veridical.checks.proving import noise_floor, prove
from veridical.checks.starts import prove_start
from veridical.models.batch import Batch
from veridical.models.batching import collate, row_batch, shared_batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError

Layout = Callable[[Sequence[Group]], Batch]


def by_name(found: Sequence[Proof]) -> dict[str, Proof]:
    return {proof.name: proof for proof in found}


@pytest.mark.parametrize("share", [True, False])
def test_an_honest_path_passes_all(policy: Policy, groups: list[Group], share: bool) -> None:
    found = prove(policy, groups[:4], lambda some, rows: collate(some, rows, share))
    assert [proof.name for proof in found if not proof.passed] == []
    assert all(proof.applicable for proof in found)
    require(found)


def test_limits_are_measured_in_float32(policy: Policy, groups: list[Group]) -> None:
    policy.model.float()
    found = by_name(prove(policy, groups[:4], lambda some, rows: collate(some, rows, True)))
    assert all(proof.passed for proof in found.values())
    assert 0 < found["path_parity"].limit < 0.01
    assert found["image_matters"].value > 100 * found["image_matters"].limit


def test_cut_away_image_tokens(policy: Policy, groups: list[Group]) -> None:
    """As `keep_end` truncation does: the features stay, their placeholders go."""

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        batch = row_batch(policy, rows)
        ids = batch.inputs["input_ids"]
        image = policy.core.config.image_token_id
        for row in ids:
            row[(row == image).nonzero()[:5, 0]] = policy.processor.tokenizer.unk_token_id
        return batch

    placeholders = prove_placeholders(policy, lay_out(policy, groups[:3]))
    assert not placeholders.passed
    assert placeholders.value == 5
    with pytest.raises(UserError, match="max-length"):
        require([placeholders])


def test_the_pixels_of_another_row(policy: Policy, groups: list[Group]) -> None:
    """As when one row's pixels are sent for all."""

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        batch = shared_batch(policy, rows)
        pixels = batch.inputs["pixel_values"]
        batch.inputs["pixel_values"] = pixels[:1].expand_as(pixels)
        return batch

    found = by_name(prove(policy, groups[:4], lay_out))
    assert not found["path_parity"].passed
    assert not found["batch_invariance"].passed
    assert found["placeholders"].passed


def test_no_pixels_at_all(policy: Policy, groups: list[Group]) -> None:
    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        batch = shared_batch(policy, rows)
        batch.inputs["pixel_values"] = torch.zeros_like(batch.inputs["pixel_values"])
        return batch

    found = by_name(prove(policy, groups[:4], lay_out))
    assert not found["image_matters"].passed
    assert not found["path_parity"].passed


def test_crossed_padding_sides(policy: Policy, groups: list[Group]) -> None:
    """Rows padded on the left while mask and responses are those of padding on the right."""

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        batch = row_batch(policy, rows)
        lengths = batch.inputs["attention_mask"].sum(-1)
        ids = batch.inputs["input_ids"]
        width = ids.shape[1]
        crossed = [row.roll(width - int(n)) for row, n in zip(ids, lengths, strict=True)]
        batch.inputs["input_ids"] = torch.stack(crossed)
        return batch

    found = by_name(prove(policy, groups[:4], lay_out))
    assert not found["batch_invariance"].passed
    assert not found["path_parity"].passed


def test_dropped_positions(policy: Policy, groups: list[Group]) -> None:
    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        batch = shared_batch(policy, rows)
        batch.inputs.pop("position_ids")
        return batch

    found = by_name(prove(policy, groups[:4], lay_out))
    assert not found["path_parity"].passed
    # A row alone is as wrong as in a batch: only the stock path tells.
    assert found["batch_invariance"].passed


def test_a_reference_that_is_not_the_start(policy: Policy, groups: list[Group]) -> None:
    with torch.no_grad():
        ours = response_logps(policy.model, collate(policy, groups, True)).sums
        floor = noise_floor(policy, groups)
        same = prove_start(ours, ours.clone(), math.log(2), math.log(2), 0.1, floor)
        policy.core.lm_head.weight.mul_(1.001)
        other = response_logps(policy.model, collate(policy, groups, True)).sums
    assert same.passed
    broken = prove_start(ours, other, math.log(2), math.log(2), 0.1, floor)
    assert not broken.passed
    with pytest.raises(UserError, match="init-adapter"):
        require([same, broken])


def test_a_loss_that_is_not_the_known_one(policy: Policy, groups: list[Group]) -> None:
    logps = torch.zeros(2, 2, dtype=torch.float64)
    proof = prove_start(logps, logps, 0.7, math.log(2), 0.1, 1e-9)
    assert not proof.passed
    assert math.isclose(proof.value, (0.7 - math.log(2)) / 0.1)


def test_the_words_name_the_side_of_the_limit() -> None:
    small = Proof("path_parity", True, True, 4e-6, 1.3e-4, "nats", "")
    assert proof_texts.verdict(small) == "holds: 4e-06 nats, has to be at most 0.00013"
    large = Proof("image_matters", True, True, 61.0, 1.3e-4, "nats", "")
    assert proof_texts.verdict(large) == "holds: 61 nats, has to be above 0.00013"
    with pytest.raises(UserError, match=r"fails: 0 nats, has to be above 0\.00013"):
        require([dataclasses.replace(large, passed=False, value=0.0)])


def test_text_only_rows(policy: Policy, groups: list[Group]) -> None:
    text = groups[0].prompt_text.replace("<image>\n", "")
    rows = [dataclasses.replace(group, images=(), prompt_text=text) for group in groups[:3]]
    found = by_name(prove(policy, rows, lambda p, some: collate(p, some, True)))
    assert not found["image_matters"].applicable
    assert all(proof.passed for proof in found.values())
