"""The trial before the first step: the longest rows, the optimizer's state, and no trace of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.batching import collate
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop import trial
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.options import Training

TRAINING = Training(
    learning_rate=1e-3, max_steps=2, batch_size=2, accumulation=2, held_out=0.0, evaluations=1,
    lora_rank=4, lora_alpha=8, prove_first=False,
)  # fmt: skip
LONG_PROMPTS = ["row-3", "row-8"]


@pytest.fixture
def rows(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Two rows have a long prompt and short answers, all others longer answers."""
    content = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe it. " * (30 if f"row-{i}" in LONG_PROMPTS else 1))],
            "chosen": [assistant_message("Yes." if f"row-{i}" in LONG_PROMPTS else "A cup. " * 4)],
            "rejected": [assistant_message("No.")],
        }
        for i in range(12)
    ]
    write_records(content, tmp_path / "rows.parquet", "preference")
    return tmp_path / "rows.parquet"


def test_the_longest_rows_are_tried_with_the_optimizers_state(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[list[str], bool, bool]] = []
    honest = trial._forward_and_backward

    def watched(trainer: GroupTrainer, model: Any, items: Any) -> None:
        has_gradient = any(p.grad is not None for p in model.parameters())
        ids = sorted(item.group.id for item in items)
        tried.append((ids, bool(trainer.optimizer.state), has_gradient))
        honest(trainer, model, items)

    monkeypatch.setattr(trial, "_forward_and_backward", watched)
    train_dpo(saved, rows, tmp_path / "out", training=TRAINING)
    assert tried == [(LONG_PROMPTS, False, False), (LONG_PROMPTS, True, True)]


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "adagrad"])
def test_a_trial_leaves_no_trace(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    training = replace(TRAINING, trainer={"optim": optim, "weight_decay": 0.1, "logging_steps": 1})
    train_dpo(saved, rows, tmp_path / "with", training=training)
    monkeypatch.setattr(trial, "try_a_step", lambda *_: None)
    train_dpo(saved, rows, tmp_path / "without", training=training)
    one, other = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("with", "without")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("with", "without")]
    assert logs[0] == logs[1]


def test_too_little_memory_is_said_before_the_first_step(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trial, "_make_state", full)
    with pytest.raises(UserError, match=r"cpu has not enough memory .* --batch-size"):
        train_dpo(saved, rows, tmp_path / "out", training=TRAINING)
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


def test_large_pictures_are_candidates_however_short_their_texts(
    policy: Policy, groups: list[Any]
) -> None:
    large = Image.fromarray(np.zeros((900, 900, 3), dtype=np.uint8))
    many = [replace(groups[0], id=str(i)) for i in range(2 * trial.CANDIDATES)]
    many[50] = replace(many[50], images=(large,), prompt_text=groups[0].prompt_text[:-1])
    assert 50 in trial._candidates(many, 4)
    assert len(trial.longest_rows(policy, many[:3], True, 7)) == 7


def test_the_longest_row_is_that_of_most_tokens_not_of_most_characters(
    policy: Policy, groups: list[Any]
) -> None:
    """As Chinese among English: a token a character there, one in four or five here."""
    wordy = tuple(text + " " * 400 for text in groups[0].response_texts)
    many = [
        replace(groups[0], id=str(i), response_texts=wordy) for i in range(2 * trial.CANDIDATES)
    ]
    ids = tuple(torch.cat([own[:-1], own]) for own in groups[0].response_ids)
    many[50] = replace(groups[0], id="50", response_ids=ids)
    assert trial.longest_rows(policy, many, True, 1) == [50]


def test_copies_of_a_row_do_not_take_the_place_of_others(policy: Policy, groups: list[Any]) -> None:
    """As --data-weights lays an epoch out; all rows are of about one length."""
    first, *others = groups[:4]
    first = replace(first, prompt_text=first.prompt_text + " " * 8)
    epoch = [first] * (2 * trial.CANDIDATES) + others
    found = trial.longest_rows(policy, epoch, True, 4)
    assert {id(epoch[place]) for place in found} == {id(row) for row in (first, *others)}
    sizes = [collate(policy, [epoch[i]], True).inputs["input_ids"].numel() for i in found]
    assert sizes == sorted(sizes, reverse=True)
    assert len(trial.longest_rows(policy, epoch, True, 9)) == 9


def test_no_gradient_is_an_error_at_the_start_alone() -> None:
    """A hinge that was learned has none: a run that is resumed there goes on."""
    model = torch.nn.Linear(1, 1)
    trainer: Any = SimpleNamespace(
        collate_items=lambda items: {"count": 1},
        outcome=lambda model, inputs: SimpleNamespace(loss_sum=(0 * model.weight).sum()),
        state=SimpleNamespace(global_step=0),
    )
    with pytest.raises(UserError, match="no trained weight receives a gradient"):
        trial._forward_and_backward(trainer, model, [])
    trainer.state.global_step = 3
    trial._forward_and_backward(trainer, model, [])
