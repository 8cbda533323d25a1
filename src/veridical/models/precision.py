"""Half and mixed precision: how a model is cast, and a float32 copy that decides experiments.

Rounding in half precision is as large as many faults, so an experiment there can pass whatever is
wrong. The same experiment in float32 tells them apart.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from veridical.runtime import processes

if TYPE_CHECKING:
    from veridical.models.policy import Policy

HALF = (torch.float16, torch.bfloat16)
HALF_NAMES = ("float16", "bfloat16")
EXACT_ATTENTION = ("sdpa", "eager")
"""Attention that computes in float32 on any device; flash attention takes half precision alone, and
FlexAttention has to be compiled for each device."""
CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what memory a container has."""
SPARE_BYTES = 2**30
"""Left free beside the copy, for the activations of a few rows (our choice)."""


def is_half(policy: Policy) -> bool:
    """Whether the model computes in float16 or bfloat16."""
    return compute_dtype(policy) in HALF


def compute_dtype(policy: Policy) -> torch.dtype:
    """The dtype of matrix products: that of the weights, or another under mixed precision."""
    return mixing(policy.device, policy.model) or working_dtype(policy)


@contextmanager
def mixed_precision(name: str) -> Iterator[None]:
    """Compute matrix products in bfloat16 for a while, whatever computes, with `bf16`.

    Weights stay as they are, and are cast where they are used, by PyTorch's autocast. Its cache of
    cast weights is off: it is emptied at the end only, and would outlive an optimizer's step.

    Args:
        name: `bf16`, or `no` to leave everything as it is.
    """
    with ExitStack() as stack:
        for kind in _kinds_of_device() if name == "bf16" else ():
            stack.enter_context(torch.autocast(kind, torch.bfloat16, cache_enabled=False))
        yield


@contextmanager
def unmixed() -> Iterator[None]:
    """Compute in the weights' own dtype for a while: merging, small heads, backward passes.

    A backward pass follows the dtypes of its forward pass by itself.
    """
    with ExitStack() as stack:
        for kind in _kinds_of_device():
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def mixing(device: torch.device, model: PreTrainedModel | None = None) -> torch.dtype | None:
    """The dtype of mixed precision; None where everything is computed in the weights' own.

    Args:
        device: on which it is computed.
        model: what computes, which may be a view that mixed precision does not reach.
    """
    if getattr(model, "_is_unmixed", False):
        return None
    if not torch.is_autocast_enabled(device.type):
        return None
    dtype: torch.dtype = torch.get_autocast_dtype(device.type)
    return dtype


def _kinds_of_device() -> tuple[str, ...]:
    found = torch.accelerator.current_accelerator()
    return ("cpu",) if found is None else ("cpu", found.type)


def working_dtype(policy: Policy) -> torch.dtype:
    """The dtype that the model's layers hand to each other; single modules may have a wider one."""
    dtype: torch.dtype = policy.core.get_input_embeddings().weight.dtype
    return dtype


def dtype_name(policy: Policy) -> str:
    """The dtype that the model computes in, as users write it."""
    return str(compute_dtype(policy)).removeprefix("torch.")


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> Any:
    """Cast parameters and saved buffers in place, and leave computed buffers as they are.

    Transformers computes rotary frequencies in float32 and never saves them. In bfloat16 they would
    turn token 1,000 by a wrong angle of up to a radian, which `model.to(dtype)` does.
    """
    for module in model.modules():
        saved = [name for name in module._buffers if name not in module._non_persistent_buffers_set]
        for name in saved:
            value = module._buffers[name]
            if value is not None and value.is_floating_point():
                module._buffers[name] = value.to(dtype)
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    return model


class Boundary:
    """Hooks of a module in float32 inside a model in half precision: cast its inputs and outputs.

    Attributes:
        home: the dtype of the model around it.
    """

    def __init__(self, home: torch.dtype) -> None:
        """Take the dtype of the model around the module."""
        self.home = home
        self._outside: torch.dtype | None = None

    def before(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, object]) -> Any:
        """Cast inputs in half precision to the module's own dtype."""
        own = next(p.dtype for p in module.parameters() if p.is_floating_point())
        leaves = tree_leaves((given, named))
        found = [x.dtype for x in leaves if isinstance(x, Tensor) and x.dtype in HALF]
        self._outside = found[0] if found else None
        return tree_map(lambda x: _cast(x, HALF, own), (given, named))

    def after(self, _: nn.Module, __: Any, result: Any) -> Any:
        """Cast outputs back to the dtype of the inputs."""
        outside = self._outside
        if outside is None:
            return result
        return tree_map(lambda x: _cast(x, (torch.float32,), outside), result)


def widen(module: nn.Module) -> None:
    """Keep a module of a half-precision model in float32, so that small updates move its weights.

    The model around it notices nothing: inputs and outputs are cast at the module's boundary. A
    module in float32 or more stays as it is.
    """
    home = next((p.dtype for p in module.parameters() if p.dtype in HALF), None)
    if home is None:
        return
    cast_weights(module, torch.float32)
    boundary = Boundary(home)
    module.register_forward_pre_hook(boundary.before, with_kwargs=True)
    module.register_forward_hook(boundary.after)


def narrow(module: nn.Module) -> torch.dtype | None:
    """Take the boundary of a widened module off; its weights stay.

    Returns:
        The dtype of the model around it; None where the module was not widened.
    """
    home = None
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number, hook in list(hooks.items()):
            boundary = getattr(hook, "__self__", None)
            if isinstance(boundary, Boundary):
                home = boundary.home
                del hooks[number]
                module._forward_pre_hooks_with_kwargs.pop(number, None)
    return home


def _cast(value: object, found: tuple[torch.dtype, ...], dtype: torch.dtype) -> object:
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype in found else value


@contextmanager
def exact(policy: Policy, together: bool = False) -> Iterator[Policy | None]:
    """The policy where it computes in float32 or more, else a float32 copy while it is needed.

    The copy is made on the model's device if there is room, else on the CPU, and is freed after.
    It reads pictures, never kept features, since these were computed in half precision. Mixed
    precision does not reach it; where the weights are in float32 already, it shares them.

    Args:
        policy: the model.
        together: every process makes this experiment now, and none has a copy unless all have room:
            else they would come to different verdicts.

    Yields:
        None where no copy can be had: there is no room, or weights are quantized. A copy of a model
        whose attention computes in half precision alone computes with SDPA.
    """
    if not is_half(policy):
        yield policy
        return
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    copied = None
    try:
        if working_dtype(policy) in HALF:
            copied = _float32_copy(policy, together)
            if copied is not None and mixing(policy.device):
                _leave_unmixed(copied.model)
            yield copied
        else:
            yield _unmixed_view(policy)
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        if copied is not None:
            _free(copied)


def _float32_copy(policy: Policy, together: bool) -> Policy | None:
    model = policy.model
    weights = {id(p): p for p in (*model.parameters(), *model.buffers())}
    if not all(weight.is_floating_point() for weight in model.parameters()):
        return None
    if getattr(model, "quantization_method", None) or getattr(model, "is_quantized", False):
        return None
    needed = 4 * sum(weight.numel() for weight in weights.values()) + SPARE_BYTES
    places = list(dict.fromkeys((policy.device, torch.device("cpu"))))
    own = [free_bytes(place) > needed for place in places]
    rooms = processes.gather(own) if together else [own]
    for_all = [all(room[number] for room in rooms) for number in range(len(places))]
    device = next((place for place, room in zip(places, for_all, strict=True) if room), None)
    if device is None:
        return None
    # `deepcopy` takes what it finds here for what it has copied already: there is never a second
    # copy in half precision.
    memo: dict[int, object] = {key: _widened(weight, device) for key, weight in weights.items()}
    copied = dataclasses.replace(policy, model=copy.deepcopy(model, memo).eval(), vision=None)
    return copied if _attends_exactly(copied.core, policy.device) else None


def _attends_exactly(core: PreTrainedModel, home: torch.device) -> bool:
    """Let a float32 copy compute with SDPA where its own attention does not, if it can be set."""
    attention = core.config.get_text_config()._attn_implementation
    if attention in EXACT_ATTENTION or (attention == "flex_attention" and core.device == home):
        return True
    core.set_attn_implementation("sdpa")
    return core.config.get_text_config()._attn_implementation in EXACT_ATTENTION


def _unmixed_view(policy: Policy) -> Policy:
    """A model of the same weights that mixed precision does not reach."""
    model = policy.model
    memo: dict[int, object] = {
        id(weight): weight for weight in (*model.parameters(), *model.buffers())
    }
    view = copy.deepcopy(model, memo).eval()
    _leave_unmixed(view)
    return dataclasses.replace(policy, model=view, vision=None)


def _leave_unmixed(model: Any) -> None:
    """Let mixed precision not reach a model."""
    for module in model.modules():
        module.forward = _without_mixing(module.forward)
        module._is_unmixed = True


def _without_mixing(forward: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(forward)
    def compute(*given: Any, **named: Any) -> Any:
        with unmixed():
            return forward(*given, **named)

    return compute


def _free(policy: Policy) -> None:
    """Give the weights' memory back, whoever still holds the policy."""
    for weight in (*policy.model.parameters(), *policy.model.buffers()):
        weight.data = weight.new_empty(0)
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()


def _widened(weight: Tensor, device: torch.device) -> Tensor:
    dtype = torch.float32 if weight.is_floating_point() else weight.dtype
    wide = weight.detach().to(device, dtype, copy=True)
    return nn.Parameter(wide, requires_grad=False) if isinstance(weight, nn.Parameter) else wide


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on a device, in bytes.

    On the CPU the memory of a container counts, without files that its kernel may drop, and the
    processes of this machine divide it.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return 0
    free = int(psutil.virtual_memory().available)
    limit = _number(CONTAINER / "memory.max")
    used = _number(CONTAINER / "memory.current")
    if limit is not None and used is not None:
        free = min(free, limit - used + _droppable(CONTAINER / "memory.stat"))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _droppable(path: Path) -> int:
    """Bytes of files that are kept in memory and were not read lately."""
    try:
        found = re.search(r"^inactive_file (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
