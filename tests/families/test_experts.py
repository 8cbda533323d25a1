"""LoRA on experts whose weights are stacked: reached, switched off, merged, reloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_group
from every_family import FAMILIES
from family_models import can_be_built
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image

from veridical.models.batching import row_batch
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy, adapters_off
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError


@pytest.fixture(params=["Qwen3-VL-MoE", "Kimi K2.5"])
def policy(request: pytest.FixtureRequest) -> Policy:
    family = next(family for family in FAMILIES if family.name == request.param)
    if not can_be_built(family):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    torch.manual_seed(0)
    return family.build()


def test_experts_are_reached_switched_off_merged_and_reloaded(
    policy: Policy,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    for folder in ("base", "adapter"):
        policy.processor.save_pretrained(tmp_path / folder)
    policy.model.save_pretrained(tmp_path / "base")
    group = make_group(policy, "row", pictures[:1], "Describe the image.", "Yes.", "No.")
    with torch.no_grad():
        start = response_logps(policy.model, row_batch(policy, [group])).sums
    trained = prepare_training(policy, Tuning(kind="lora", rank=4, alpha=8))
    assert "stacked expert weights, at rank 2" in capsys.readouterr().out
    experts = [
        (name, parameter)
        for name, parameter in trained.model.named_parameters()
        if parameter.requires_grad and ".experts." in name
    ]
    assert {name.split("lora_")[1][0] for name, _ in experts} == {"A", "B"}
    for _, parameter in experts:
        torch.nn.init.normal_(parameter, std=0.1)
    sums = response_logps(trained.model, row_batch(trained, [group])).sums
    sums.sum().backward()
    moved = sums.detach()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for _, p in experts)
    assert float((moved - start).abs().max()) > 1e-3
    with torch.no_grad(), adapters_off(trained.model):
        again = response_logps(trained.model, row_batch(trained, [group])).sums
    assert torch.allclose(again, start, rtol=0, atol=1e-6)
    trained.model.save_pretrained(tmp_path / "adapter")
    loaded = load_policy(
        str(tmp_path / "base"), "float64", "cpu", init_adapter=tmp_path / "adapter"
    )
    same = Policy(loaded.model, policy.processor, loaded.name)
    with torch.no_grad():
        merged = response_logps(same.model, row_batch(same, [group])).sums
    assert torch.allclose(merged, moved, rtol=1e-4, atol=1e-4)
    assert not [one for one in recwarn if "pattern keys" in str(one.message)]


def test_dropout_on_stacked_experts_is_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match="LoRA knows no dropout"):
        prepare_training(policy, Tuning(kind="lora", rank=4, alpha=8, dropout=0.1))
    with pytest.raises(UserError, match="Leave --lora-dora out"):
        prepare_training(policy, Tuning(kind="lora", rank=4, alpha=8, dora=True))
    attention = Tuning(kind="lora", rank=4, alpha=8, dora=True, targets=("o_proj",))
    prepare_training(policy, attention)


def test_experts_are_scaled_as_everything_else_under_rslora(policy: Policy) -> None:
    trained = prepare_training(policy, Tuning(kind="lora", rank=4, alpha=8, rslora=True))
    scales = {
        round(value, 6)
        for module in trained.model.modules()
        if isinstance(module, BaseTunerLayer)
        for value in module.scaling.values()
    }
    assert scales == {4.0}
