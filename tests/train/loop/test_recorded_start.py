"""A resumed run recognizes its start, in half precision too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from veridical.checks.proving import noise_floor
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights, is_half
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.train.loop import recorded_start
from veridical.train.loop.recorded_start import RECORDED, recognize_start

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture(params=DTYPES)
def started(request: pytest.FixtureRequest, policy: Policy, tmp_path: Path) -> Policy:
    """A policy that starts from an adapter, which is merged into one of its layers."""
    cast_weights(policy.model, getattr(torch, request.param))
    torch.manual_seed(0)
    _add_adapter(policy, 1.0)
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    return policy


def _query(policy: Policy) -> nn.Linear:
    found: nn.Linear = policy.core.get_decoder().layers[-1].self_attn.q_proj
    return found


def _add_adapter(policy: Policy, scale: float) -> None:
    weight = _query(policy).weight
    seeded = torch.Generator().manual_seed(1)
    up, down = (torch.randn(n, 2, generator=seeded) for n in weight.shape)
    # Of the size of the weights themselves, so that a tenth of it survives being rounded.
    weight.data += (scale * 0.02 * up @ down.T).to(weight)


def recognize(policy: Policy, groups: list[Group], out: Path) -> None:
    logps = compute_logps(policy, groups, False, len(groups))
    recognize_start(policy, groups, logps, noise_floor(policy, groups), out, {})


def other_kernel(policy: Policy) -> Policy:
    """The same weights, computed in another order, as another machine would."""
    again = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    again.model.set_attn_implementation("eager")
    return again


def scaled_adapter(policy: Policy) -> Policy:
    other = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    _add_adapter(other, 0.1)
    return other


def another_base(policy: Policy) -> Policy:
    other = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    seeded = torch.Generator().manual_seed(2)
    for weight in other.core.get_decoder().layers[0].parameters():
        weight.data *= 1 + 0.02 * torch.randn(weight.shape, generator=seeded).to(weight)
    return other


def another_projector(policy: Policy) -> Policy:
    other = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    other.core.model.multi_modal_projector.linear_1.weight.data *= 1.02
    return other


def test_the_same_start_is_resumed(started: Policy, groups: list[Group], tmp_path: Path) -> None:
    recognize(started, groups[:4], tmp_path)
    recorded = read_json(tmp_path / RECORDED)
    recognize(started, groups[:4], tmp_path)
    recognize(other_kernel(started), groups[:4], tmp_path)
    assert read_json(tmp_path / RECORDED) == recorded  # the start's own, however often resumed


@pytest.mark.parametrize("change", [scaled_adapter, another_base, another_projector])
def test_another_start_is_refused(
    started: Policy, groups: list[Group], tmp_path: Path, change: Callable[[Policy], Policy]
) -> None:
    recognize(started, groups[:4], tmp_path)
    with pytest.raises(UserError, match=r"another model: log-probs .* differ by"):
        recognize(change(started), groups[:4], tmp_path)


def test_adapters_that_train_are_looked_at(
    started: Policy, groups: list[Group], tmp_path: Path
) -> None:
    trained = prepare_training(started, Tuning(rank=2, alpha=4))
    trained.model.eval()
    recognize(trained, groups[:4], tmp_path)
    recognize(trained, groups[:4], tmp_path)
    moved = next(p for name, p in trained.model.named_parameters() if "lora_B" in name)
    moved.data += 0.01
    with pytest.raises(UserError, match="another model"):
        recognize(trained, groups[:4], tmp_path)


def test_without_room_for_a_copy_it_says_what_it_cannot_tell(
    started: Policy,
    groups: list[Group],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def no_room(policy: Policy, together: bool = False) -> Iterator[Any]:
        yield None if is_half(policy) else policy

    recognize(started, groups[:4], tmp_path)
    monkeypatch.setattr(recorded_start, "exact", no_room)
    recognize(started, groups[:4], tmp_path)
    assert "can't be told" not in capsys.readouterr().out.replace("\n", " ")
    recognize(other_kernel(started), groups[:4], tmp_path)
    assert ("explains up to" in capsys.readouterr().out) == is_half(started)
    wrong = another_base(started)
    wrong.core.lm_head.weight.data *= 1.5
    with pytest.raises(UserError, match="another model"):
        recognize(wrong, groups[:4], tmp_path)


def test_other_pairs_and_damaged_records_are_refused(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    recognize(policy, groups[:4], tmp_path)
    with pytest.raises(UserError, match="other pairs"):
        recognize(policy, groups[1:5], tmp_path)
    content = read_json(tmp_path / RECORDED)
    for odd in ({"logps": [[0.0]]}, {"float32": [[0.0]] * 4}, {"logps": "x"}, {"ids": None}):
        write_json(tmp_path / RECORDED, content | odd)
        with pytest.raises(UserError, match=r"other pairs|start\.json"):
            recognize(policy, groups[:4], tmp_path)
