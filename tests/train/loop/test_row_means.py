"""Means of what is logged, over processes and interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from veridical.runtime import processes
from veridical.runtime.files import read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.row_means import RowMeans, Unlogged
from veridical.train.loop.task import Outcome
from veridical.train.options import Training

TRAINING = Training(
    learning_rate=3e-3, max_steps=6, batch_size=4, accumulation=1, held_out=0.0, evaluations=1,
    lora_rank=4, seed=1, trainer={"lr_scheduler_type": "constant", "logging_steps": 4},
)  # fmt: skip


def see(means: RowMeans, *values: float) -> None:
    """A batch with these margins, each of which is its row's loss too."""
    rows = torch.tensor(values)
    means.add(Outcome(rows.sum(), {"margin": rows}), torch.tensor(len(values)))


def test_what_no_line_has_yet_goes_into_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 + 2 + 6) / 3 = 3; of two processes with the same, and 3 rows more, the mean is 3 too."""
    first, second = RowMeans(), RowMeans()
    see(first, 1.0, 2.0)
    kept = Unlogged(first)
    kept.keep()
    state = TrainerState(global_step=1, stateful_callbacks={"Unlogged": kept.state()})
    Unlogged(second).on_train_begin(TrainingArguments("unused"), state, TrainerControl())
    for means in (first, second):
        see(means, 6.0)
        assert means.take() == {"margin": 3.0, "mean_loss": 3.0}
        assert means.take() == {}
    monkeypatch.setattr(processes, "gather", lambda own: [own, own])
    see(first, 1.0, 2.0)
    kept.keep()
    second.go_on(kept.sums)
    see(second, 3.0, 6.0)  # in both processes: (6 + 18) / (4 + 4)
    assert second.take() == {"margin": 3.0, "mean_loss": 3.0}


def test_a_run_that_goes_on_logs_the_steps_before_its_checkpoint_too(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    """Stopped after step 3 of the 4 that the first line is about."""
    whole, short = tmp_path / "whole", tmp_path / "short"
    train_dpo(saved, pairs, whole, training=TRAINING)
    train_dpo(saved, pairs, short, training=replace(TRAINING, max_steps=3))
    train_dpo(saved, pairs, short, training=replace(TRAINING, extend=True))
    one, other = (read_jsonl(out / "log.jsonl") for out in (whole, short))
    assert [row["step"] for row in one] == [row["step"] for row in other] == [4]
    for name in ("loss", "rewards_margin", "chosen_tokens", "logps_chosen"):
        assert one[0][name] == pytest.approx(other[0][name], rel=1e-12), name
