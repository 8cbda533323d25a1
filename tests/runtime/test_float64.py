"""Figures on devices without float64."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import veridical
from veridical.runtime import float64
from veridical.runtime.float64 import in_float64, moved_to, widest

SOURCE = Path(veridical.__file__).parent


def test_only_where_a_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" holds no numbers, and stands for one without float64."""
    monkeypatch.setattr(float64, "LACKING", ("meta",))
    wide, meta = torch.full((2,), 0.1, dtype=torch.float64), torch.device("meta")
    assert widest(meta) == torch.float32 and widest(wide.device) == torch.float64
    assert moved_to(wide, meta).dtype == torch.float32
    assert moved_to(wide, wide.device).dtype == torch.float64
    assert moved_to(torch.ones(2, dtype=torch.int64), meta).dtype == torch.int64
    with pytest.raises(NotImplementedError, match="meta"):  # it is fetched, not widened there
        in_float64(torch.ones(2, device=meta))
    assert in_float64(torch.ones(2)).dtype == torch.float64


def test_nothing_is_widened_on_a_device() -> None:
    """Each `.double()` is of what was fetched before, or in the one place that asks the device."""
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.name == "float64.py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                inner = node.func.value
                fetched = isinstance(inner, ast.Call) and ast.unparse(inner).endswith(".cpu()")
                if node.func.attr == "double" and not fetched:
                    found.append(f"{path.relative_to(SOURCE)}: {ast.unparse(node)}")
    # Stored log-probs, which are on the CPU.
    assert found == ["models/token_logps.py: logps.double()"]
