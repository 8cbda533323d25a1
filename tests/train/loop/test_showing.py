"""Answers that are printed while a policy is trained: which, when, and without a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.load import load_policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.showing import answers, check_showing
from veridical.train.options import Training
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=3e-2, max_steps=5, batch_size=4, accumulation=1, held_out=0.2, evaluations=1,
    lora_rank=4, lora_alpha=8, lora_dropout=0.2, trainer={"lr_scheduler_type": "constant"},
)  # fmt: skip


def test_answers_are_those_of_the_step_and_leave_no_trace(
    saved: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    train_dpo(saved, pairs, plain, training=TRAINING)
    capsys.readouterr()
    train_dpo(saved, pairs, out, training=replace(TRAINING, show_every=2))
    told = capsys.readouterr().out
    rows = read_jsonl(out / "shown.jsonl")
    assert [row["step"] for row in rows] == [0, 0, 2, 2, 4, 4, 5, 5]
    assert f"step 4, {rows[4]['id']}: {' '.join(rows[4]['text'].split())[:20]}" in told
    one, other = (load_file(f / "model" / "model.safetensors") for f in (out, plain))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for model, step in ((saved, 0), (str(out / "model"), 5)):
        policy = load_policy(model)
        read = read_training_rows(policy, pairs, "preference", ("chosen",), TRAINING)
        of = {group.id: group for group in read.groups}
        known = [row for row in rows if row["step"] == step]
        assert answers(policy, [of[row["id"]] for row in known]) == [r["text"] for r in known]
    extended = replace(TRAINING, show_every=2, extend=True, max_steps=6)
    train_dpo(saved, pairs, out, training=extended)
    assert [row["step"] for row in read_jsonl(out / "shown.jsonl")][-4:] == [5, 5, 6, 6]


def test_reinforcement_learning_prints_its_samples(
    saved: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = replace(TRAINING, held_out=0.0, lora_dropout=0.0, show_every=2, max_steps=3)
    train_rloo(
        saved, pairs, tmp_path / "out", "preference", False, Judging(judge="none"),
        Symbolic(length_penalty=5.0), Sampling(max_new_tokens=6), training=training,
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "step 2, pair-" in told and "step 1, " not in told and "step 3, " not in told


def test_what_shows_nothing_is_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a reward model says nothing"):
        train_reward("m", pairs, tmp_path / "o", training=replace(TRAINING, show_every=1))
    with pytest.raises(UserError, match="--show-every is 0"):
        check_showing(0, "train dpo")


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED"])
def test_weights_that_are_shared_out_answer_nothing_and_no_model_is_loaded(
    launcher: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(UserError, match="--show-every needs the whole model in one process"):
        train_dpo("no-model", pairs, tmp_path / "o", training=replace(TRAINING, show_every=1))
    objects = tmp_path / "objects.json"
    checked = replace(TRAINING, check_images=tmp_path, check_objects=objects)
    with pytest.raises(UserError, match="--check-images needs the whole model in one process"):
        train_dpo("no-model", pairs, tmp_path / "o", training=checked)
    check_showing(None, "train dpo")
    if launcher == "DEEPSPEED":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        check_showing(1, "train dpo")  # every process holds all weights
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
        with pytest.raises(UserError, match="ZeRO-3"):
            check_showing(1, "train dpo")
