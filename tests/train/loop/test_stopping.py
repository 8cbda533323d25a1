"""Early stopping, and the held-out figure that chooses the checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from veridical.models.logprobs import ResponseLogps
from veridical.objectives.preference import Preference
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train import sft
from veridical.train.dpo import train_dpo
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.reference_cache import precompute
from veridical.train.loop.stopping import check_selection, evaluations_since_best
from veridical.train.options import Training
from veridical.train.sft import train_sft

TRAINING = Training(
    learning_rate=3e-1, max_steps=8, batch_size=4, accumulation=1, held_out=0.2, evaluations=8,
    lora_rank=4, lora_alpha=8, trainer={"lr_scheduler_type": "constant", "logging_steps": 1},
)  # fmt: skip


def evaluated(out: Path) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in read_jsonl(out / "log.jsonl") if r["split"] == "eval"}


def test_evaluations_are_counted_from_the_first_best() -> None:
    assert evaluations_since_best([3, 2, 2, 4], False) == 2
    assert evaluations_since_best([3, 2, 2, 4], True) == 0
    assert evaluations_since_best([1], True) == 0


def test_a_run_stops_when_nothing_is_gained_and_goes_on_when_asked(
    saved: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate that is far too high: the start stays the best."""
    out = tmp_path / "run"
    patient = replace(TRAINING, patience=2)
    train_dpo(saved, pairs, out, training=patient)
    told = capsys.readouterr().out
    losses = {step: row["loss"] for step, row in evaluated(out).items()}
    best = min(losses, key=lambda step: losses[step])
    stopped = max(losses)
    assert stopped == best + 2 < 8
    assert f"Stopped at step {stopped} of 8: loss on the held-out rows" in told
    assert read_json(out / "run.json")["results"]["steps"] == stopped
    train_dpo(saved, pairs, out, training=replace(patient, resume=True))
    assert max(evaluated(out)) == stopped
    assert f"Going on from the checkpoint of step {stopped} of 8" in capsys.readouterr().out
    train_dpo(saved, pairs, out, training=replace(patient, extend=True, patience=99))
    assert max(evaluated(out)) == 8


def test_another_figure_chooses_the_checkpoint(saved: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = replace(TRAINING, learning_rate=3e-2, select_by="rewards_margin")
    train_dpo(saved, pairs, out, training=training)
    found = evaluated(out)
    margins = {step: row["rewards_margin"] for step, row in found.items() if step}
    results = read_json(out / "run.json")["results"]
    assert results["selected_by"] == "rewards_margin"
    assert results["best_step"] == max(margins, key=lambda step: margins[step])
    assert results["best_value"] == pytest.approx(max(margins.values()))
    assert results["best_held_out_loss"] == pytest.approx(found[results["best_step"]]["loss"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_the_first_step_rewards_are_equal_whatever_rounding_says(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """The reference's log-probs are off by what a batch of another shape may cost."""

    def noisy(*given: Any) -> Any:
        known = precompute(*given)
        steps = torch.linspace(-1, 1, known.logps.numel(), dtype=torch.float64)
        scale = 1e-4 if dtype == "float32" else 1e-1
        return replace(known, logps=known.logps + scale * steps.view_as(known.logps) ** 3)

    monkeypatch.setattr("veridical.train.loop.reference.precompute", noisy)
    training = replace(
        TRAINING, learning_rate=3e-2, select_by="rewards_accuracy", patience=3, dtype=dtype,
        prove_first=False, max_steps=4, evaluations=4,
    )  # fmt: skip
    train_dpo(saved, pairs, tmp_path / "run", training=training)
    log = list(read_jsonl(tmp_path / "run" / "log.jsonl"))
    [start] = [row for row in log if row["split"] == "eval" and row["step"] == 0]
    [first] = [row for row in log if row["split"] == "train" and row["step"] == 1]
    for row in (start, first):
        assert row["rewards_accuracy"] == 0.5
        rewards = [row[f"rewards_{name}"] for name in ("chosen", "rejected", "margin")]
        assert rewards == [0.0, 0.0, 0.0]
    assert start["loss"] != pytest.approx(math.log(2), abs=1e-12)  # the noise is there
    assert any(row["rewards_accuracy"] != 0.5 for row in log if row["step"] > 1)


def test_a_margin_of_rounding_is_a_tie_at_every_step() -> None:
    logps = torch.tensor([[-100.0, -100.0], [-100.0, -100.0], [-100.0, -100.0]]).double()
    policy = logps + torch.tensor([[5e-5, 0.0], [0.0, 5e-5], [5e-3, 0.0]])
    found = preference_outcome(Preference())(ResponseLogps(policy, torch.full((3, 2), 9)), logps)
    assert found.measures["rewards_accuracy"].tolist() == [0.5, 0.5, 1.0]


def test_what_can_not_decide_is_refused(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--select-by chair is none of loss, rewards_accuracy"):
        check_selection("chair", None, 0.1)
    with pytest.raises(UserError, match="--patience goes by held-out rows"):
        check_selection("loss", 2, 0.0)
    with pytest.raises(UserError, match="--patience is 0"):
        check_selection("loss", 0, 0.1)
    with pytest.raises(UserError, match=r"chair/empty.*Set --select-by chair/chair_i"):
        check_selection("chair_i", None, 0.1)
    monkeypatch.setattr(sft, "load_start", None)  # before the model is loaded
    with pytest.raises(UserError, match="--select-by rewards_margin is none of loss, chair/"):
        train_sft(saved, pairs, tmp_path / "o", "preference",
                  training=replace(TRAINING, select_by="rewards_margin"))  # fmt: skip
