"""Tensors that a model class does not load come along when the model is saved again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from veridical.models import checkpoint_rest
from veridical.models.batching import row_batch
from veridical.models.checkpoint_rest import INDEX, add_to_checkpoint, keep_skipped, watch_skipped
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy, frozen_copy
from veridical.models.rendering import Group
from veridical.runtime.cache import Cache
from veridical.runtime.files import read_json, write_json
from veridical.runtime.fingerprint import fingerprint, weight_files
from veridical.train.loop.saving import save_result
from veridical.train.options import Training

HEADS = {f"mtp.layers.{n}.weight": torch.full((2, 3), float(n)) for n in range(2)}


@pytest.fixture
def base(policy: Policy, tmp_path: Path) -> Path:
    policy.model.float().save_pretrained(tmp_path / "base")
    policy.processor.save_pretrained(tmp_path / "base")
    add_to_checkpoint(tmp_path / "base", HEADS)
    return tmp_path / "base"


def test_a_release_without_the_private_method_loads_as_ever(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_rest, "_PRIVATE", "_not_there")
    assert load_policy(str(base)).skipped == ()


def test_a_release_with_other_arguments_loads_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(_: object, missing: set[str], unexpected: set[str]) -> tuple[set[str], set[str]]:
        return missing, unexpected

    monkeypatch.setattr(PreTrainedModel, checkpoint_rest._PRIVATE, older)
    with watch_skipped() as found:
        adjust = getattr(PreTrainedModel, checkpoint_rest._PRIVATE)
        assert adjust(None, {"a"}, {"b"}) == ({"a"}, {"b"})
    assert not found


def held(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as content:
            found.update({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118
    return found


def test_they_are_in_the_saved_model_and_change_nothing(
    base: Path, tmp_path: Path, groups: list[Group], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_policy(str(base), device="cpu")
    assert loaded.skipped == tuple(HEADS)
    folders = save_result(
        loaded, str(base), Training(learning_rate=1e-6, tuning="full"), tmp_path / "run"
    )
    assert folders == ["model"]
    assert "2 tensors that Transformers does not load (mtp.layers.0.weight" in (
        capsys.readouterr().out
    )
    kept = held(tmp_path / "run" / "model")
    assert all(torch.equal(kept[name], tensor) for name, tensor in HEADS.items())
    again = load_policy(str(tmp_path / "run" / "model"), device="cpu")
    assert again.skipped == tuple(HEADS)
    ours, theirs = (response_logps(p.model, row_batch(p, groups[:1])).sums for p in (loaded, again))
    assert torch.equal(ours, theirs)


def test_they_are_found_in_pytorchs_own_format_too(base: Path, tmp_path: Path) -> None:
    tensors = held(base)
    for path in [*base.glob("*.safetensors"), base / "model.safetensors.index.json"]:
        path.unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    torch.save({"no": "weights"}, base / "training_args.bin")
    loaded = load_policy(str(base), device="cpu")
    assert loaded.skipped == tuple(HEADS)
    loaded.model.save_pretrained(tmp_path / "saved")
    said = keep_skipped(loaded.skipped, weight_files(str(base)), tmp_path / "saved")
    assert said.startswith("Copied unchanged into saved/: 2 tensors") and "Missing" not in said
    kept = held(tmp_path / "saved")
    assert all(torch.equal(kept[name], tensor) for name, tensor in HEADS.items())


def test_a_model_in_several_files_takes_one_more(base: Path) -> None:
    add_to_checkpoint(base, {"mtp.more": torch.ones(1)})
    assert load_policy(str(base), device="cpu").skipped == (*HEADS, "mtp.more")


def test_an_index_may_give_files_any_name(base: Path, tmp_path: Path) -> None:
    index = read_json(base / INDEX)
    for old, new in (("model-00001-of-00002", "outside"), ("model-00002-of-00002", "mtp")):
        (base / f"{old}.safetensors").rename(base / f"{new}.safetensors")
        for name, file in index["weight_map"].items():
            if file == f"{old}.safetensors":
                index["weight_map"][name] = f"{new}.safetensors"
    write_json(base / INDEX, index)
    loaded = load_policy(str(base), device="cpu")
    save_result(loaded, str(base), Training(learning_rate=1e-6, tuning="full"), tmp_path / "run")
    kept = held(tmp_path / "run" / "model")
    assert all(torch.equal(kept[name], tensor) for name, tensor in HEADS.items())
    # What is kept between runs would be of other weights, else.
    cache = Cache(tmp_path / "cache", 1e9)
    before = fingerprint(str(base), cache=cache).key
    weights = load_file(base / "outside.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, base / "outside.safetensors", {"format": "pt"})
    assert fingerprint(str(base), cache=cache).key != before


def test_what_cannot_be_read_is_said(base: Path, tmp_path: Path, policy: Policy) -> None:
    policy.model.save_pretrained(tmp_path / "saved")
    names = [*HEADS, "mtp.elsewhere"]
    said = keep_skipped(names, weight_files(str(base)), tmp_path / "saved")
    assert "Copied unchanged into saved/: 2 tensors that Transformers does not load" in said
    assert "Missing in saved/" in said and "1 tensor that" in said
    assert said.endswith("(mtp.elsewhere).")
    assert HEADS.keys() <= held(tmp_path / "saved").keys()


def test_a_file_that_no_index_names_is_said(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"mtp.more": torch.ones(1)}, base / "model-mtp.safetensors")
    save_file({"weight": torch.ones(1)}, base / "reward_head.safetensors")
    loaded = load_policy(str(base), device="cpu")
    assert loaded.skipped == tuple(HEADS)
    settings = Training(learning_rate=1e-6, tuning="full")
    said = "Not in model/, since Transformers does not read them: model-mtp.safetensors. Copy"
    save_result(loaded, str(base), settings, tmp_path / "run")
    assert said in capsys.readouterr().out
    # One file of weights, and no index.
    single = load_policy("embedded", device="cpu")
    single.model.save_pretrained(tmp_path / "single")
    single.processor.save_pretrained(tmp_path / "single")
    save_result(single, str(tmp_path / "single"), settings, tmp_path / "run")
    assert "Transformers does not read" not in capsys.readouterr().out
    save_file({"mtp.more": torch.ones(1)}, tmp_path / "single" / "model-mtp.safetensors")
    save_result(single, str(tmp_path / "single"), settings, tmp_path / "run")
    assert said in capsys.readouterr().out


def test_a_whole_model_has_none(policy: Policy) -> None:
    assert load_policy("embedded", device="cpu").skipped == ()
    assert frozen_copy(policy).skipped == ()
