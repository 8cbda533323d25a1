"""CHAIR and POPE at every evaluation: the figures of `eval`, the checkpoint that they choose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import eval_chair, eval_pope
from PIL import Image
from safetensors.torch import load_file

from veridical import sampling
from veridical.data.records import assistant_message, user_message, write_records
from veridical.judges.named import Judging
from veridical.models.load import load_policy
from veridical.report.figures import training_plots
from veridical.runtime import processes
from veridical.runtime.descriptions import read_description
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.sampling import Request
from veridical.scoring.statistics import Estimate
from veridical.train import fresh
from veridical.train.dpo import train_dpo
from veridical.train.loop import fine_tuning
from veridical.train.loop.checking import open_check
from veridical.train.loop.run import tell_best
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

TRAINING = Training(
    learning_rate=3e-3, max_steps=8, batch_size=4, accumulation=1, held_out=0.0, evaluations=4,
    tuning="full", trainer={"lr_scheduler_type": "constant"},
)  # fmt: skip


@pytest.fixture
def known(tmp_path: Path, pictures: list[Image.Image]) -> Training:
    """Options that check by six images, half of which have a cup, and one more without a list."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, picture in enumerate([*pictures, pictures[0]]):
        picture.save(folder / f"p{number}.png")
    lists = {f"p{n}": ["cup", "dog"] if n % 2 else ["cat", "bus"] for n in range(6)}
    objects = tmp_path / "objects.json"
    write_json(objects, lists)
    return replace(TRAINING, check_images=folder, check_objects=objects, check_tokens=8)


def evaluated(out: Path) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in read_jsonl(out / "log.jsonl") if r["split"] == "eval"}


def values(scores: dict[str, Estimate]) -> dict[str, float | None]:
    return {name: score.value for name, score in scores.items()}


def test_figures_are_those_of_eval_and_choose_the_checkpoint(
    saved: str, pairs: Path, tmp_path: Path, known: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    """SFT learns to name objects: the descriptions' CHAIR moves from step to step."""
    out = tmp_path / "out"
    training = replace(known, select_by="chair/recall", check_by=["chair", "pope"])
    train_sft(saved, pairs, out, "preference", training=training)
    told = capsys.readouterr().out
    assert "6 descriptions (CHAIR) and " in told
    assert "Not used, without an object list: 1 image, as" in told
    rows, results = evaluated(out), read_json(out / "run.json")["results"]
    assert sorted(rows) == [0, 2, 4, 6, 8]
    assert all(row["loss"] is None for row in rows.values())
    found = {step: row["chair/recall"] for step, row in rows.items() if step}
    assert len(set(found.values())) > 1
    assert results["best_step"] == max(found, key=lambda step: found[step])
    assert results["best_value"] == max(found.values())
    assert results["value_at_start"] == rows[0]["chair/recall"]
    assert results["selected_by"] == "chair/recall"
    log, checked = read_jsonl(out / "log.jsonl"), read_json(out / "checked.json")["benchmarks"]
    described = [read_description(entry) for entry in checked]
    plots = {plot.title: plot.words for plot in training_plots(log, described)}
    for title, label, name in (
        ("CHAIR on the checked images", "recall", "chair/recall"),
        ("POPE on the checked images", "accuracy", "pope/accuracy"),
    ):
        assert f"{label} from {rows[0][name]:.3g} to {rows[8][name]:.3g}" in plots[title]
    images, objects = known.check_images, known.check_objects
    assert images is not None and objects is not None
    model, best = str(out / "model"), rows[results["best_step"]]
    (images / "p6.png").unlink()
    given: dict[str, Any] = {"model": model, "images": images}
    chair = values(eval_chair(objects, tmp_path / "chair", max_new_tokens=8, **given))
    for name in ("chair_i", "chair_s", "recall", "mean_length", "empty"):
        assert best[f"chair/{name}"] == pytest.approx(chair[name]), name
    pope = values(eval_pope(tmp_path / "pope", objects=objects, per_image=1, **given))
    for name in ("accuracy", "recall", "yes_rate", "unparsed"):
        assert best[f"pope/{name}"] == pytest.approx(pope[name]), name
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert f"(chair/recall {results['best_value']:.4f}" in card


def test_a_run_that_is_resumed_chooses_the_same(
    saved: str, pairs: Path, tmp_path: Path, known: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    training = replace(known, select_by="chair/chair_s", learning_rate=1e-2, held_out=0.2)
    train_sft(saved, pairs, whole, "preference", training=training)
    honest, calls = fine_tuning.objective, 0

    def dying(*given: Any) -> Any:
        nonlocal calls
        calls += given[0].sums.requires_grad
        if calls == 7:
            raise KeyboardInterrupt
        return honest(*given)

    monkeypatch.setattr(fine_tuning, "objective", dying)
    with pytest.raises(KeyboardInterrupt):
        train_sft(saved, pairs, broken, "preference", training=training)
    monkeypatch.setattr(fine_tuning, "objective", honest)
    train_sft(saved, pairs, broken, "preference", training=replace(training, resume=True))
    one, other = (read_json(f / "run.json")["results"] for f in (whole, broken))
    assert other["resumed_from"] == "checkpoint-4"
    for name in ("best_step", "best_value", "value_at_start", "best_held_out_loss"):
        assert one[name] == other[name], name
    assert evaluated(whole) == evaluated(broken)
    weights = [load_file(f / "model" / "model.safetensors") for f in (whole, broken)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with pytest.raises(UserError, match="--check-limit 32, not 3"):
        train_sft(saved, pairs, broken, "preference",
                  training=replace(training, resume=True, check_limit=3))  # fmt: skip


def test_looking_leaves_no_trace(saved: str, pairs: Path, tmp_path: Path, known: Training) -> None:
    """With dropout in training; nothing chooses, so the last weights are the result."""
    lora: dict[str, Any] = {
        "tuning": "lora",
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.2,
        "max_steps": 3,
    }
    for name, training in (("plain", TRAINING), ("checked", known)):
        train_dpo(saved, pairs, tmp_path / name, training=replace(training, **lora))
    one, other = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors")
                  for n in ("plain", "checked"))  # fmt: skip
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert sorted(evaluated(tmp_path / "checked")) == [0, 1, 2, 3]


def test_fresh_pairs_are_evaluated_without_held_out_rows(
    saved: str, pairs: Path, tmp_path: Path, known: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "is_cut", lambda rollout: False)
    write_json(tmp_path / "cups.json", {f"pair-{i}": ["cup"] for i in range(12)})
    judging = Judging(judge="exact", objects=tmp_path / "cups.json")
    training = replace(known, select_by="pope/accuracy", patience=1, max_steps=4, batch_size=3)
    out = tmp_path / "out"
    train_online(saved, pairs, out, judging=judging, sampling=Sampling(max_new_tokens=8),
                 training=training)  # fmt: skip
    rows, results = evaluated(out), read_json(out / "run.json")["results"]
    assert 0 in rows and results["selected_by"] == "pope/accuracy"
    assert all(
        "chair/chair_i" not in row and row["pope/accuracy"] is not None for row in rows.values()
    )
    found = {step: row["pope/accuracy"] for step, row in rows.items() if step}
    assert results["best_value"] == max(found.values())


def test_steered_models_are_asked_for_the_highest_marks(
    saved: str, pictures: list[Image.Image], tmp_path: Path, known: Training,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    names = ("Helpfulness", "Correctness", "Coherence", "Complexity", "Verbosity")
    rows = [
        {
            "id": f"s-{i}", "images": [picture], "prompt": [user_message("Describe the image.")],
            "responses": [[assistant_message("There is a red cup.")]],
            "ratings": [{"aspect": n, "answer": "responses/0", "value": 2.0} for n in names],
        }
        for i, picture in enumerate(pictures)
    ]  # fmt: skip
    write_records(rows, tmp_path / "rated.parquet", "sample")
    asked: list[str] = []
    honest = sampling.respond

    def spy(policy: Any, requests: Sequence[Request], *given: Any, **more: Any) -> Any:
        asked.extend(str(request.prompt.messages) for request in requests)
        return honest(policy, requests, *given, **more)

    monkeypatch.setattr("veridical.train.loop.checking.respond", spy)
    training = replace(known, max_steps=1)
    train_steerlm(saved, tmp_path / "rated.parquet", tmp_path / "out", training=training)
    assert len(asked) == 2 * 6
    assert all("Correctness: four" in text or "Correctness:4" in text for text in asked)


@pytest.mark.parametrize("by", [["chair"], ["pope"]])
def test_processes_share_the_work_and_get_the_same(
    saved: str, known: Training, monkeypatch: pytest.MonkeyPatch, by: list[str]
) -> None:
    check = open_check(load_policy(saved), replace(known, check_by=by))
    assert check is not None
    alone = check.measure()
    sums: list[Counter[str]] = []

    def keep(own: Any) -> list[Any]:
        if isinstance(own, Counter):
            sums.append(own)
        return [own]

    monkeypatch.setattr(processes, "world_size", lambda: 3)
    monkeypatch.setattr(processes, "gather", keep)
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        check.measure()
    monkeypatch.setattr(
        processes, "gather", lambda own: sums if own.__class__ is Counter else [own]
    )
    assert check.measure() == alone
    column, count = ("answers", 6) if by == ["chair"] else ("questions", 36)
    assert sum(own[column] for own in sums) == count and all(own[column] for own in sums)


def test_images_that_any_process_was_refused_are_all_named(
    saved: str, known: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = open_check(load_policy(saved), known)
    assert check is not None
    others = {"p1": "too narrow", "p3": "too dark"}
    monkeypatch.setattr(processes, "gather", lambda own: [own, others])
    check.refused["p4"] = "too wide"
    capsys.readouterr()
    check._tell_refused()
    told = capsys.readouterr().out
    assert "3 of the checked images are not counted" in told
    for image, why in {**others, "p4": "too wide"}.items():
        assert f"{image}: {why}" in told
    monkeypatch.setattr(processes, "is_first", lambda: False)
    check.refused["p4"] = "too wide"
    check._tell_refused()
    assert not check.refused and not capsys.readouterr().out


def test_nothing_to_count_is_null_and_never_the_best(
    saved: str, pairs: Path, tmp_path: Path, known: Training, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr("veridical.data.vocabulary.Vocabulary.mentions", nothing)
    training = replace(known, select_by="chair/chair_i", max_steps=2)
    train_dpo(saved, pairs, tmp_path / "out", training=training)
    results = read_json(tmp_path / "out" / "run.json")["results"]
    assert {row["chair/chair_i"] for row in evaluated(tmp_path / "out").values()} == {None}
    assert (results["best_step"], results["best_value"]) == (None, None)
    assert "No checkpoint has a chair/chair_i" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("selected", "start", "best", "words"),
    [
        ("chair/chair_i", 0.2, 0.2, "No checkpoint has a lower chair/chair_i than the start"),
        ("chair/chair_i", 0.2, 0.1, "step 4, the best by chair/chair_i (0.1000; 0.2000 at step 0)"),
        ("pope/accuracy", 0.8, 0.7, "No checkpoint has a higher pope/accuracy than the start"),
        ("pope/accuracy", 0.7, 0.8, "step 4, the best by pope/accuracy"),
        ("rewards_margin", 0.0, -0.1, "what the held-out rows ask for"),
        ("chair/chair_i", None, 0.2, "step 4, the best by chair/chair_i (0.2000)."),
    ],
)
def test_no_better_than_the_start_is_said_of_every_figure(
    selected: str, start: float | None, best: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_best(start, best, 4, selected)
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"check_objects": None}, "--check-objects was not given"),
        ({"check_images": None, "check_objects": None, "check_by": ["pope"]}, "--check-images was"),
        ({"check_images": None, "check_objects": None}, "--check-images was"),
        ({"check_by": ["mme"]}, "--check-by mme is unknown"),
        ({"select_by": "chair/chair_i", "check_by": ["pope"]}, "Give --check-by pope chair"),
        ({"select_by": "rewards_margin"}, "--select-by goes by held-out rows"),
        ({"check_limit": 0}, "--check-limit is 0"),
        ({"check_vocabulary": Path("nowhere.json")}, "--check-vocabulary nowhere.json"),
    ],
)
def test_what_can_not_be_checked_by_is_refused_before_a_model_is_loaded(
    pairs: Path, tmp_path: Path, known: Training, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train_dpo("/no/model", pairs, tmp_path / "out", training=replace(known, **change))


def test_files_and_commands_that_can_not_be_checked_are_refused(
    pairs: Path, tmp_path: Path, known: Training
) -> None:
    def dpo(training: Training) -> None:
        train_dpo("/no/model", pairs, tmp_path / "out", training=training)

    with pytest.raises(UserError, match="Give --check-images and --check-objects"):
        dpo(replace(TRAINING, select_by="chair/chair_i"))
    objects = tmp_path / "other.json"
    for content, words in (
        ({"elsewhere": ["cup"]}, "No image of --check-images"),
        ({"p0": ["unheard-of"]}, "--check-vocabulary"),
        ({"p0": ["cup"]}, "No question can be built"),
    ):
        write_json(objects, content)
        with pytest.raises(UserError, match=words):
            dpo(replace(known, check_objects=objects, check_by=["pope"]))
    with pytest.raises(UserError, match="a reward model says nothing"):
        train_reward("/no/model", pairs, tmp_path / "out", training=known)
    assert not (tmp_path / "out").exists()


def test_damaged_images_are_named_or_refused(
    saved: str, known: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    assert known.check_images is not None
    (known.check_images / "p3.png").write_bytes(b"no picture")
    policy = load_policy(saved)
    with pytest.raises(UserError, match=r"1 of 6 images .* p3.png"):
        open_check(policy, known)
    check = open_check(policy, replace(known, max_bad_fraction=0.5))
    assert check is not None and sorted(check.pictures.files) == ["p0", "p1", "p2", "p4", "p5"]
    assert "p3.png is not used" in capsys.readouterr().out
    assert not any(value is not None and math.isnan(value) for value in check.measure().values())
