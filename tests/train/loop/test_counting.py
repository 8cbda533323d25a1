"""One count of steps: the Trainer's, the loaders', the rollout buffer's and the schedule's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Trainer

from veridical.train.loop.counting import rows_seen, steps_an_epoch, total_steps
from veridical.train.loop.order import Batches, RankSampler
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training

ROWS = (1, 2, 3, 7, 8, 9, 10, 31, 32, 33, 100, 1000)
BATCHES = (1, 3, 8)
ACCUMULATIONS = (1, 2, 4)
PROCESSES = (1, 2, 3)
EPOCHS = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0)
CASES = list(itertools.product(ROWS, BATCHES, ACCUMULATIONS, PROCESSES))


def test_a_few_by_hand() -> None:
    # 10 rows, 8 a step: an epoch has a step of 8 and one of 2.
    assert steps_an_epoch(10, 8) == 2
    assert total_steps(10, 8, 3.0, -1) == 6
    # 1,000 rows, 32 a step: 31.25 steps are 32, three times.
    assert total_steps(1000, 32, 3.0, -1) == 96
    assert total_steps(1000, 32, 3.0, 7) == 7
    assert total_steps(100, 32, 0.01, -1) == 1
    assert 0.07 * 100 > 7  # in floating point
    assert total_steps(100, 1, 0.07, -1) == 7
    assert [rows_seen(step, 10, 8) for step in range(5)] == [0, 8, 10, 18, 20]


@pytest.mark.parametrize("processes", PROCESSES)
def test_every_step_has_rows_and_an_epoch_has_every_row_once(processes: int) -> None:
    for rows, batch, accumulation in itertools.product(ROWS, BATCHES, ACCUMULATIONS):
        sampler = RankSampler(rows, batch, 1, 0, processes)
        whole = batch * accumulation * processes
        an_epoch = steps_an_epoch(rows, whole)
        for epoch in range(2):
            steps = range(epoch * an_epoch, (epoch + 1) * an_epoch)
            seen = [sampler.rows_of_step(step, accumulation) for step in steps]
            assert all(seen)
            assert sorted(itertools.chain(*seen)) == list(range(rows))
            assert rows_seen(steps.stop, rows, whole) == (epoch + 1) * rows
        for epochs in EPOCHS:
            steps_taken = total_steps(rows, whole, epochs, -1)
            least = rows * epochs - 1e-6
            assert rows_seen(steps_taken, rows, whole) >= least
            assert steps_taken == 1 or rows_seen(steps_taken - 1, rows, whole) < max(least, rows)


def test_transformers_takes_the_steps_that_we_count() -> None:
    for (rows, batch, accumulation, processes), epochs in itertools.product(CASES, EPOCHS):
        whole = batch * accumulation * processes
        steps = total_steps(rows, whole, epochs, -1)
        arguments = SimpleNamespace(
            max_steps=steps, num_train_epochs=epochs, gradient_accumulation_steps=accumulation
        )
        sampler = RankSampler(rows, batch, 1, 0, processes)
        loader = Batches(range(rows), sampler, lambda _: {})  # type: ignore[arg-type]
        counted: Any = SimpleNamespace(
            get_total_train_batch_size=lambda _, whole=whole: whole,
            get_sp_size=lambda: 1,
            num_examples=lambda _, rows=rows: rows,
        )
        found = Trainer.set_initial_training_values(counted, arguments, loader)
        epochs_there, an_epoch, *_, steps_there = found
        assert an_epoch == steps_an_epoch(rows, whole)
        assert steps_there == steps
        assert epochs_there * an_epoch >= steps


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("epochs", EPOCHS)
def test_the_trainer_is_given_our_count(rows: int, epochs: float, tmp_path: Path) -> None:
    training = Training(learning_rate=1.0, epochs=epochs)
    arguments = trainer_arguments(training, tmp_path, rows, False, True)
    assert arguments.max_steps == training.steps(rows)


def test_the_count_of_a_run_follows_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(learning_rate=1.0, epochs=3.0)
    assert training.steps(1000) == 96
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert training.steps(1000) == 24
    assert replace(training, max_steps=5).steps(1000) == 5
