"""Adapters merged into half precision: nothing is lost but noise, and twice is the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper

from veridical.models import load
from veridical.models.batching import row_batch
from veridical.models.load import load_base, load_policy
from veridical.models.logprobs import response_logps
from veridical.models.merge_cost import MergeCost, RoundedWeight, describe_merge, merge_cost
from veridical.models.merging import merge_adapters, round_unbiased
from veridical.models.policy import Policy, adapters_off
from veridical.models.precision import HALF, cast_weights, narrow
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training

HALVES = ["bfloat16", "float16"]
STEP = {"float32": 1e-4, "bfloat16": 1e-4, "float16": 1e-5}
"""Steps after which rounding to the nearest number would lose most of the update."""


def adapted(policy: Policy, groups: list[Group], dtype: str, projector: bool = False) -> Policy:
    """A policy after one small step of Adam's kind, against its answers."""
    cast_weights(policy.model, getattr(torch, dtype))
    trained = prepare_training(policy, Tuning(rank=4, alpha=8, train_projector=projector))
    response_logps(trained.model, row_batch(trained, groups)).sums.sum().backward()
    with torch.no_grad():
        for parameter in trained.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(STEP[dtype] * parameter.grad.sign())
    return trained


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_has_no_bias_and_leaves_what_is_exact(dtype: str) -> None:
    half = getattr(torch, dtype)
    scales = torch.tensor([1e-9, 1e-5, 0.3, 1.0, 900.0, -7.0])[:, None]
    exact = (torch.randn(6, 4000, generator=torch.Generator().manual_seed(1)) * scales).to(half)
    assert torch.equal(round_unbiased(exact.float(), half, "w"), exact)
    # A tenth of the way to the next number: one in ten goes up, and the mean is right.
    above = torch.nextafter(exact, torch.full_like(exact, torch.inf)).float()
    between = exact.float() + 0.1 * (above - exact.float())
    rounded = round_unbiased(between, half, "w").float()
    went_up = (rounded == above).float()
    assert bool(((rounded == exact.float()) | (rounded == above)).all())
    assert torch.allclose(went_up.mean(1), torch.full((6,), 0.1), atol=0.02)
    assert torch.equal(between.to(half), exact)  # to the nearest: all of it is lost


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_keeps_the_largest_numbers_and_infinity(dtype: str) -> None:
    half = getattr(torch, dtype)
    largest = torch.finfo(half).max
    odd = torch.tensor([largest, -largest, torch.inf, -torch.inf, torch.nan, 0.0])
    assert torch.equal(
        torch.nan_to_num(round_unbiased(odd, half, "w")), torch.nan_to_num(odd.to(half))
    )


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("projector", [False, True])
def test_a_merged_model_is_the_policy_that_was_trained(
    policy: Policy, groups: list[Group], dtype: str, projector: bool
) -> None:
    trained = adapted(policy, groups, dtype, projector)
    wide = copy.deepcopy(trained.model)
    for module in wide.modules():
        cast_weights(module, torch.float32)
    batch = row_batch(Policy(wide, trained.processor, "wide"), groups)

    def scores(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return response_logps(cast_weights(copy.deepcopy(model), torch.float32), batch).sums

    with adapters_off(wide):
        start = scores(wide)
    want = scores(wide)
    merged = merge_adapters(trained.model)
    assert {p.dtype for p in merged.parameters()} == {getattr(torch, dtype)}
    assert not any(isinstance(narrow(module), torch.dtype) for module in merged.modules())
    print(dtype, projector)
    lost = float((scores(merged) - want).square().mean().sqrt())
    moved = float((want - start).square().mean().sqrt())
    print(lost, moved)
    assert lost < (0.15 * moved if dtype in HALVES else 1e-4)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("projector", [False, True])
def test_an_adapter_folder_loads_as_the_model_that_was_saved(
    policy: Policy, groups: list[Group], tmp_path: Path, dtype: Any, projector: bool
) -> None:
    cast_weights(policy.model, torch.float32).save_pretrained(tmp_path / "base")
    policy.processor.save_pretrained(tmp_path / "base")
    trained = adapted(load_policy(str(tmp_path / "base"), dtype, "cpu"), groups, dtype, projector)
    trained.model.save_pretrained(str(tmp_path / "adapter"))
    merged = merge_adapters(trained.model).state_dict()
    for given in ((str(tmp_path / "adapter"),), (str(tmp_path / "base"),)):
        adapter = None if given[0].endswith("adapter") else tmp_path / "adapter"
        again = load_policy(given[0], dtype, "cpu", adapter).core.state_dict()
        assert again.keys() == merged.keys()
        for name, weight in merged.items():
            assert torch.equal(weight, again[name]), name


@pytest.mark.parametrize("dtype", HALVES)
def test_a_wider_result_holds_the_whole_update(
    policy: Policy, groups: list[Group], dtype: str
) -> None:
    trained = adapted(policy, groups, dtype, projector=True)
    layer = trained.core.get_decoder().layers[0].self_attn.q_proj
    want = layer.get_base_layer().weight.float() + layer.get_delta_weight("default")
    merged = merge_adapters(trained.model, torch.float32)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    got = merged.get_decoder().layers[0].self_attn.q_proj.weight
    assert torch.allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_result_in_the_other_half_precision_is_rounded_once(
    policy: Policy, groups: list[Group], dtype: str
) -> None:
    base, other = (
        getattr(torch, dtype),
        next(half for half in HALF if half != getattr(torch, dtype)),
    )
    trained = adapted(policy, groups, dtype)
    layer = trained.core.get_decoder().layers[0].self_attn.q_proj
    core: Any = trained.model.base_model.model
    name = next(name for name, module in core.named_modules() if module is layer)
    assert layer.get_base_layer().weight.dtype == base
    wide = layer.get_base_layer().weight.float() + layer.get_delta_weight("default")
    merged = merge_adapters(trained.model, other)
    got = merged.get_decoder().layers[0].self_attn.q_proj.weight
    assert torch.equal(got, round_unbiased(wide, other, f"{name}.weight"))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_cost_of_rounding_is_counted_by_hand(policy: Policy, dtype: str) -> None:
    half = getattr(torch, dtype)
    cast_weights(policy.model, half)
    trained = prepare_training(policy, Tuning(rank=1, alpha=1))
    layers = [m for m in trained.core.modules() if isinstance(m, BaseTunerLayer)]
    place = next(name for name, m in trained.core.named_modules() if m is layers[0])
    with torch.no_grad():
        layers[0].lora_A["default"].weight.fill_(1.0)
        layers[0].lora_B["default"].weight.fill_(1e-6)
    before = layers[0].get_base_layer().weight.float().clone()
    rounded: list[RoundedWeight] = []
    merge_adapters(trained.model, rounded=rounded)
    after = round_unbiased(before + 1e-6, half, f"{place}.weight").float()
    # 1e-6 is added to every number, and the others' updates are zero.
    cost = merge_cost("folder", half, rounded)
    assert cost is not None and (cost.adapter, cost.dtype) == ("folder", dtype)
    noise = float((after - before - 1e-6).square().mean().sqrt()) / 1e-6
    assert cost.noise == pytest.approx(noise, rel=0.05)
    assert cost.changed == pytest.approx(float((after != before).float().mean()))
    # Noise of one number as a share of the norm of the update, sqrt(numbers) * 1e-6, of which rank
    # 1 reaches one in so many directions as there are inputs.
    reached = before.numel() / before.shape[1]
    assert cost.lost == pytest.approx(noise / reached**0.5, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("size", [1e-7, 1e-2])
def test_loading_says_what_rounding_cost_and_what_to_set(
    policy: Policy, tmp_path: Path, dtype: Any, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    cast_weights(policy.model, getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    policy.processor.save_pretrained(tmp_path / "base")
    start = load_policy(str(tmp_path / "base"), "float32", "cpu")
    trained = prepare_training(start, Tuning(rank=4, alpha=4, train_projector=True))
    for name, weight in trained.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=size)
        elif weight.requires_grad and "lora" not in name:
            weight.data += size * torch.randn(weight.shape)
    trained.model.save_pretrained(str(tmp_path / "adapter"))
    capsys.readouterr()
    merged = load_policy(str(tmp_path / "adapter"), dtype, "cpu")
    said = capsys.readouterr().out
    if dtype == "float32":
        assert merged.merges == () and "rounded" not in said
        return
    (cost,) = merged.merges
    assert said.count(f"{tmp_path / 'adapter'} is merged and rounded to {dtype}") == 1
    assert cost.is_too_much == (size == 1e-7) == ("set --dtype float32" in said)
    assert (cost.changed > 0.5) == (size == 1e-2)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_module_that_an_adapter_brings_whole_is_counted_too(
    policy: Policy, groups: list[Group], dtype: str
) -> None:
    trained = adapted(policy, groups, dtype, projector=True)
    rounded: list[RoundedWeight] = []
    layers = sum(isinstance(m, BaseTunerLayer) for m in trained.core.modules())
    whole = [m for m in trained.core.modules() if isinstance(m, ModulesToSaveWrapper)]
    parameters = sum(len(list(m.original_module.parameters())) for m in whole)
    assert parameters
    merge_adapters(trained.model, rounded=rounded)
    assert sum(weight.update > 0 for weight in rounded) == layers + parameters


@pytest.mark.parametrize("dtype", HALVES)
def test_two_adapters_are_two_costs_and_the_base_is_found_again(
    policy: Policy, groups: list[Group], tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast_weights(policy.model, torch.float32).save_pretrained(tmp_path / "base")
    policy.processor.save_pretrained(tmp_path / "base")
    trained = adapted(load_policy(str(tmp_path / "base"), dtype, "cpu"), groups, dtype)
    for name in ("first", "second"):
        trained.model.save_pretrained(str(tmp_path / name))
    both = load_policy(str(tmp_path / "first"), dtype, "cpu", tmp_path / "second")
    assert [Path(cost.adapter).name for cost in both.merges] == ["first", "second"]
    base, want = load_base(both), load_policy(str(tmp_path / "base"), dtype, "cpu")
    assert base is not None and base.merges == ()
    for name, weight in want.core.state_dict().items():
        assert torch.equal(weight, base.core.state_dict()[name]), name
    monkeypatch.setattr(load, "free_bytes", lambda _: 10**9)  # less than is left for activations
    assert load_base(both) is None


@pytest.mark.parametrize(
    ("lost", "words"),
    [(0.02, None), (0.06, "That may in truth be more than 10%"), (1.31, "That is more than 10%")],
)
def test_what_merging_takes_is_worded_by_how_sure_it_is(lost: float, words: str | None) -> None:
    told = describe_merge(MergeCost("folder", "bfloat16", changed=0.6, noise=35.0, lost=lost))
    assert "In a single weight, the noise of rounding is 35 times" in told
    assert f"by estimate it is {lost:.1%} of" in told
    assert (words or "docs/training.md, Adapters merged at load).") in told
    assert ("--dtype float32" in told) == (words is not None)
