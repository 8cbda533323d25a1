"""What can't be computed is refused before loading; block masks are the mask of all pairs."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlavaConfig

from veridical.checks.controls import leaking
from veridical.models import attention, block_masks, load, precision
from veridical.models.attention import asked_attention, attentions_of, check_trainable
from veridical.models.batching import shared_batch
from veridical.models.cache_keys import surroundings
from veridical.models.load import load_placed, load_policy
from veridical.models.policy import Policy
from veridical.models.prefix_masks import shared_mask
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.options import AttentionName, Placement
from veridical.train.loop.resume import changed_options

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, -1, -1, -1]])


@pytest.mark.parametrize(
    ("asked", "dtype", "device", "said"),
    [
        ("flash", torch.bfloat16, CPU, "needs a CUDA device.*Set --attention sdpa"),
        ("flash", torch.float32, CUDA, "Set --dtype bfloat16"),
        ("flash", torch.float16, CUDA, "pip install flash-attn"),
        ("flex", torch.float64, CPU, "--dtype float32"),
        ("eager", torch.float64, CUDA, "--attention sdpa"),
    ],
)
def test_what_cannot_work_says_what_to_set(
    asked: AttentionName,
    dtype: torch.dtype,
    device: torch.device,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=said):
        asked_attention(asked, "a/model", LlavaConfig(), dtype, device)


def test_either_flash_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_require_supported", lambda *_: None)
    for package, found in attention.FLASH_PACKAGES.items():
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, own=package: name == own or None
        )
        asked = asked_attention("flash", "a/model", LlavaConfig(), torch.bfloat16, CUDA)
        assert asked == found


def test_flex_trains_on_cuda_alone() -> None:
    with pytest.raises(UserError, match="no backward pass there"):
        check_trainable("flex", "auto", CPU)
    check_trainable("flex", "bfloat16", CUDA)
    check_trainable("eager", "auto", CPU)
    with pytest.raises(UserError, match="can't compute in float64"):
        check_trainable("flex", "float64", CUDA)


def test_nothing_is_loaded_before_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_load_model", pytest.fail)
    with pytest.raises(UserError, match="needs a CUDA device"):
        load_policy("embedded", attention="flash", device="cpu")


def test_a_model_computes_as_asked_and_its_caches_tell() -> None:
    usual = load_policy("embedded")
    eager = load_placed("embedded", Placement(attention="eager"))
    assert attentions_of(usual.core) == "sdpa"
    assert attentions_of(eager.core) == "eager"
    assert surroundings(usual) != surroundings(eager)
    assert load_policy(eager, attention="eager") is eager
    with pytest.raises(UserError, match="not what attention flex asks for"):
        load_policy(eager, attention="flex")


def test_a_resumed_run_keeps_its_attention() -> None:
    assert changed_options({}, {"attention": "auto"}) == []
    assert changed_options({}, {"attention": "eager"}) == ["--attention auto, not eager"]


@pytest.mark.parametrize("near", [None, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_block_masks_are_the_mask_of_all_pairs(near: int | None, ahead: bool) -> None:
    blocks = torch.full_like(SEGMENTS, -1)
    blocks[:, :2] = 0 if ahead else -1
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 2, 3, 1, 0, 0, 0]])
    rule = block_masks._rule(SEGMENTS, blocks if ahead else None, positions, near)
    wanted = shared_mask(SEGMENTS, blocks if ahead else None)
    if near is not None:
        wanted &= ((positions[:, None, :, None] - positions[:, None, None, :]) < near).clone()
    rows, queries, keys = (torch.arange(n) for n in (2, 8, 8))
    every = torch.meshgrid(rows, queries, keys, indexing="ij")
    assert torch.equal(rule(every[0], torch.tensor(0), every[1], every[2]), wanted[:, 0])


@torch.no_grad()
def test_flex_shares_a_prefix_and_notices_a_leak(policy: Policy, groups: list[Group]) -> None:
    precision.cast_weights(policy.model, torch.float32)
    wanted = _states(policy, groups)
    policy.model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = shared_batch(policy, groups[:2])
        own = policy.core.model(**batch.inputs).last_hidden_state[batch.rows, batch.sources]
        broken = leaking(batch)
        leaked = policy.core.model(**broken.inputs).last_hidden_state[batch.rows, batch.sources]
    assert torch.allclose(own, wanted, atol=1e-4)
    assert not torch.allclose(leaked, wanted, atol=1e-2)


def _states(policy: Policy, groups: list[Group]) -> torch.Tensor:
    batch = shared_batch(policy, groups[:2])
    mask = batch.inputs["attention_mask"]
    added = torch.where(mask, 0.0, -torch.inf)
    states = policy.core.model(**{**batch.inputs, "attention_mask": added}).last_hidden_state
    return torch.as_tensor(states[batch.rows, batch.sources])


def test_a_float32_copy_of_another_attention_computes_with_sdpa(policy: Policy) -> None:
    precision.cast_weights(policy.model, torch.bfloat16)
    policy.core.config.get_text_config()._attn_implementation_internal = "flash_attention_2"
    with precision.exact(policy) as copied:
        assert copied is not None
        assert copied.core.config.get_text_config()._attn_implementation == "sdpa"
    own = policy.core.config.get_text_config()._attn_implementation
    assert own == "flash_attention_2"


def test_flex_is_loaded_by_transformers_own_code(policy: Policy, tmp_path: Path) -> None:
    precision.cast_weights(policy.model, torch.float32).save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    # Loading looks at a forward pass, and compiling one for the CPU takes half a minute.
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_policy(str(tmp_path), attention="flex")
    assert attentions_of(loaded.core) == "flex_attention"
