"""The mean reward of the steps before, over batches, processes and interruptions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from veridical.runtime import processes
from veridical.train.loop.reward_shift import RunningMean


def step(follow: RunningMean, *batches: list[float]) -> float:
    """The mean after a step of these batches; what was tried before it is forgotten."""
    given: Any = (TrainingArguments("unused"), TrainerState(), TrainerControl())
    follow.see(torch.tensor([99.0]))
    follow.on_step_begin(*given)
    before = follow.mean
    for batch in batches:
        follow.see(torch.tensor(batch))
        assert follow.mean == before
    follow.on_step_end(*given)
    return follow.mean


def test_batches_of_a_step_count_as_one() -> None:
    """(1 + 2 + 6) / 3 = 3, then (9 + 3) / 4 = 3."""
    whole, parts = RunningMean(), RunningMean()
    assert whole.mean == 0.0
    assert step(whole, [1.0, 2.0, 6.0]) == step(parts, [1.0], [2.0, 6.0]) == 3.0
    assert step(whole, [3.0]) == 3.0
    assert step(whole) == 3.0  # nothing counted


def test_all_processes_know_the_rewards_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process saw two log-ratios that add up to 5: (1 + 5) / 3."""
    monkeypatch.setattr(processes, "gather", lambda own: [own, (5.0, 2)])
    assert step(RunningMean(), [1.0]) == 2.0


def test_a_resumed_run_goes_on_from_its_checkpoint() -> None:
    first, second = RunningMean(), RunningMean()
    step(first, [0.1, 0.7])
    state = TrainerState(global_step=1, stateful_callbacks={"RunningMean": first.state()})
    second.on_train_begin(TrainingArguments("unused"), state, TrainerControl())
    assert second.mean == first.mean != 0.0
    assert step(second, [0.4]) == step(first, [0.4])
