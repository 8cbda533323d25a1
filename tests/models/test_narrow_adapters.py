"""Adapters in bfloat16 beside frozen bfloat16 layers, compared with PEFT's own float32 products."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from veridical.models.narrow_adapters import NarrowLinear, _low_rank, narrow_adapters
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights, mixed_precision
from veridical.models.tuning import Tuning, prepare_training


class Small(nn.Module):
    """Two layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=False), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.tanh(self.first(x)))
        return result


def adapted(dtype: torch.dtype, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **options)
    model = get_peft_model(Small().to(dtype).requires_grad_(False), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model


def results(model: Any, x: Tensor) -> list[Tensor]:
    """What comes out, and the gradients of the input and of every adapter."""
    x = x.clone().requires_grad_()
    out = model(x)
    out.float().square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_the_formula_has_the_gradients_of_plain_operations() -> None:
    shapes = ((2, 3, 5), (7, 5), (7,), (2, 5), (7, 2))
    noise = torch.Generator().manual_seed(0)
    x, weight, bias, down, up = (
        torch.randn(shape, generator=noise, dtype=torch.float64) for shape in shapes
    )
    given = [tensor.requires_grad_() for tensor in (x, down, up)]
    found = _low_rank(x, weight, bias, down, up, 1.5)
    plain = x @ weight.T + bias + 1.5 * (x @ down.T) @ up.T
    assert torch.allclose(found, plain, rtol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), given),
        torch.autograd.grad(plain.square().sum(), given),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}])
@pytest.mark.parametrize("mixed", [False, True])
def test_bfloat16_is_near_to_float32_products(options: dict[str, Any], mixed: bool) -> None:
    """Each product rounds once (2^-9, four in a row); PEFT rounds the same sum to bfloat16."""
    model = adapted(torch.bfloat16, **options)
    if options.get("lora_dropout"):
        model.eval()
    ours = copy.deepcopy(model)
    narrow_adapters(ours)
    assert {type(m) for m in ours.modules() if isinstance(m, Linear)} == {NarrowLinear}
    x = inputs(torch.bfloat16)
    with mixed_precision("bf16" if mixed else "no"):
        found = results(ours, x.float() if mixed else x)
    for one, wanted in zip(found, results(model, x), strict=True):
        assert distance(one, wanted) < 0.02
    adapters = [p for p in ours.parameters() if p.requires_grad]
    assert {p.dtype for p in adapters} == {p.grad.dtype for p in adapters} == {torch.float32}


def test_dropout_acts_on_the_adapter_alone() -> None:
    model = adapted(torch.bfloat16, lora_dropout=0.5)
    ours = copy.deepcopy(model)
    narrow_adapters(ours)
    found = []
    for one in (model, ours):
        torch.manual_seed(3)
        layer = one.base_model.model.first.train()
        found.append(layer(inputs(torch.bfloat16)).detach())
    frozen = model.base_model.model.first.base_layer(inputs(torch.bfloat16))
    assert distance(found[1], frozen) > 0.05
    # The same draws, of other dtypes: half of the inputs are left out either way.
    assert 0.5 < (found[1] - frozen).float().norm() / (found[0] - frozen).float().norm() < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_stay_to_the_bit(dtype: torch.dtype) -> None:
    model = adapted(dtype)
    ours = copy.deepcopy(model)
    narrow_adapters(ours)
    for one, wanted in zip(
        results(ours, inputs(dtype)), results(model, inputs(dtype)), strict=True
    ):
        assert torch.equal(one, wanted)


def test_what_it_does_not_know_goes_peft_s_way() -> None:
    """Switched off, DoRA, a hooked layer, a second adapter at work: as PEFT computes it."""
    x = inputs(torch.bfloat16)
    model = adapted(torch.bfloat16)
    layer = copy.deepcopy(model)
    narrow_adapters(layer)
    first = layer.base_model.model.first
    seen: list[int] = []
    first.base_layer.register_forward_hook(lambda *_: seen.append(1))
    assert distance(first(x), model.base_model.model.first(x)) < 0.02
    assert seen == [1]
    with layer.disable_adapter(), model.disable_adapter():
        assert torch.equal(layer(x), model(x))
    model.add_adapter("other", model.peft_config["default"])
    layer.add_adapter("other", layer.peft_config["default"])
    for one in (layer, model):
        one.base_model.set_adapter(["default", "other"])
    layer.load_state_dict(model.state_dict())
    assert torch.equal(layer(x), model(x))
    dora = adapted(torch.bfloat16, use_dora=True)
    ours = copy.deepcopy(dora)
    narrow_adapters(ours)
    assert torch.equal(ours(x), dora(x))


def test_inputs_are_not_copied() -> None:
    """Kept for the backward pass: the input itself, once however many layers read it."""
    model = adapted(torch.bfloat16)
    narrow_adapters(model)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = inputs(torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model.model.first(x)
    large = [t for t in kept if t.numel() >= x.numel() and t.shape[0] != 40]
    assert [t.untyped_storage().data_ptr() for t in large] == [x.untyped_storage().data_ptr()]
    assert all(t.dtype == torch.bfloat16 for t in large)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_adapter_that_is_trained_gets_them(policy: Policy, dtype: torch.dtype) -> None:
    """And one on float32 layers computes as before."""
    own = Policy(cast_weights(policy.model, dtype), policy.processor, "x")
    prepared = prepare_training(own, Tuning(rank=4, alpha=8)).model
    adapters = [m for m in prepared.modules() if isinstance(m, Linear)]
    assert adapters and all(type(m) is NarrowLinear for m in adapters)
    name = adapters[0]._narrow_adapter((), {})
    assert name == ("default" if dtype == torch.bfloat16 else None)
