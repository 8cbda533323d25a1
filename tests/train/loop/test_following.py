"""A reference that follows the policy: hard and soft updates, kept with each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from veridical.models.batching import collate
from veridical.models.policy import Policy, frozen_copy
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.dpo import DPO
from veridical.objectives.simpo import SimPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.following import Following
from veridical.train.loop.saving_trainer import REFERENCE, load_reference, save_reference
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.trained import trained_parameters
from veridical.train.options import Training

TRAINING = Training(
    tuning="full", learning_rate=3e-3, max_steps=3, batch_size=2, accumulation=1, held_out=0.0,
    evaluations=3, prove_first=False,
    trainer={"logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0},
)  # fmt: skip


def train_a_step(scorer: Scorer, by: float) -> None:
    """Move all that is trained."""
    with torch.no_grad():
        for weight in trained_parameters(scorer.policy_model).values():
            weight.add_(by)


def test_soft_updates_mix_the_weights(policy: Policy, groups: list[Group], tmp_path: Path) -> None:
    """Two updates by a slow sum in float64: 0.75 old + 0.25 new, and again from there."""
    policy.model.double()
    frozen = frozen_copy(policy)
    scorer = Scorer(prepare_training(policy, Tuning("full", 4, 8)), frozen).train()
    batch = collate(policy, groups[:2], True)
    name, weight = next(iter(trained_parameters(scorer.policy_model).items()))
    slow, start = weight.detach().flatten()[:3].tolist(), scorer(batch, reference=True).sums
    assert torch.equal(start, scorer(batch).sums)
    for _ in range(2):
        train_a_step(scorer, 0.01)
        scorer.move_reference(0.25)
        new = weight.detach().flatten()[:3].tolist()
        slow = [0.75 * old + 0.25 * one for old, one in zip(slow, new, strict=True)]
    kept = frozen.core.get_parameter(name).flatten()[:3]
    assert kept.tolist() == pytest.approx(slow, rel=1e-14)
    moved = scorer(batch, reference=True).sums
    assert not torch.allclose(moved, start) and not torch.allclose(moved, scorer(batch).sums)
    save_reference(scorer, tmp_path)
    with torch.no_grad():
        frozen.core.get_parameter(name).zero_()
    load_reference(scorer, tmp_path)
    assert torch.equal(scorer(batch, reference=True).sums, moved)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_hard_update_puts_the_policy_in_its_place(
    policy: Policy, groups: list[Group], tmp_path: Path, kind: str
) -> None:
    """Once updated, it is the policy of that time, whatever is trained after."""
    policy.model.double()
    frozen = frozen_copy(policy) if kind == "full" else None
    tuning = Tuning("full" if kind == "full" else "lora", 4, 8, dora=kind == "lora")
    scorer = Scorer(prepare_training(policy, tuning), frozen).train()
    batch = collate(policy, groups[:2], True)
    start = scorer(batch, reference=True).sums
    train_a_step(scorer, 0.01)
    assert torch.equal(scorer(batch, reference=True).sums, start)
    save_reference(scorer, tmp_path)
    assert not (tmp_path / REFERENCE).exists()  # it is the start
    then = scorer(batch).sums.detach()
    scorer.move_reference(1.0)
    save_reference(scorer, tmp_path)
    train_a_step(scorer, 0.01)
    assert torch.allclose(scorer(batch, reference=True).sums, then, rtol=1e-12, atol=0)
    later = scorer(batch).sums
    assert not torch.allclose(later, then) and later.requires_grad
    scorer.move_reference(1.0)
    load_reference(scorer, tmp_path)
    assert torch.allclose(scorer(batch, reference=True).sums, then, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_resumed_run_goes_on_with_its_reference(
    saved: str, write: Callable[[Path, int], Path], tmp_path: Path, tuning: Any
) -> None:
    """Stopped after an update at step 2 of 3, it is the run that was not stopped."""
    pairs, objective = write(tmp_path / "pairs.parquet", 4), AveragedPreference(DPO())
    mixes = Following(1, 0.5) if tuning == "full" else Following(2)
    whole = replace(TRAINING, tuning=tuning)
    proved = replace(whole, max_steps=2, prove_first=True)
    out, folders = tmp_path / "parts", (tmp_path / "whole", tmp_path / "parts")
    given: dict[str, Any] = {"reference": "in_step", "following": mixes}
    train_dpo(saved, pairs, tmp_path / "whole", objective, training=whole, **given)
    train_dpo(saved, pairs, out, objective, training=proved, **given)
    train_dpo(saved, pairs, out, objective, training=replace(whole, extend=True), **given)
    found = [[row["rewards_margin"] for row in read_jsonl(f / "log.jsonl")] for f in folders]
    assert found[0] == found[1] and found[0][1] != 0
    kept = [load_file(f / "checkpoints" / "checkpoint-3" / REFERENCE) for f in folders]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    told = "after every 2 steps the reference becomes the policy"
    if tuning == "full":
        told = "after every 1 step the reference takes 0.5 of the policy's weights"
    assert start["passed"] and told in start["detail"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"following": Following(0)}, "--reference-every is 0; give 1 or more"),
        ({"following": Following(1, 1.5)}, "--reference-mix is 1.5; give above 0 to 1"),
        ({"following": Following(None, 0.5)}, "Set --reference-every, or leave --reference-mix"),
        ({"objective": AveragedPreference(SimPO())}, "means nothing with --loss simpo"),
        ({"reference": "precomputed"}, "Set --reference in_step too"),
        ({"reference_model": "other"}, "Leave --reference-model out"),
        (
            {"following": Following(1, 0.5), "training": replace(TRAINING, tuning="lora")},
            "--reference-mix below 1 needs --tuning full",
        ),
    ],
)
def test_what_a_following_reference_cannot_do(given: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {
        "objective": AveragedPreference(), "reference": "in_step", "following": Following(1),
        "training": TRAINING, **given,
    }  # fmt: skip
    with pytest.raises(UserError, match=message):
        train_dpo("nothing", Path("nothing"), Path("nothing"), **options)


def test_a_reference_that_never_moves_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """After the last step there is no step left for which it would be another."""
    Following(3).tell_idle(4)
    Following().tell_idle(1)
    assert capsys.readouterr().out == ""
    Following(4).tell_idle(4)
    assert "--reference-every 4 has no effect in a run of 4 steps" in capsys.readouterr().out


def test_a_choice_by_losses_of_different_references_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held_out = replace(TRAINING, held_out=0.25)
    for training in (TRAINING, replace(held_out, select_by="chair/chair_i")):
        Following(2).tell_selection(training)
    Following().tell_selection(held_out)
    assert capsys.readouterr().out == ""
    Following(2).tell_selection(held_out)
    assert "or --held-out 0 for the last step's weights" in capsys.readouterr().out
