"""Weights in four bits: what is quantized, what equals what, and what is saved."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.batching import collate
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.policy import adapters_off
from veridical.models.rendering import Group, render_group
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.options import Training

needed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `quantized` is missing"
)
ANSWERS = (("There is a red cup.", "There is a blue dog."), ("This is a park.", "Yes."))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"veridical\[quantized\]"):
        load_policy("embedded", four_bit=True)


def test_an_adapter_is_not_merged_into_four_bits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without rounding it away"):
        load_policy("embedded", init_adapter=tmp_path, four_bit=True)


@needed
def test_only_the_language_model_is_quantized_and_the_paths_stay_equal(
    pictures: list[Image.Image],
) -> None:
    policy = load_policy("embedded", four_bit=True)
    kinds = {name: type(module).__name__ for name, module in policy.core.named_modules()}
    quantized = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert quantized
    assert all("language_model" in name for name in quantized)
    assert kinds["lm_head"] == "Linear"
    policy = prepare_training(policy, Tuning("qlora", rank=4, alpha=8))
    trained = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    groups = some_groups(policy, pictures)
    with torch.no_grad():
        shared = response_logps(policy.model, collate(policy, groups, True)).sums
        rows = response_logps(policy.model, collate(policy, groups, False)).sums
        with adapters_off(policy.model):
            reference = response_logps(policy.model, collate(policy, groups, True)).sums
    assert torch.allclose(shared, rows, rtol=0, atol=1e-3)
    assert torch.equal(shared, reference)  # a new adapter changes nothing


def some_groups(policy: object, pictures: list[Image.Image]) -> list[Group]:
    return [
        render_group(
            policy,  # type: ignore[arg-type]
            str(i),
            [pictures[i]],
            [user_message("Describe the image.")],
            [[assistant_message(text)] for text in texts],
        )
        for i, texts in enumerate(ANSWERS)
    ]


@needed
def test_a_run_on_four_bits_proves_itself_and_saves_its_adapter(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    rows = [
        {
            "id": f"{i}",
            "images": [pictures[i % 6]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(ANSWERS[i % 2][0])],
            "rejected": [assistant_message(ANSWERS[i % 2][1])],
        }
        for i in range(8)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    out = tmp_path / "run"
    train_dpo(
        "embedded", tmp_path / "pairs.parquet", out,
        training=Training(
            tuning="qlora", lora_rank=4, learning_rate=1e-3, max_steps=4, batch_size=4,
            accumulation=1, held_out=0.0, evaluations=1, trainer={"logging_steps": 1},
        ),
    )  # fmt: skip
    losses = [row["loss"] for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
    assert losses[0] == pytest.approx(0.693147, abs=1e-4)
    assert losses[-1] < losses[0]
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    assert not (out / "model").exists()
    merged = load_policy(str(out / "adapter"))
    start = load_policy("embedded")
    changed = [
        name
        for name, weight in merged.core.state_dict().items()
        if not torch.equal(weight, start.core.state_dict()[name])
    ]
    assert changed
    assert all("language_model" in name for name in changed)
