"""DPO runs from file to folder: what is saved, resumed, refused and proved."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText
from tuning import FULL, tuned

from veridical.checks import before_training
from veridical.cli.signatures import as_arguments
from veridical.data.records import assistant_message, user_message, write_records
from veridical.models import batching
from veridical.models.load import load_policy
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop import collator, preferences
from veridical.train.loop.checkpoints import newest_verified
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.training_set import same_pictures, split_held_out
from veridical.train.options import Training
from veridical.train.responses import refuse_here
from veridical.train.sft import train_sft


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    words = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {words[i % 6]}.")],
            "rejected": [assistant_message(f"There is a {words[(i + 1) % 6]} on the left.")],
        }
        for i in range(18)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


COMMON: dict[str, Any] = {
    "learning_rate": 3e-3,
    "max_steps": 6,
    "batch_size": 4,
    "accumulation": 1,
    "held_out": 0.2,
    "evaluations": 3,
    "lora_rank": 4,
    "lora_alpha": 8,
}


def test_batches_that_are_laid_out_ahead_change_nothing(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside what a GPU computes; an epoch of 14 rows ends within a step."""
    training = Training(**COMMON | {"batch_size": 2, "accumulation": 2, "evaluations": 2})
    logs = []
    users: dict[int, set[bool]] = {}
    kept: list[object] = []  # or a later processor could get an earlier one's id

    def watched(policy: Policy, *given: Any) -> Any:
        in_main = threading.current_thread() is threading.main_thread()
        kept.append(policy.processor)
        users.setdefault(id(policy.processor), set()).add(in_main)
        return batching.draft(policy, *given)

    monkeypatch.setattr(collator, "draft", watched)
    for ahead in (0, 2):
        monkeypatch.setattr(GroupTrainer, "_made_ahead", lambda *_, ahead=ahead: ahead)
        train_dpo(saved, pairs, tmp_path / str(ahead), training=training)
        logs.append(read_jsonl(tmp_path / str(ahead) / "log.jsonl"))
    assert logs[0] == logs[1]
    assert len(logs[0]) > 4
    # A processor can't be used by two threads: one pads for the other.
    assert sorted(map(len, users.values())) == [1] * len(users)
    assert list(users.values()).count({False}) == 2


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("reference", ["precomputed", "in_step"])
def test_a_run_learns_and_its_result_loads(
    saved: str, pairs: Path, tmp_path: Path, tuning: Any, reference: Any
) -> None:
    out = tmp_path / "run"
    training = Training(**{**COMMON, **tuned(tuning)})
    train_dpo(saved, pairs, out, reference=reference, training=training)
    log = read_jsonl(out / "log.jsonl")
    first = next(row for row in log if row["split"] == "train")
    assert abs(first["loss"] - 0.693147) < 1e-4
    evaluations = [row for row in log if row["split"] == "eval"]
    assert evaluations[0]["step"] == 0
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[-1]["rewards_accuracy"] > 0.9
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    record = read_json(out / "run.json")
    assert record["status"] == "finished"
    assert record["configuration"]["beta"] == 0.1
    assert record["results"]["prefix_sharing"]["allowed"]
    merged = AutoModelForImageTextToText.from_pretrained(out / "model")
    assert "Proofs" in (out / "model" / "README.md").read_text()
    if tuning == "lora":
        base = AutoModelForImageTextToText.from_pretrained(saved)
        adapted = PeftModel.from_pretrained(base, str(out / "adapter")).merge_and_unload()
        for name, weight in merged.state_dict().items():
            assert torch.allclose(weight, adapted.state_dict()[name], atol=1e-5), name
    start = AutoModelForImageTextToText.from_pretrained(saved).state_dict()
    moved = {n for n, w in merged.state_dict().items() if not torch.equal(w, start[n])}
    assert moved
    assert not any("vision_tower" in n or "projector" in n for n in moved)


def test_reference_in_the_step_and_before_training_give_the_same(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    logs = []
    for reference in ("precomputed", "in_step"):
        out = tmp_path / reference
        training = Training(**{**COMMON, **FULL})
        train_dpo(saved, pairs, out, reference=reference, training=training)
        logs.append([row["loss"] for row in read_jsonl(out / "log.jsonl")])
    assert torch.allclose(torch.tensor(logs[0]), torch.tensor(logs[1]), atol=1e-4)


def test_sharing_two_rows_and_accumulation_give_the_same(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    weights = []
    options = {
        "shared": {"batch_size": 4, "accumulation": 1},
        "rows": {"batch_size": 4, "accumulation": 1, "share_prefix": False},
        "accumulated": {"batch_size": 2, "accumulation": 2},
    }
    for name, own in options.items():
        out = tmp_path / name
        settings = {**COMMON, **own, "held_out": 0.0, "max_steps": 4}
        training = Training(**{**settings, **FULL, "dtype": "float64"})
        train_dpo(saved, pairs, out, training=training)
        model = AutoModelForImageTextToText.from_pretrained(out / "model", dtype=torch.float64)
        weights.append(model.state_dict())
    for other in weights[1:]:
        for name, weight in weights[0].items():
            # Llama's norm rounds to float32 inside, so equality ends there.
            assert torch.allclose(weight, other[name], atol=1e-5), name


def test_rows_of_like_length_within_a_step_give_the_same(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    weights, logs = [], []
    settings = {**COMMON, "batch_size": 2, "accumulation": 3, "max_steps": 4, "evaluations": 2}
    for grouping in ("no", "step", "epoch"):
        out = tmp_path / grouping
        training = Training(**{**settings, **FULL, "group_by_length": grouping})
        train_dpo(saved, pairs, out, training=training)
        weights.append(load_policy(str(out / "model")).model.state_dict())
        logs.append(read_jsonl(out / "log.jsonl"))
    assert len(logs[0]) == len(logs[1]) == len(logs[2])
    for usual, row in zip(logs[0], logs[1], strict=True):
        assert usual["loss"] == pytest.approx(row["loss"], abs=1e-5)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name
    # Other rows come together in a step, as by another seed.
    assert any(not torch.equal(weight, weights[2][name]) for name, weight in weights[0].items())


def test_rows_are_grouped_only_where_that_does_something() -> None:
    with pytest.raises(UserError, match="Set --group-by-length epoch"):
        Training(**COMMON, group_by_length="step").check()
    with pytest.raises(UserError, match="no length before they are sampled"):
        refuse_here(Training(**COMMON, group_by_length="epoch"))


@pytest.mark.parametrize("grouping", ["no", "epoch"])
def test_a_killed_run_resumes_to_the_same_weights(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouping: Any
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    training = Training(**{**COMMON, **FULL, "group_by_length": grouping})
    train_dpo(saved, pairs, whole, training=training)
    honest = preference_outcome

    def dying(*given: Any) -> Any:
        compute, calls = honest(*given), 0

        def counted(policy: Any, reference: Any) -> Any:
            nonlocal calls
            calls += policy.sums.requires_grad
            if calls == 8:  # two trial batches, then the sixth step
                raise KeyboardInterrupt
            return compute(policy, reference)

        return counted

    monkeypatch.setattr(preferences, "preference_outcome", dying)
    with pytest.raises(KeyboardInterrupt):
        train_dpo(saved, pairs, broken, training=training)
    monkeypatch.setattr(preferences, "preference_outcome", honest)
    assert read_json(broken / "run.json")["status"] == "interrupted"
    with pytest.raises(UserError, match="--resume true"):
        train_dpo(saved, pairs, broken, training=training)
    newest = max((broken / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    checkpoint, problems = newest_verified(broken / "checkpoints")
    assert checkpoint is not None
    assert "optimizer.pt" in problems[0]
    train_dpo(saved, pairs, broken, training=replace(training, resume=True))
    one, other = (
        AutoModelForImageTextToText.from_pretrained(folder / "model").state_dict()
        for folder in (whole, broken)
    )
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
    steps = [row["step"] for row in read_jsonl(broken / "log.jsonl") if row["split"] == "train"]
    assert steps == sorted(set(steps))


def test_a_finished_run_resumes_to_what_it_was(saved: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**COMMON, "held_out": 0.0}
    training = Training(**{**settings, **FULL})
    train_dpo(saved, pairs, out, training=training)
    before = load_policy(str(out / "model")).model.state_dict()
    train_dpo(saved, pairs, out, training=replace(training, resume=True))
    after = load_policy(str(out / "model")).model.state_dict()
    assert read_json(out / "run.json")["results"]["steps"] == 6
    assert max(row["step"] for row in read_jsonl(out / "log.jsonl")) == 6
    for name, weight in before.items():
        assert torch.equal(weight, after[name]), name


def test_the_best_checkpoint_is_what_is_saved(saved: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**COMMON, "max_steps": 9, "learning_rate": 3e-2}
    training = Training(**{**settings, **FULL})
    train_dpo(saved, pairs, out, training=training)
    log = [r for r in read_jsonl(out / "log.jsonl") if r["split"] == "eval" and r["step"] > 0]
    best = min(log, key=lambda row: row["loss"])
    results = read_json(out / "run.json")["results"]
    assert results["best_step"] == best["step"]
    policy = load_policy(str(out / "model"))
    rows = read_training_rows(policy, pairs, "preference", ("chosen", "rejected"), training).groups
    prompts = same_pictures(rows)
    _, held_out = split_held_out(rows, 0.2, 0, by=prompts.__getitem__)
    logps = compute_logps(policy, held_out, True, 4)
    assert abs(float(logps[:, 0].mean()) - best["logps_chosen"]) < 1e-3


def test_a_projector_can_be_trained_at_its_own_rate(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training = Training(train_projector=True, projector_learning_rate=1e-3, **COMMON)
    train_dpo(saved, pairs, out, training=training)
    start = AutoModelForImageTextToText.from_pretrained(saved).state_dict()
    merged = AutoModelForImageTextToText.from_pretrained(out / "model").state_dict()
    moved = {n for n, w in merged.items() if not torch.equal(w, start[n])}
    assert any("projector" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)
    frozen = replace(training, train_projector=False)
    with pytest.raises(UserError, match="--train-projector"):
        train_dpo(saved, pairs, tmp_path / "other", training=frozen)


def test_a_start_from_an_adapter_is_its_own_reference(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    training = Training(**COMMON)
    train_dpo(saved, pairs, tmp_path / "one", training=training)
    adapter = tmp_path / "one" / "adapter"
    from_adapter = replace(training, init_adapter=adapter)
    train_dpo(saved, pairs, tmp_path / "two", training=from_adapter)
    proofs = {proof["name"]: proof for proof in read_json(tmp_path / "two" / "proofs.json")}
    assert proofs["start"]["passed"]
    assert not (tmp_path / "two" / "adapter").exists()
    assert load_policy(str(adapter)).name == saved
    # The same start, named as the model: what is trained there does not fit the base alone either.
    with pytest.raises(UserError, match=r"model/ is the only result"):
        train_dpo(
            str(adapter), pairs, tmp_path / "no", training=replace(training, save_merged=False)
        )
    train_dpo(str(adapter), pairs, tmp_path / "three", training=training)
    assert not (tmp_path / "three" / "adapter").exists()
    two, three = (load_policy(str(tmp_path / run / "model")).model for run in ("two", "three"))
    for name, weight in two.state_dict().items():
        assert torch.allclose(weight, three.state_dict()[name], atol=1e-6), name


def test_a_broken_path_stops_the_run(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = batching.collate

    def without_pixels(policy: Policy, groups: list[Group], share: bool) -> Any:
        batch = honest(policy, groups, share)
        batch.inputs["pixel_values"] = torch.zeros_like(batch.inputs["pixel_values"])
        return batch

    monkeypatch.setattr(before_training, "collate", without_pixels)
    with pytest.raises(UserError, match="image_matters"):
        train_dpo(saved, pairs, tmp_path / "run", training=Training(**COMMON))
    proofs = {proof["name"]: proof for proof in read_json(tmp_path / "run" / "proofs.json")}
    assert not proofs["image_matters"]["passed"]
    assert proofs["placeholders"]["passed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "--beta"),
        ({"label_smoothing": 0.6}, "--label-smoothing"),
        ({"nll_weight": -1.0}, "--nll-weight"),
        ({"trainer": {"learning_rate": 1.0}}, "--learning-rate"),
        ({"trainer": {"warmup_stepz": 1}}, "warmup_steps"),
        ({"held_out": 1.0}, "--held-out"),
        ({"max_length": 20}, "20 tokens"),
        ({"batch_size": 0}, "--batch-size"),
        ({"device": "cuda:7"}, "cuda"),
    ],
)
def test_options_that_make_no_sense(
    saved: str, pairs: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        given = as_arguments(train_dpo, {**COMMON, **options})
        train_dpo(saved, pairs, tmp_path / "run", **given)


def test_sft_learns_the_chosen_answers(saved: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = Training(**{**COMMON, **FULL, "max_steps": 12})
    train_sft(saved, pairs, out, kind="preference", training=training)
    losses = [row["loss"] for row in read_jsonl(out / "log.jsonl") if row["split"] == "eval"]
    assert losses[-1] < losses[0] / 2
    assert {p["name"] for p in read_json(out / "proofs.json")} == {
        "placeholders", "image_matters", "batch_invariance", "path_parity",
    }  # fmt: skip
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
