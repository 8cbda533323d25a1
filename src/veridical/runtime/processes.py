"""One run as several processes that a launcher started (`accelerate launch`, `torchrun`).

Before `join` every process stands alone; after it they can exchange values. Everything here does
nothing in a run of one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from veridical.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another: longer than the slowest save (our choice)."""

_REPORTED = "veridical/reported"


def world_size() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def shares_out_weights() -> bool:
    """Whether the launcher has no process hold the whole model while it trains.

    FSDP and DeepSpeed's ZeRO-3 do. A DeepSpeed file of its own is taken for ZeRO-3.
    """

    def set_to_true(name: str) -> bool:
        return os.environ.get(name, "").lower() == "true"

    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    plain = stage in ("0", "1", "2") and "ACCELERATE_DEEPSPEED_CONFIG_FILE" not in os.environ
    return set_to_true("ACCELERATE_USE_FSDP") or (
        set_to_true("ACCELERATE_USE_DEEPSPEED") and not plain
    )


def join(on_cpu: bool) -> None:
    """Meet the other processes; from here on values can be exchanged.

    Args:
        on_cpu: whether the run computes on the CPU, whatever else the machine has.
    """
    if world_size() == 1 or _joined():
        return
    from accelerate import PartialState

    # Transformers' own start-up finds the group that this one makes.
    PartialState(cpu=on_cpu, timeout=PATIENCE)


def leave() -> None:
    """Part from the others at the end of a command."""
    if _joined():
        _distributed().destroy_process_group()


def wait_for_all() -> None:
    """Return once every process is here."""
    gather(None)


def gather(value: Value) -> list[Value]:
    """What every process gives, in the order of ranks; anything that can be pickled."""
    if not _joined():
        return [value]
    values: list[Any] = [None] * world_size()
    _distributed().all_gather_object(values, value)
    return values


def total(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, in all of them; a new one, where the tensor is.

    It is exchanged where the group can: NCCL takes nothing from the CPU.
    """
    if not _joined():
        return tensor.clone()
    summed: Tensor = tensor.to(_meeting_place(tensor.device), copy=True)
    _distributed().all_reduce(summed)
    return summed.to(tensor.device)


def _meeting_place(own: torch.device) -> torch.device:
    """A device that the group exchanges tensors on: the tensor's own if that is one."""
    import torch

    group = _distributed().group.WORLD
    kinds = [device.type for device in group._device_types]
    if own.type in kinds:
        return own
    if not kinds:
        return own
    if kinds[0] == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(kinds[0])


def from_first(make: Callable[[], Value]) -> Value:
    """What the first process makes, in all of them.

    Raises:
        UserError: the first process met one; all of them raise it.
    """
    if not _joined():
        return make()
    box: list[Any] = [None, None]
    if is_first():
        try:
            box[0] = make()
        except UserError as error:
            box[1] = error
    _distributed().broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    made: Value = box[0]
    return made


def reports_errors() -> bool:
    """Whether this process is the one that should print the error that it ends with.

    The first that asks is: the others failed at the same thing, or because this one is gone.
    Before the processes have met, it is one of each machine.
    """
    if world_size() == 1:
        return True
    if not _joined():
        return local_rank() == 0
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return int(_get_default_store().add(_REPORTED, 1)) == 1
    except RuntimeError:
        # The store is gone with the process that kept it, and that one has told why.
        return is_first()


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first process print; progress lines ask `is_first` themselves."""
    if is_first():
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as silence:  # noqa: SIM117
        with contextlib.redirect_stdout(silence):
            yield


def _joined() -> bool:
    # Asking must not import PyTorch: the command line starts without it.
    module = sys.modules.get("torch.distributed")
    return bool(module is not None and module.is_available() and module.is_initialized())


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
