"""That a process on a CPU shrinks when its tensors go."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from veridical.runtime.allocator import give_back_freed_memory

PROGRAM = """
import sys
from pathlib import Path
import torch
from veridical.runtime.allocator import give_back_freed_memory
def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
large = torch.ones(7_000_000)  # once freed, glibc keeps blocks of up to its 28 MB for later
del large
if sys.argv[1] == "give back":
    assert give_back_freed_memory()
before = resident()
blocks = [torch.ones(1_000_000) for _ in range(64)]
last = blocks[1::2]
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_tensors_leave_the_process() -> None:
    """Of 64 tensors of 4 MB every second one is kept: 128 MB."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    grown = {}
    for way in ("keep", "give back"):
        command = [sys.executable, "-c", PROGRAM, way]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
        grown[way] = int(output.stdout) / 1e6
    assert grown["give back"] < 150
    assert grown["keep"] > 240


def test_the_environments_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert not give_back_freed_memory()
