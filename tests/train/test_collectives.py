"""Sums over processes are exchanged where the group can, wherever the tensor is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from veridical.runtime import processes


def group_of(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> list[torch.device]:
    """A group of two processes that takes tensors of some kinds of devices only."""
    seen: list[torch.device] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        seen.append(tensor.device)
        if tensor.device.type not in kinds:
            raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")

    world: Any = SimpleNamespace(_device_types=[torch.device(kind) for kind in kinds])
    fake = SimpleNamespace(all_reduce=all_reduce, group=SimpleNamespace(WORLD=world))
    monkeypatch.setattr(processes, "_joined", lambda: True)
    monkeypatch.setattr(processes, "_distributed", lambda: fake)
    return seen


@pytest.mark.parametrize(
    ("kinds", "there"), [(("meta",), "meta"), (("cpu",), "cpu"), (("cpu", "meta"), "cpu")]
)
def test_a_tensor_goes_where_the_group_is(
    monkeypatch: pytest.MonkeyPatch, kinds: Sequence[str], there: str
) -> None:
    seen = group_of(monkeypatch, *kinds)
    tensor = torch.ones(3)
    if there == "meta":  # has no values to bring back
        with pytest.raises(NotImplementedError):
            processes.total(tensor)
    else:
        assert torch.equal(processes.total(tensor), tensor)
        assert processes.total(tensor) is not tensor
    assert {device.type for device in seen} == {there}


@pytest.mark.parametrize(("backend", "there"), [("hpu:fake", "hpu"), ("cpu:gloo", "cpu")])
def test_a_real_group_says_what_it_takes(tmp_path: Path, backend: str, there: str) -> None:
    """What is asked of the group is not a public interface, so a stand-in alone would not do."""
    where: dict[str, Any] = {"init_method": f"file://{tmp_path}/meeting"}
    if "fake" in backend:
        where = {"store": FakeStore()}
    torch.distributed.init_process_group(backend, **where, rank=0, world_size=1)
    try:
        refuses = there != "cpu"
        with pytest.raises(RuntimeError, match="No backend") if refuses else nullcontext():
            torch.distributed.all_reduce(torch.ones(3))
        assert processes._meeting_place(torch.device("cpu")).type == there
        if not refuses:
            assert torch.equal(processes.total(torch.ones(3)), torch.ones(3))
    finally:
        torch.distributed.destroy_process_group()
