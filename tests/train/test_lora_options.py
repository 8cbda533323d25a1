"""Adapters with dropout, on chosen layers, scaled by rsLoRA, as DoRA: proofs, results, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from tuning import FULL

from veridical.judges.named import Judging
from veridical.models.load import load_policy
from veridical.models.policy import Policy, adapters_off
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft

TRAINING = Training(
    learning_rate=3e-3, max_steps=4, batch_size=4, accumulation=1, held_out=0.0, evaluations=2,
    lora_rank=4, lora_alpha=8, trainer={"lr_scheduler_type": "constant", "logging_steps": 1},
)  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {"lora_dropout": 0.3},
    {"lora_targets": ["q_proj", "mlp.down_proj"]},
    {"lora_rslora": True},
    {"lora_dora": True},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_a_run_is_proven_and_its_adapter_is_what_peft_makes_of_it(
    saved: str, pairs: Path, tmp_path: Path, options: dict[str, Any], dtype: Any
) -> None:
    out = tmp_path / "run"
    training = replace(TRAINING, dtype=dtype, save_dtype="float32", **options)
    if training.lora_dora and dtype == "bfloat16":
        # Its magnitudes over its norms are 1 in numbers alone, and rounding is not.
        with pytest.raises(UserError, match="--lora-dora rescales every weight"):
            train_dpo(saved, pairs, out, training=training)
        train_sft(saved, pairs, tmp_path / "sft", "preference", training=training)
        return
    train_dpo(saved, pairs, out, reference="in_step", training=training)
    log = read_jsonl(out / "log.jsonl")
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5 if dtype == "float32" else 1e-2)
    assert log[-1]["loss"] < log[0]["loss"]
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    config = read_json(out / "adapter" / "adapter_config.json")
    assert config["lora_dropout"] == options.get("lora_dropout", 0.0)
    assert config["use_rslora"] == options.get("lora_rslora", False)
    assert config["use_dora"] == options.get("lora_dora", False)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter(out)}
    assert ("q_proj" in names) and ("v_proj" in names) == ("lora_targets" not in options)
    if dtype == "float32":
        base = AutoModelForImageTextToText.from_pretrained(saved)
        theirs = PeftModel.from_pretrained(base, str(out / "adapter")).merge_and_unload()
        merged = load_file(out / "model" / "model.safetensors")
        ours = AutoModelForImageTextToText.from_pretrained(out / "model").state_dict()
        assert merged
        for name, weight in theirs.state_dict().items():
            assert torch.allclose(weight, ours[name], atol=1e-5), name


def adapter(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "adapter" / "adapter_model.safetensors")
    return found


@pytest.mark.parametrize("options", [{"dora": True}, {"dropout": 0.5}])
def test_the_reference_is_the_base_however_far_the_adapter_moved(
    saved: str, options: dict[str, Any]
) -> None:
    for dtype in ("float32", "bfloat16"):
        base = load_policy(saved, dtype)
        text = torch.arange(5, 25)[None]
        before = base.core(input_ids=text).logits
        policy = prepare_training(base, Tuning(rank=4, alpha=8, **options))
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(0.1)
        policy.model.eval()
        assert not torch.allclose(policy.core(input_ids=text).logits, before)
        with adapters_off(policy.model):
            assert torch.equal(policy.core(input_ids=text).logits, before)


def test_rslora_scales_by_the_root_of_the_rank(policy: Policy) -> None:
    trained = prepare_training(policy, Tuning(rank=16, alpha=8, rslora=True))
    layer = trained.core.get_decoder().layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 8 / 4
    assert Tuning(rank=16, alpha=8).scaling == 0.5


def test_dropout_is_noise_that_a_resumed_run_finds_again(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    noisy = replace(TRAINING, lora_dropout=0.5, model_dropout=False)
    train_sft(saved, pairs, tmp_path / "whole", "preference", training=noisy)
    train_sft(saved, pairs, tmp_path / "plain", "preference", training=TRAINING)
    broken = tmp_path / "broken"
    train_sft(saved, pairs, broken, "preference", training=replace(noisy, max_steps=2))
    extended = replace(noisy, extend=True)
    train_sft(saved, pairs, broken, "preference", training=extended)
    whole, again, plain = (adapter(tmp_path / name) for name in ("whole", "broken", "plain"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_targets": ["q_proj", "qproj"]}, r"has no qproj .* There is: .*v_proj"),
        ({"lora_targets": []}, "names no layer"),
        ({"lora_dropout": 1.0}, "--lora-dropout is 1"),
        ({"tuning": "full", "lora_dora": True}, "--lora-dora means nothing under --tuning full"),
        ({"save_merged": False, "save_dtype": "bfloat16"}, "--save-merged false leaves out"),
        ({"tuning": "qlora", "save_dtype": "float16"}, "--tuning qlora leaves out"),
        ({**FULL, "save_merged": False}, "--save-merged false: --tuning full"),
        ({"init_adapter": Path("it"), "save_merged": False}, "false: training starts from an adap"),
        ({"tuning": "full", "lora_targets": ["q_proj"]}, "--lora-targets means nothing"),
        ({"tuning": "full"}, "--lora-rank means nothing under --tuning full"),
        ({**FULL, "lora_alpha": 8}, "--lora-alpha means nothing under --tuning full"),
    ],
)
def test_what_makes_no_sense_is_refused(
    saved: str, pairs: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train_dpo(saved, pairs, tmp_path / "out", training=replace(TRAINING, **options))


def test_the_only_result_is_not_left_out_where_the_model_is_an_adapter(
    pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    unmerged = replace(TRAINING, save_merged=False)
    with pytest.raises(UserError, match="fits only the model that it was merged into"):
        train_dpo(str(tmp_path), pairs, tmp_path / "out", training=unmerged)


def test_what_an_algorithm_or_a_server_can_not_do_is_refused(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    noisy = replace(TRAINING, lora_dropout=0.1)
    for train in (train_ppo, train_rloo):
        with pytest.raises(UserError, match="--lora-dropout is not offered"):
            train(saved, pairs, tmp_path / "out", "preference",
                  judging=Judging(judge="none"), training=noisy)  # fmt: skip
    with pytest.raises(UserError, match="no DoRA"):
        Sampling(engine={"url": "http://localhost:1/v1"}).open_engine(
            saved, replace(TRAINING, lora_dora=True), tmp_path
        )
