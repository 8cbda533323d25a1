"""A model that lacks something, or whose own code fails, is refused by name and with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from transformers import AutoConfig, AutoProcessor

from veridical.models.adapters import adapter_base
from veridical.models.load import load_without_weights
from veridical.models.policy import Policy
from veridical.models.usable import require_trainable, require_usable
from veridical.runtime.errors import UserError


def test_a_whole_model_is_usable(policy: Policy) -> None:
    require_usable(policy)


@pytest.mark.parametrize(
    ("accessor", "said"),
    [
        ("get_decoder", "its language model"),
        ("get_output_embeddings", "the head"),
        ("get_input_embeddings", "input embeddings"),
    ],
)
def test_what_an_accessor_does_not_give_is_named(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, accessor: str, said: str
) -> None:
    def absent(*_: object) -> object:
        raise NotImplementedError

    absent.__name__ = accessor
    monkeypatch.setattr(policy.core, accessor, absent)
    with pytest.raises(UserError, match=f"{said}.*{accessor}"):
        require_usable(policy)


def test_cross_attention_is_named(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    text = policy.core.config.get_text_config()
    monkeypatch.setattr(text, "cross_attention_layers", [1], raising=False)
    with pytest.raises(UserError, match="cross-attention"):
        require_trainable(policy)


def test_a_model_without_image_features_is_named(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (type(policy.core), type(policy.core.model)):
        monkeypatch.delattr(kind, "get_image_features")
    with pytest.raises(UserError, match="get_image_features"):
        require_trainable(policy)


@pytest.mark.parametrize("place", ["forward", "processor"])
def test_whatever_foreign_code_raises_is_a_reason(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a fault of its own")

    changed = type(policy.core.model if place == "forward" else policy.processor)
    monkeypatch.setattr(changed, "forward" if place == "forward" else "__call__", broken)
    with pytest.raises(UserError, match=r"can't be used: .*a fault of its own"):
        require_usable(policy)


def test_memory_that_runs_out_is_not_called_the_models_fault(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(policy.core.model), "forward", broken)
    with pytest.raises(torch.OutOfMemoryError):
        require_usable(policy)


def test_log_probabilities_that_are_no_numbers_are_refused(policy: Policy) -> None:
    with torch.no_grad():
        policy.core.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"NaN or infinite.*lm_head"):
        require_usable(policy)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(policy: Policy) -> None:
    tokenizer = policy.processor.tokenizer
    rows = len(policy.core.get_input_embeddings().weight)
    spare = rows - len(tokenizer)
    tokenizer.add_tokens([f"<row {n}>" for n in range(spare)])
    require_usable(policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<never written>"]})
    require_usable(policy)
    tokenizer.add_tokens(["dogcat", "catdog"])
    said = rf"has 2 tokens that the model has no row for \('dogcat' is number {rows + 1}, and there"
    with pytest.raises(UserError, match=said):
        require_usable(policy)


def test_a_padding_token_without_a_row_is_refused(policy: Policy) -> None:
    tokenizer = policy.processor.tokenizer
    rows = len(policy.core.get_input_embeddings().weight)
    tokenizer.add_tokens([f"<row {n}>" for n in range(rows - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    with pytest.raises(UserError, match="'<new pad>' is number"):
        require_usable(policy)


@pytest.mark.parametrize(
    ("call", "reader"),
    [
        (adapter_base, (PeftConfig, "from_pretrained")),
        (lambda folder: load_without_weights(str(folder)), (AutoProcessor, "from_pretrained")),
        (lambda folder: load_without_weights(str(folder)), (AutoConfig, "from_pretrained")),
    ],
    ids=["adapter", "processor", "configuration"],
)
def test_memory_that_runs_out_is_no_damage(
    policy: Policy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Path], object],
    reader: tuple[type, str],
) -> None:
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(*reader, full)
    with pytest.raises(MemoryError):
        call(tmp_path)
