"""One kernel for a frozen norm, compared with the model's own code."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from veridical.models.lean_norms import LeanNorm, gives_the_same, lean_norms, one_kernel


def norm_of(kind: type[nn.Module], dtype: torch.dtype, size: int = 48) -> nn.Module:
    module = kind(size, 1e-5)
    with torch.no_grad():
        weight = module.get_parameter("weight")
        weight.copy_(torch.randn(size, generator=torch.Generator().manual_seed(1)))
    return module.to(dtype).requires_grad_(False)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)]
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_kernel_gives_what_seven_operations_give(
    dtype: torch.dtype, bound: float, scale: float
) -> None:
    module = norm_of(LlamaRMSNorm, dtype)
    noise = torch.Generator().manual_seed(0)
    states, slope = (torch.randn(6, 48, generator=noise).to(dtype) for _ in range(2))
    found: list[list[Tensor]] = []
    for kernel in (True, False):
        given = (scale * states).requires_grad_()
        out = one_kernel(given, module.get_parameter("weight"), 1e-5) if kernel else module(given)
        found.append([out.detach(), *torch.autograd.grad((out * slope).sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        difference = (ours.double() - theirs.double()).norm()
        assert float(difference) <= bound * float(theirs.double().norm())


def test_only_norms_that_compute_so_are_taken() -> None:
    """Gemma multiplies by 1 + w; float32 and trained norms are left alone."""
    model = nn.ModuleDict(
        {
            "llama": norm_of(LlamaRMSNorm, torch.bfloat16),
            "qwen": norm_of(Qwen2RMSNorm, torch.bfloat16),
            "gemma": norm_of(GemmaRMSNorm, torch.bfloat16),
            "wide": norm_of(LlamaRMSNorm, torch.float32),
            "trained": norm_of(LlamaRMSNorm, torch.bfloat16).requires_grad_(True),
            "layer": nn.LayerNorm(48, dtype=torch.bfloat16).requires_grad_(False),
        }
    )
    lean_norms(model)
    assert {name for name, one in model.items() if isinstance(one, LeanNorm)} == {"llama", "qwen"}
    assert isinstance(model["llama"], LlamaRMSNorm)
    other = norm_of(GemmaRMSNorm, torch.bfloat16)
    other.variance_epsilon = 1e-5  # type: ignore[assignment]
    assert not gives_the_same(other)
    lean_norms(model)  # once is enough
    assert type(model["llama"]).__mro__[1:3] == (LeanNorm, LlamaRMSNorm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_cpu_and_a_float32_copy_get_the_models_own_code(dtype: torch.dtype) -> None:
    module = norm_of(LlamaRMSNorm, torch.bfloat16)
    holder = nn.ModuleList([copy.deepcopy(module)])
    lean_norms(holder)
    copied = copy.deepcopy(holder).to(dtype)
    states = torch.randn(6, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert isinstance(copied[0], LeanNorm)
    assert torch.equal(copied[0](states), module.to(dtype)(states))
