"""How a device says that its memory is full: a GPU and a CPU do so with different exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU_SAYS = ("DefaultCPUAllocator", "alloc_cpu", "can't start new thread")
"""In PyTorch's message for a tensor that does not fit beside the others of a CPU, and in Python's
where there is no room for the stack of a thread."""
ONEDNN_SAYS = "could not create a primitive"
"""All that oneDNN, which computes bfloat16 on a CPU, says where a kernel has no room. For what it
can't compute it says the same with more words behind ("descriptor for a ...")."""


def is_memory_full(error: BaseException) -> bool:
    """Whether an exception says that there is no memory left, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return str(error) == ONEDNN_SAYS or any(says in str(error) for says in CPU_SAYS)


def memory_asked_for(error: BaseException) -> str:
    """What did not fit, as half a sentence: "2.00 GiB more"; nothing where the error has no number.

    A GPU says "Tried to allocate 2.00 GiB.", a CPU "you tried to allocate 14448040000 bytes."
    """
    found = re.search(r"[Tt]ried to allocate ([\d.]+) (\w+)", str(error))
    if found is None:
        return ""
    number, unit = found[1].rstrip("."), found[2]
    if unit == "bytes":
        return f" for {int(number) / 1e9:.2f} GB more"
    return f" for {number} {unit} more"


@contextmanager
def memory_errors_alike() -> Iterator[None]:
    """Raise whatever says that memory is full as PyTorch's error for a GPU.

    Raises:
        torch.OutOfMemoryError: memory is full.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_full(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
