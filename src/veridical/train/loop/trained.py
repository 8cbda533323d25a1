"""The trained weights alone: kept, found again, and made whole where processes share them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from veridical.models.policy import Policy
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.float64 import in_float64

WEIGHTS = "trained.safetensors"


def trained_parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every parameter that is trained, by its name in memory."""
    # Wrappers, of FSDP2's activation checkpointing and our own, are not part of the name.
    return {
        name.replace("_checkpoint_wrapped_module.", "").removeprefix("policy_model."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def trained_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every weight that is trained, whole, on the CPU; all processes have to ask together."""
    return {name: whole(p).cpu().contiguous() for name, p in trained_parameters(model).items()}


def whole(parameter: Any) -> Tensor:
    """A parameter's value, gathered from the processes that hold its pieces."""
    value = parameter.detach()
    if isinstance(value, DTensor):
        gathered: Tensor = value.full_tensor()
        return gathered
    if hasattr(parameter, "ds_id"):
        from deepspeed import zero

        with zero.GatheredParameters([parameter]):
            return parameter.detach().clone()  # type: ignore[no-any-return]
    return torch.as_tensor(value)


def is_shared_out(model: PreTrainedModel) -> bool:
    """Whether no process holds the whole model (FSDP2, DeepSpeed ZeRO-3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def save_trained_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write the trained weights; every process has to take part, the first one writes."""
    weights = trained_weights(model)
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / WEIGHTS)


def load_trained_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        UserError: the checkpoint is of other weights than those trained here.
    """
    found = load_file(checkpoint / WEIGHTS)
    wanted = trained_parameters(model)
    odd = sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    )
    if odd:
        raise UserError(
            f"{checkpoint} was made with other trained weights ({odd[0]} and {len(odd) - 1} more). "
            "Resume with the options that the run was started with, or choose another --out."
        )
    put(wanted, found)


@torch.no_grad()
def put(parameters: Mapping[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copy values into parameters, each process its own piece."""
    for name, parameter in parameters.items():
        value: Tensor = values[name]
        if isinstance(parameter, DTensor):
            value = value.to(parameter.device)
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def save_piece(optimizer: Any, folder: Path) -> None:
    """Write this process's piece of the optimizer's state (FSDP2)."""
    content = optimizer.state_dict()
    content["state"] = {
        number: {n: v.to_local() if isinstance(v, DTensor) else v for n, v in entry.items()}
        for number, entry in content["state"].items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, _piece(folder))


def load_piece(optimizer: Any, folder: Path) -> None:
    """Read back what `save_piece` wrote.

    Raises:
        UserError: another number of processes wrote it.
    """
    if len(list(folder.glob("optimizer_*.pt"))) != processes.world_size():
        raise UserError(
            f"{folder} was made by another number of processes than {processes.world_size()}. "
            "Resume with as many as the run was started with."
        )
    content = torch.load(_piece(folder), map_location="cpu", weights_only=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    content["state"] = {
        number: {name: _like(parameters[number], value) for name, value in entry.items()}
        for number, entry in content["state"].items()
    }
    optimizer.load_state_dict(content)


def _piece(folder: Path) -> Path:
    return folder / f"optimizer_{processes.rank()}.pt"


def _like(parameter: Any, value: Any) -> Any:
    """A state as the piece of a shared-out tensor that its parameter is; a counter stays."""
    sharded = isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.dim() > 0
    if not sharded:
        return value
    return DTensor.from_local(
        value.to(parameter.device), parameter.device_mesh, parameter.placements,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


def whole_policy(policy: Policy, rebuild: Callable[[], Policy]) -> Policy:
    """The policy as one process can save it; every process has to take part.

    Args:
        policy: as it was trained.
        rebuild: loads the start once more, ready to be trained; called by the first process only,
            and only where none holds the whole model.
    """
    if not is_shared_out(policy.model):
        return policy
    weights = trained_weights(policy.model)
    if not processes.is_first():
        return policy
    fresh = rebuild()
    put(trained_parameters(fresh.model), weights)
    return fresh


def require_same_start(model: PreTrainedModel) -> None:
    """Compare the trained weights of all processes, which must start from the same.

    Raises:
        UserError: they do not, so that what is trained would be a mixture.
    """
    sums = [float(in_float64(p.detach()).sum()) for p in trained_parameters(model).values()]
    if any(other != sums for other in processes.gather(sums)):
        raise UserError(
            "The processes start from different weights. See that each loads the same model, and "
            "that all machines have the same versions of the libraries."
        )
