"""What the C library does with memory that PyTorch has given back, on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

BLOCK = 1 << 19
"""Blocks of this many bytes and more are mapped one by one (our choice: an activation of a few
hundred tokens; smaller ones come and go too often)."""
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Of glibc's malloc.h."""


def give_back_freed_memory() -> bool:
    """Have glibc return tensors to the system when they are freed, and what it has kept so far.

    It would keep blocks of up to 32 MB for later, in pieces that the next ones often do not fit:
    a process that trains can hold a third more than its tensors ever took. Settings of the
    environment (`MALLOC_MMAP_THRESHOLD_`) are respected.

    Returns:
        Whether there was something to do.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    library.mallopt(MMAP_THRESHOLD, BLOCK)
    library.mallopt(TRIM_THRESHOLD, BLOCK)
    library.malloc_trim(0)
    return True
