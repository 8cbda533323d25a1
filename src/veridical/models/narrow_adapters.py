"""Adapters that compute in bfloat16 beside frozen bfloat16 layers, with weights kept in float32.

PEFT casts a layer's input to the dtype of the adapter's weights. These stay in float32, so that
small updates move them; so every product of the adapter would be one of float32, which tensor cores
do not speed up, and every layer would keep a float32 copy of its input for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from veridical.models.precision import mixing

NARROW = torch.bfloat16
"""float16 is left out: gradients of adapters would need scaling there."""


def narrow_adapters(model: nn.Module) -> None:
    """Let the adapters of a model compute in bfloat16 wherever the layer that they adapt does.

    Args:
        model: with adapters of PEFT on linear layers; others are left as they are.
    """
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = NarrowLinear


class NarrowLinear(Linear):  # type: ignore[misc]
    """PEFT's adapted linear layer, with the adapter's products in bfloat16."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the adapted layer gives, in the dtype of the frozen one."""
        name = self._narrow_adapter(args, kwargs)
        if name is None or (x.dtype != NARROW and mixing(x.device) != NARROW):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        x = x.to(NARROW)
        down, up, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        base, scaling = self.base_layer, float(self.scaling[name])
        dropped = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
        if not dropped and all(_is_plain(one) for one in (base, down, up)):
            return _low_rank(x, base.weight, base.bias, down.weight, up.weight, scaling)
        inner = linear(dropout(x), down.weight.to(NARROW))
        result = base(x)
        return result + (linear(inner, up.weight.to(NARROW)) * scaling).to(result.dtype)

    def _narrow_adapter(self, args: tuple[Any, ...], kwargs: dict[str, object]) -> str | None:
        """The adapter at work, where it is one that can compute in bfloat16; else None."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1:
            return None
        (name,) = names
        down, up = self.lora_A[name], self.lora_B[name]
        weights = (self.base_layer.weight, down.weight, up.weight)
        plain = all(type(w) is nn.Parameter and not hasattr(w, "ds_id") for w in weights)
        dtypes = [w.dtype for w in weights]
        if not plain or dtypes != [NARROW, torch.float32, torch.float32]:
            return None
        if name in self.lora_variant or up.bias is not None or down.bias is not None:
            return None
        return str(name)


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module does nothing but multiply by its weights."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
        module._backward_pre_hooks,
    )  # fmt: skip
    return type(module) is nn.Linear and not any(hooks) and "forward" not in vars(module)


def _low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
) -> Tensor:
    result: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, down, up, scaling
    )
    return result


class _LowRank(torch.autograd.Function):
    """x W^T + b + s (x A^T) B^T, of which x, A and B may get gradients.

    With g the gradient of the result and h = x A^T: s g^T h for B, (s g B)^T x for A, and
    g W + (s g B) A for x. Kept for the backward pass are x and h, which has the adapter's rank.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor,
        scaling: float,
    ) -> Tensor:  # fmt: skip
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ down.to(x.dtype).T
        result = linear(flat, weight, bias)
        result.addmm_(inner, up.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scaling = scaling
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (gradient @ up.to(x.dtype)).mul_(ctx.scaling)
        of_x = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight).addmm_(of_inner, down.to(x.dtype)).view_as(x)
        if ctx.needs_input_grad[3]:
            of_down = (of_inner.T @ flat).to(down.dtype)
        if ctx.needs_input_grad[4]:
            of_up = (gradient.T @ inner).to(up.dtype).mul_(ctx.scaling)
        return of_x, None, None, of_down, of_up, None
