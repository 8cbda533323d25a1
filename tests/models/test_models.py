"""Loading policies: what works, and what a wrong name or a foreign adapter says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from veridical.models.load import load_policy
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy, adapters_off, end_token_ids
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training, projector_parameters
from veridical.runtime.errors import UserError
from veridical.runtime.options import DtypeName


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    policy.model.float().save_pretrained(tmp_path / "policy")
    policy.processor.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_the_embedded_model_loads_in_float32() -> None:
    policy = load_policy("embedded", device="cpu")
    assert policy.model.dtype == torch.float32
    assert policy.core.config.model_type == "llava"
    assert end_token_ids(policy) == {policy.processor.tokenizer.eos_token_id}


def test_dtype_is_chosen(saved: Path) -> None:
    assert load_policy(str(saved), dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_policy(str(saved)).model.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_what_transformers_computes(
    saved: Path, groups: list[Group], dtype: DtypeName
) -> None:
    """Rotary frequencies stay in float32: in half precision, positions turn by wrong angles."""
    policy = load_policy(str(saved), dtype=dtype)
    stock = AutoModelForImageTextToText.from_pretrained(saved, dtype=getattr(torch, dtype))
    frequencies = [b for n, b in policy.model.named_buffers() if n.endswith("inv_freq")]
    assert frequencies and all(one.dtype == torch.float32 for one in frequencies)
    with torch.no_grad():
        ours, theirs = (
            stock_logps(dataclasses.replace(policy, model=model), groups[0])
            for model in (policy.model, stock.eval())
        )
    assert torch.equal(ours, theirs)


def test_wrong_names_teach(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        load_policy("./nowhere/at/all")
    with pytest.raises(UserError, match="save_pretrained"):
        load_policy(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="Try cpu"):
        load_policy("embedded", device="cuda:9")


def test_a_missing_chat_template_is_named(saved: Path) -> None:
    (saved / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="chat template"):
        load_policy(str(saved))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("part", ["lm_head", "multi_modal_projector", "vision_tower", "q_proj"])
def test_a_checkpoint_without_some_of_its_weights_is_refused(saved: Path, part: str) -> None:
    """Transformers fills them with random numbers and goes on."""

    def lose(weights: dict[str, torch.Tensor]) -> None:
        del weights[next(name for name in weights if part in name)]

    change_weights(saved, lose)
    with pytest.raises(UserError, match=f"lacks 1 of the weights of .*{part}"):
        load_policy(str(saved), device="cpu")


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    def shorten(weights: dict[str, torch.Tensor]) -> None:
        name = next(name for name in weights if "q_proj" in name)
        weights[name] = weights[name][:2].clone()

    change_weights(saved, shorten)
    with pytest.raises(UserError, match=r"q_proj.weight has the shape \(2, "):
        load_policy(str(saved), device="cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": 1}', None])
def test_damaged_files_are_said(saved: Path, file: str, content: bytes | None) -> None:
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError):
        load_policy(str(saved), device="cpu")


def test_lora_stays_on_the_language_model(policy: Policy) -> None:
    trained = prepare_training(policy, Tuning(rank=2, alpha=4))
    names = [n for n, p in trained.model.named_parameters() if p.requires_grad]
    assert names
    assert all("language_model" in name and "lora_" in name for name in names)
    assert projector_parameters(trained) == []


def test_full_tuning_freezes_tower_and_projector(policy: Policy) -> None:
    trained = prepare_training(policy, Tuning(kind="full"))
    names = {n for n, p in trained.model.named_parameters() if p.requires_grad}
    assert any("lm_head" in name for name in names)
    assert not any("vision_tower" in n or "multi_modal_projector" in n for n in names)
    asked = Tuning(kind="full", train_projector=True, train_vision=True)
    names = {
        n for n, p in prepare_training(policy, asked).model.named_parameters() if p.requires_grad
    }
    assert any("vision_tower" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)


def test_full_tuning_of_half_precision_is_refused(saved: Path) -> None:
    policy = load_policy(str(saved), dtype="bfloat16")
    with pytest.raises(UserError, match="--dtype float32"):
        prepare_training(policy, Tuning(kind="full"))
    adapted = prepare_training(policy, Tuning(rank=2, alpha=4))
    trained = [p.dtype for p in adapted.model.parameters() if p.requires_grad]
    assert set(trained) == {torch.float32}


def test_a_trained_projector_switches_back_with_the_adapter(policy: Policy) -> None:
    before = policy.core.model.multi_modal_projector.linear_1.weight.detach().clone()
    trained = prepare_training(policy, Tuning(rank=2, alpha=4, train_projector=True))
    with torch.no_grad():
        for parameter in projector_parameters(trained):
            parameter.add_(1.0)
    features = torch.randn(1, 3, before.shape[1], dtype=before.dtype)
    projector = trained.core.model.multi_modal_projector
    moved = projector(features)
    with adapters_off(trained.model):
        back = projector(features)
    assert not torch.allclose(moved, back)
    assert torch.equal(back, projector.original_module(features))
    assert torch.equal(projector.original_module.linear_1.weight, before)


def test_foreign_and_broken_adapters_are_refused(
    policy: Policy, saved: Path, tmp_path: Path
) -> None:
    trained = prepare_training(policy, Tuning(rank=2, alpha=4))
    trained.model.save_pretrained(str(tmp_path / "adapter"))
    assert load_policy(str(saved), init_adapter=tmp_path / "adapter").name == str(saved)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed = {name.replace("layers.0", "layers.9"): w for name, w in load_file(weights).items()}
    save_file(renamed, weights)
    with pytest.raises(UserError, match="does not fit"):
        load_policy(str(saved), init_adapter=tmp_path / "adapter")
    whole = {name.replace("layers.9", "layers.0"): w for name, w in renamed.items()}
    extra = {f"base_model.model.elsewhere.{n}": torch.ones(2, 2) for n in ("lora_A.weight", "x")}
    one = {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 2)}
    for more, what in ((extra, "2 tensors"), (one, "the tensor base_model.*weight\\.")):
        save_file(whole | more, weights)
        with pytest.raises(UserError, match=f"does not fit.*it has no place for {what}"):
            load_policy(str(saved), init_adapter=tmp_path / "adapter")
    # What is not an adapter's is put into the base, if it has the shape.
    save_file(whole | {"base_model.model.lm_head.weight": torch.ones(3, 3)}, weights)
    with pytest.raises(UserError, match=r"does not fit.*size mismatch for .*lm_head\.weight"):
        load_policy(str(saved), init_adapter=tmp_path / "adapter")
    save_file(whole, weights)
    load_policy(str(saved), init_adapter=tmp_path / "adapter")
    with pytest.raises(UserError, match="no PEFT adapter"):
        load_policy(str(saved), init_adapter=tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text()) | {"base_model_name_or_path": None}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not name its base"):
        load_policy(str(tmp_path / "adapter"))


def test_an_adapter_that_changes_its_base_is_reported(
    policy: Policy, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT loads what else an adapter's file holds into the base."""
    trained = prepare_training(policy, Tuning(rank=2, alpha=4))
    trained.model.save_pretrained(str(tmp_path / "adapter"))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    adapter, base = load_file(file), load_policy(str(saved)).model
    name = next(n for n, _ in base.named_parameters() if n.endswith("norm.weight"))
    for shift in (0.0, 1.0):
        own = base.get_parameter(name).detach() + shift
        save_file(adapter | {f"base_model.model.{name}": own}, file)
        changed = load_policy(str(saved), init_adapter=tmp_path / "adapter").model
        assert torch.equal(changed.get_parameter(name), own)
        reported = "brings 1 weight of its base in another state ("
        assert (reported in capsys.readouterr().out) == bool(shift)


def test_an_adapter_without_its_modules_to_save_is_refused(
    policy: Policy, saved: Path, tmp_path: Path
) -> None:
    trained = prepare_training(policy, Tuning(rank=2, alpha=4, train_projector=True))
    trained.model.save_pretrained(str(tmp_path / "adapter"))
    load_policy(str(saved), init_adapter=tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(weights)
    for name in [name for name in whole if "projector" in name]:
        save_file({n: tensor for n, tensor in whole.items() if n != name}, weights)
        with pytest.raises(UserError, match=f"it lacks the tensor {re.escape(name)}"):
            load_policy(str(saved), init_adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        ('{"eos_token_id": [2, 1.5]}', r"eos_token_id is 1\.5"),
        ("{", "is not JSON"),
        ("[]", "has to be a JSON object"),
    ],
)
def test_generation_settings_that_cannot_be_read_are_told(
    saved: Path, text: str, message: str
) -> None:
    (saved / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_policy(str(saved))


def test_a_processor_that_wants_torchvision_says_so(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but\nmore")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", missing)
    with pytest.raises(UserError, match="pip install torchvision") as caught:
        load_policy(str(saved))
    assert len(str(caught.value).splitlines()) == 2
