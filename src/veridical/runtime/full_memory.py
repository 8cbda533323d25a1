"""Full memory as one exception: a GPU and a CPU say so with different ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from veridical.runtime.lacking import is_memory_full


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
