"""A full memory is known as one on every device."""

from __future__ import annotations

import pytest
import torch

from veridical.runtime.full_memory import memory_errors_alike
from veridical.runtime.lacking import has_room_for, is_memory_full, memory_asked_for


def test_room_is_tried_and_given_back() -> None:
    assert has_room_for(1 << 20)
    assert not has_room_for(1 << 60)


def test_a_cpu_without_memory_raises_what_a_gpu_does() -> None:
    # 2^50 numbers of 4 bytes.
    with pytest.raises(torch.OutOfMemoryError) as full, memory_errors_alike():
        torch.empty(1 << 50, dtype=torch.float32)
    assert memory_asked_for(full.value) == " for 4503599.63 GB more"
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert memory_asked_for(gpu) == " for 2.00 GiB more"
    with pytest.raises(torch.OutOfMemoryError) as full, memory_errors_alike():
        raise MemoryError
    assert memory_asked_for(full.value) == ""
    # What Python says where a thread's stack has no room, and oneDNN where a kernel has none.
    for says in ("can't start new thread", "could not create a primitive"):
        with pytest.raises(torch.OutOfMemoryError), memory_errors_alike():
            raise RuntimeError(says)


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError) as other, memory_errors_alike():
        torch.ones(2) @ torch.ones(3)
    assert not is_memory_full(other.value)
    unknown = "could not create a primitive descriptor for a matmul primitive"
    assert not is_memory_full(RuntimeError(unknown))
