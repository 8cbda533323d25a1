"""The one fingerprint of a model: by content or commit, whatever the name; and what it keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from veridical.models.cache_keys import (
    model_fingerprint,
    processor_hash,
    surroundings,
    tokenizer_hash,
)
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.runtime import cache as module
from veridical.runtime import fingerprint as fingerprints
from veridical.runtime.cache import Cache
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import fingerprint, is_here, weight_files

Commit = Callable[[str, str, Mapping[str, bytes]], None]
NAME = "org/tiny"


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder


def key(name: str | Path, adapter: Path | None = None) -> str:
    return fingerprint(str(name), adapter).key


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_folder_is_its_content(saved: Path, tmp_path: Path) -> None:
    first, copy = key(saved), tmp_path / "copy"
    shutil.copytree(saved, copy)
    assert key(copy) == first
    change_weights(copy)
    assert key(copy) != first
    for about in ("README.md", ".gitattributes", "answers.jsonl"):
        (saved / about).write_text("about")
    (saved / "evaluation").mkdir()
    (saved / "evaluation" / "run.json").write_text("{}")
    assert key(saved) == first


@pytest.mark.parametrize(
    "file",
    ["chat_template.jinja", "tokenizer.json", "generation_config.json", "tokenizer.model",
     "additional_chat_templates/rag.jinja"],
)  # fmt: skip
def test_whatever_loading_reads_counts(file: str, saved: Path) -> None:
    first = key(saved)
    (saved / file).parent.mkdir(exist_ok=True)
    (saved / file).write_text("{}")
    assert key(saved) != first


def test_a_sentence_transformers_model_has_parts_in_folders(tmp_path: Path) -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("1")
    first = key(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text("2")
    assert key(tmp_path) != first


def test_the_second_start_reads_no_weights(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint(str(saved), cache=Cache(tmp_path / "cache", 1e9))

    def refuse(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(module, "hash_file", refuse)
    assert fingerprint(str(saved), cache=Cache(tmp_path / "cache", 1e9)) == first
    with pytest.raises(AssertionError):
        fingerprint(str(saved), cache=Cache(None, 0))


def test_adapters_count_and_their_base_too(saved: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{saved}"}}')
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    base = weight_files(str(saved))
    assert weight_files(str(adapter)) == [*base, *sorted(adapter.iterdir())]
    assert weight_files(str(saved), adapter) == weight_files(str(adapter))
    first = key(adapter)
    assert key(saved, adapter) == first != key(saved)
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    second = key(adapter)
    change_weights(saved)
    assert len({first, second, key(adapter)}) == 3


def test_a_hubs_model_is_its_commit(saved: Path, commit: Commit) -> None:
    commit(NAME, "one", contents(saved))
    first = fingerprint(NAME)
    assert first.revision == "one" and first.files.keys() >= {"model.safetensors"}
    commit(NAME, "two", contents(saved))
    second = fingerprint(NAME)
    assert second.revision == "two" and second.key != first.key
    assert second.changed_files({"key": first.key, "files": first.files}) == []
    commit(NAME, "one", contents(saved))
    assert fingerprint(NAME) == first
    assert load_policy(NAME).name == NAME


def test_an_adapter_on_a_hubs_model_changes_with_its_commit(tmp_path: Path, commit: Commit) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/tiny"}')
    commit(NAME, "one", {"config.json": b"{}"})
    assert not is_here(str(tmp_path)) and is_here("embedded")
    first = key(tmp_path)
    commit(NAME, "two", {"config.json": b"{}"})
    assert key(tmp_path) != first


def test_a_new_commit_counts_before_it_is_downloaded(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network the next load takes it; without one, what the cache has."""
    commit(NAME, "one", {"config.json": b"{}"})
    first = fingerprint(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fingerprints, "check_hub_name", lambda name: None)

    class Found:
        commit_hash = "two"

    monkeypatch.setattr(fingerprints, "get_hf_file_metadata", lambda url: Found())
    second = fingerprint(NAME)
    assert second.revision == "two" and second.key != first.key and not second.files

    def fail(url: str) -> None:
        raise errors.OfflineModeIsEnabled

    monkeypatch.setattr(fingerprints, "get_hf_file_metadata", fail)
    assert fingerprint(NAME) == first


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "./nothing", "a name"])
def test_a_name_alone_is_no_fingerprint(name: str, commit: Commit) -> None:
    with pytest.raises(UserError, match=r"not a folder here|does not exist"):
        fingerprint(name)


def test_processor_and_surroundings(policy: Policy, saved: Path) -> None:
    first, second = load_policy(str(saved)), load_policy(str(saved))
    assert processor_hash(first) == processor_hash(second)
    second.processor.image_processor.image_mean = (0.4, 0.5, 0.5)
    assert processor_hash(first) != processor_hash(second)
    assert tokenizer_hash(first) == tokenizer_hash(second)
    second.processor.tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(first) == tokenizer_hash(second)
    second.processor.chat_template = "{{ messages[0].content }}"
    assert tokenizer_hash(first) != tokenizer_hash(second)
    assert model_fingerprint(first).key != model_fingerprint(second).key
    second.processor.chat_template = first.processor.chat_template
    second.processor.tokenizer.add_tokens(["unheard"])
    assert tokenizer_hash(first) != tokenizer_hash(second)
    assert surroundings(first) != surroundings(Policy(first.model.double(), first.processor, ""))
