"""Hashes of weights: from files, once; different where the answers could be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from veridical.models.fingerprint import processor_hash, surroundings, weight_files, weights_hash
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.runtime import cache as module
from veridical.runtime.cache import Cache


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder


def test_the_hash_is_of_the_content(saved: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1e9)
    policy = load_policy(str(saved))
    first = weights_hash(policy, str(saved), None, cache)
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    assert weights_hash(load_policy(str(copy)), str(copy), None, cache) == first
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert weights_hash(load_policy(str(copy)), str(copy), None, cache) != first
    (saved / "notes.json").write_text("{}")
    (saved / "README.md").write_text("about")
    assert weights_hash(policy, str(saved), None, cache) == first


def test_the_second_start_reads_no_weights(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(str(saved))
    first = weights_hash(policy, str(saved), None, Cache(tmp_path / "cache", 1e9))

    def refuse(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(module, "hash_file", refuse)
    assert weights_hash(policy, str(saved), None, Cache(tmp_path / "cache", 1e9)) == first
    with pytest.raises(AssertionError):
        weights_hash(policy, str(saved), None, Cache(None, 0))


def test_adapters_count_and_their_base_too(saved: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{saved}"}}')
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    base = weight_files(str(saved))
    assert base is not None
    assert weight_files(str(adapter)) == [*base, *sorted(adapter.iterdir())]
    assert weight_files(str(saved), adapter) == weight_files(str(adapter))
    assert weight_files("nobody/nothing-of-this-name") is None


def test_without_files_the_memory_is_hashed(policy: Policy) -> None:
    cache = Cache(None, 0)
    first = weights_hash(policy, "nobody/nothing-of-this-name", None, cache)
    with torch.no_grad():
        policy.core.get_output_embeddings().weight[0, 0] += 1
    assert weights_hash(policy, "nobody/nothing-of-this-name", None, cache) != first


def test_processor_and_surroundings(policy: Policy, saved: Path) -> None:
    first, second = load_policy(str(saved)), load_policy(str(saved))
    assert processor_hash(first) == processor_hash(second)
    second.processor.image_processor.image_mean = (0.4, 0.5, 0.5)
    assert processor_hash(first) != processor_hash(second)
    assert surroundings(first) != surroundings(Policy(first.model.double(), first.processor, ""))
