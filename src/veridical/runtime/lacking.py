"""What a machine says where it has no more memory or open files, and what to do then.

Loads nothing heavy: the command line asks too.
"""

from __future__ import annotations

import errno
import mmap
import re
import sys

CPU_SAYS = ("DefaultCPUAllocator", "alloc_cpu", "can't start new thread")
"""In PyTorch's message for a tensor that does not fit beside the others of a CPU, and in Python's
where there is no room for the stack of a thread."""
ONEDNN_SAYS = "could not create a primitive"
"""All that oneDNN, which computes bfloat16 on a CPU, says where a kernel has no room. For what it
can't compute it says the same with more words behind ("descriptor for a ...")."""


def is_memory_full(error: BaseException) -> bool:
    """Whether an exception says that there is no memory left, on whatever device."""
    # Where nothing has loaded PyTorch, nothing has raised what is its own.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return str(error) == ONEDNN_SAYS or any(says in str(error) for says in CPU_SAYS)


def has_room_for(size: int) -> bool:
    """Whether the machine would give this process so many bytes more, which are not kept."""
    try:
        with mmap.mmap(-1, size):
            return True
    except (OSError, MemoryError):
        return False


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


def out_of(error: BaseException) -> str | None:
    """What the machine has no more of, memory or open files, and what to do; None for other errors.

    For where nobody nearer knows which option to lower.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return (
            f"Too many files are open ({error}). Raise the limit (`ulimit -n`), or start fewer "
            "processes at once."
        )
    if number == errno.ENOMEM or is_memory_full(error):
        return (
            f"There is not enough memory{memory_asked_for(error)}. End other programs, start fewer "
            "processes at once, lower --batch-size where the command has it, or choose another "
            "machine."
        )
    return None
