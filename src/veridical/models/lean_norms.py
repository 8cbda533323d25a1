"""Norms of frozen weights by one kernel, where that gives what the model's own code gives.

Transformers writes a root-mean-square norm as seven operations in float32, which move nine times as
many bytes as one kernel does, and keep float32 copies of each norm's input for the backward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from veridical.models.precision import unmixed

NARROW = torch.bfloat16
BOUND = 0.01
"""How far the kernel may be from the module's own code in bfloat16, relative to its length: one
rounding (2^-9 at most) and another order of a sum in float32."""


def lean_norms(model: nn.Module) -> None:
    """Let frozen norms on a GPU be computed by one kernel, class by class, after a trial of each.

    Args:
        model: its norms stay what they are to everybody else, in float32 too.
    """
    known: dict[Any, bool] = {}
    for module in model.modules():
        kind: Any = type(module)
        if not _may_be_one(module) or issubclass(kind, LeanNorm):
            continue
        if kind not in known:
            known[kind] = gives_the_same(module)
        if known[kind]:
            module.__class__ = _lean(kind)


class LeanNorm(nn.Module):
    """A norm in front of the model's own class; what it does not know goes there."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor, *given: Any, **named: Any) -> Any:
        """The norm of bfloat16 states on a GPU, else what the class computes."""
        weight = self.weight
        plain = not given and not named and not weight.requires_grad and weight.is_cuda
        if plain and hidden_states.dtype == weight.dtype == NARROW:
            return one_kernel(hidden_states, weight, self.variance_epsilon)
        return super().forward(hidden_states, *given, **named)


def one_kernel(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """X / sqrt(mean x^2 + epsilon) in float32, rounded to the states' dtype, times the weight."""
    return weight * rms_norm(states, weight.shape, None, epsilon).to(states.dtype)


def gives_the_same(module: nn.Module) -> bool:
    """Whether the kernel gives what a norm gives for random states, and their gradients.

    Args:
        module: with a weight on the device and in the dtype that count.
    """
    weight: Any = module.weight
    noise = torch.Generator().manual_seed(0)
    states, slope = (3.0 * torch.randn(5, len(weight), generator=noise) for _ in range(2))
    found = []
    with torch.inference_mode(False), torch.enable_grad(), unmixed():
        for norm in (module, functools.partial(_of_module, module)):
            given = states.to(weight.device, weight.dtype).requires_grad_()
            try:
                out = norm(given)
                (gradient,) = torch.autograd.grad((out * slope.to(out)).sum(), given)
            except (RuntimeError, TypeError):
                return False  # it wants to be called otherwise, or the device has no such kernel
            found.append([out.detach().float(), gradient.float()])
    return all(
        one.shape == other.shape and float((one - other).norm()) <= BOUND * float(one.norm())
        for one, other in zip(*found, strict=True)
    )


def _of_module(module: Any, states: Tensor) -> Tensor:
    return one_kernel(states, module.weight, module.variance_epsilon)


def _may_be_one(module: nn.Module) -> bool:
    """A module of one frozen vector in bfloat16, with the number that such norms have."""
    own = dict(module.named_parameters(recurse=False))
    weight = own.get("weight")
    if len(own) != 1 or weight is None or weight.dim() != 1 or any(module.children()):
        return False
    epsilon = getattr(module, "variance_epsilon", None)
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return (
        isinstance(epsilon, float)
        and weight.dtype == NARROW
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and not any(hooks)
    )


@functools.cache
def _lean(kind: Any) -> Any:
    return type(f"Lean{kind.__name__}", (LeanNorm, kind), {})
