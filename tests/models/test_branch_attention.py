"""Attention branch by branch, compared with the mask that it stands for."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from veridical.checks import controls
from veridical.models import branch_attention
from veridical.models.batching import collate
from veridical.models.branch_attention import (
    Branches,
    attend,
    attend_branches,
    remember,
    rows_of,
    works,
)
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.prefix_masks import shared_mask
from veridical.models.rendering import Group
from veridical.train.loop.modes import checkpoint_activations, set_training

ROWS: tuple[tuple[Branches, ...], ...] = (
    ((5, 3, 2), (5, 3, 2)),  # all rows alike: one call for the batch
    ((5, 3, 2), (1, 1, 1), (4, 6, 1)),
    ((3, 2), (2, 2)),  # a response that shares with nobody
    ((4, 1, 3, 2, 1), (6, 2, 1, 1, 2)),
)


def segments_of(rows: Sequence[Branches]) -> Tensor:
    longest = max(map(sum, rows)) + 1
    made = [[n for n, count in enumerate(row) for _ in range(count)] for row in rows]
    return torch.tensor([row + [-1] * (longest - len(row)) for row in made])


def results(
    rows: Sequence[Branches], dtype: torch.dtype, by_mask: bool, heads: int = 2
) -> list[Tensor]:
    """Attention at real tokens, and the gradients of queries, keys and values."""
    segments = segments_of(rows)
    noise = torch.Generator().manual_seed(0)
    shapes = [(len(rows), count, segments.shape[1], 8) for count in (4, heads, heads, 4)]
    query, key, value, slope = (torch.randn(s, generator=noise).to(dtype) for s in shapes)
    given = [states.requires_grad_() for states in (query, key, value)]
    if by_mask:
        keys, values = (states.repeat_interleave(4 // heads, 1) for states in (key, value))
        mask = shared_mask(segments)
        found = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)
        found = found.transpose(1, 2)
    else:
        found = attend_branches(query, key, value, rows, 0.3)
    real = (segments >= 0)[:, :, None, None]
    out = found * real.to(dtype)
    return [out.detach(), *torch.autograd.grad((out * slope.transpose(1, 2)).sum(), given)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
def test_it_is_what_the_mask_gives_with_its_gradients(
    rows: tuple[Branches, ...], heads: int, dtype: torch.dtype, bound: float
) -> None:
    pairs = zip(results(rows, dtype, False, heads), results(rows, dtype, True, heads), strict=True)
    for ours, masked in pairs:
        assert ours.dtype == dtype
        assert float((ours - masked).norm()) <= bound * float(masked.norm())


def test_the_trial_tells_a_kernel_that_aligns_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that aligns a short block of queries with the first keys, not with the last."""
    cpu = torch.device("cpu")
    assert works.__wrapped__(cpu, torch.bfloat16, 8)
    monkeypatch.setattr(branch_attention, "causal_lower_right", lambda q, k: None)
    assert not works.__wrapped__(cpu, torch.bfloat16, 8)

    def broken(*_: int) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(branch_attention, "causal_lower_right", broken)
    assert not works.__wrapped__(cpu, torch.bfloat16, 8)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Branches, ...]]:
    """Let the CPU take it too; collects the rows of every call."""
    calls: list[tuple[Branches, ...]] = []
    honest = attend_branches

    def watched(*given: Any) -> Tensor:
        calls.append(given[3])
        return honest(*given)

    monkeypatch.setattr(branch_attention, "_is_faster", lambda *_: True)
    monkeypatch.setattr(branch_attention, "attend_branches", watched)
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_gives_the_same_log_probs_and_gradients(
    policy: Policy, groups: list[Group], taken: list[Any], checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cast_weights(policy.model, torch.float64)
    if checkpointing:
        checkpoint_activations(policy.model, False, {"use_reentrant": False})
        set_training(list(policy.model.modules()), False)
    batch = collate(policy, groups, True)
    found = []
    for fast in (True, False):
        monkeypatch.setattr(branch_attention, "_is_faster", lambda *_, fast=fast: fast)
        sums = response_logps(policy.model, batch).sums
        sums.sum().backward()
        weights = [p for p in policy.core.get_decoder().parameters() if p.grad is not None]
        found.append([sums.detach(), *(p.grad.clone() for p in weights if p.grad is not None)])
        policy.model.zero_grad()
    layers = policy.core.config.get_text_config().num_hidden_layers
    assert len(taken) == layers * (2 if checkpointing else 1)
    assert {len(row) for rows in taken for row in rows} == {3}
    for ours, masked in zip(*found, strict=True):
        assert torch.allclose(ours, masked, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_every_other_mask_is_left_to_transformers(
    policy: Policy, groups: list[Group], taken: list[Any]
) -> None:
    """A mask that was changed, a row for each response, and none at all."""
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attend
    batch = collate(policy, groups, True)
    mask = batch.inputs["attention_mask"]
    assert rows_of(mask) is not None and rows_of(mask.clone()) is None
    changed = dataclasses.replace(batch, inputs={**batch.inputs, "attention_mask": mask.clone()})
    for other in (changed, collate(policy, groups, False), controls.leaking(batch)):
        response_logps(policy.model, other)
    assert not taken
    response_logps(policy.model, batch)
    assert taken


def test_what_is_known_of_a_mask_goes_with_it() -> None:
    mask = torch.ones(1, 1, 2, 2)
    remember(mask, None)
    assert rows_of(mask) is None and rows_of(None) is None
    remember(mask, [(1, 1)])
    assert rows_of(mask) == ((1, 1),)
    before = len(branch_attention._KNOWN)
    del mask
    assert len(branch_attention._KNOWN) == before - 1
    assert rows_of(copy.copy(torch.ones(1, 1, 2, 2))) is None
