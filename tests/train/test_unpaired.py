"""`train dpo --loss kto`: from single answers, each a good or a bad one, and from pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.batching import collate
from veridical.models.policy import Policy
from veridical.models.rendering import render_group
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.base import PairLogps
from veridical.objectives.dpo import DPO
from veridical.objectives.kto import KTO, estimated_kl, mismatched_ratios
from veridical.objectives.likelihood import Likelihood
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.mismatched import before_with_another, tell_balance, with_answers_of
from veridical.train.loop.step_divergence import StepDivergence
from veridical.train.options import Training

WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
LOSS = AveragedPreference(KTO(desirable_weight=2.0))
TRAINING = Training(
    tuning="full", learning_rate=3e-3, max_steps=2, batch_size=4, accumulation=1, held_out=0.25,
    evaluations=1, trainer={"logging_steps": 1},
)  # fmt: skip


def write(path: Path, pictures: list[Image.Image], count: int = 8) -> Path:
    """Answers about the pictures, every other one a bad one."""
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message(f"What do you see, {i}?")],
            "completion": [assistant_message(f"There is a {WORDS[i % 6]}.")],
            "label": i % 2 == 0,
        }
        for i in range(count)
    ]
    write_records(rows, path, "unpaired")
    return path


def test_single_answers_are_learned_and_unlearned(
    saved: str, tmp_path: Path, pictures: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference's log-probs are stored for answers to other prompts too; the start is known."""
    data, out = write(tmp_path / "rows.parquet", pictures), tmp_path / "run"
    train_dpo(saved, data, out, LOSS, kind="unpaired", training=TRAINING)
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    assert start["passed"] and start["applicable"] and "value 0.500000" in start["detail"]
    train, held_out = (
        [row for row in read_jsonl(out / "log.jsonl") if row["split"] == split]
        for split in ("train", "eval")
    )
    assert train[0]["rewards_accuracy"] == 0.5 and train[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert train[-1]["rewards_margin"] != 0 and held_out[0]["loss"] > 0
    assert len(read_json(out / "reference_logps.json")["logps"][0]) == 2
    printed, results = capsys.readouterr().out, read_json(out / "run.json")["results"]
    assert "good answers and" in printed and "check the column" not in printed
    assert (results["rows"], results["held_out_rows"]) == (6, 2)
    told = (out / "model" / "README.md").read_text()
    assert "6 rows, 2 held-out rows of" in told and "the good answers of these rows" in told


def test_pairs_are_a_good_and_a_bad_answer_each(saved: str, pairs: Path, tmp_path: Path) -> None:
    out, training = tmp_path / "run", replace(TRAINING, max_steps=1)
    train_dpo(saved, pairs, out, AveragedPreference(KTO()), training=training)
    (row,) = [one for one in read_jsonl(out / "log.jsonl") if one["split"] == "train"]
    assert row["loss"] == pytest.approx(0.5, abs=1e-5) and row["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("label", "missing"), [(True, "avoid"), (False, "prefer")])
def test_answers_of_one_kind_are_told(
    label: bool, missing: str, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, said = [user_message("What?", images=0)], [[assistant_message("A cup.")]]
    group = replace(render_group(policy, "0", [], asked, said), label=label)
    tell_balance([group, group], KTO())
    assert f"nothing says what to {missing}: check the column" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": AveragedPreference(DPO())}, "only --loss kto learns from these"),
        ({"objective": AveragedPreference(KTO(), (Likelihood(1.0),))}, "without --terms and"),
        (
            {"objective": AveragedPreference(KTO(), first_rejected_weight=1.0)},
            "--first-rejected-weight is for pairs with several",
        ),
        ({"training": replace(TRAINING, batch_size=1)}, "--batch-size 1 that is one row"),
    ],
)
def test_what_single_answers_cannot_do(given: dict[str, Any], message: str) -> None:
    """Known from the options: no file is read."""
    options: dict[str, Any] = {"objective": LOSS, "training": TRAINING, **given}
    with pytest.raises(UserError, match=message):
        train_dpo("nothing", Path("nothing"), Path("nothing"), kind="unpaired", **options)


def test_batches_of_a_step_are_estimated_as_one(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Also where the last step is smaller, and where rows are held out."""
    data = write(tmp_path / "rows.parquet", pictures, 9)
    for out, size in (("whole", 4), ("halves", 2)):
        training = replace(
            TRAINING, batch_size=size, accumulation=4 // size, max_steps=3, held_out=0.35,
            evaluations=2,
        )  # fmt: skip
        train_dpo(saved, data, tmp_path / out, LOSS, kind="unpaired", training=training)
    whole, halves = (read_jsonl(tmp_path / out / "log.jsonl") for out in ("whole", "halves"))
    assert len(whole) == len(halves) and whole[-1]["kl"] != 0
    for one, other in zip(whole, halves, strict=True):
        for name in ("loss", "kl", "rewards_margin"):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), (one, name)


def test_held_out_rows_are_estimated_all_together(
    saved: str, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches of two; estimates of each, none below 0, would have a larger mean."""
    seen: list[float] = []
    look_ahead = StepDivergence.look_ahead

    def look(step: StepDivergence, batches: Iterable[tuple[PairLogps, bool]]) -> None:
        every = list(batches)
        look_ahead(step, every)
        assert step.value is not None and len(every) == 4
        ratios = [mismatched_ratios(logps) for logps, _ in every]
        assert float(step.value.of_sums) == pytest.approx(max(0.0, float(torch.cat(ratios).mean())))
        seen.append(float(step.value.of_sums))

    monkeypatch.setattr(StepDivergence, "look_ahead", look)
    data = write(tmp_path / "rows.parquet", pictures, 16)
    training = replace(TRAINING, batch_size=2, held_out=0.5, evaluations=2)
    train_dpo(saved, data, tmp_path / "run", LOSS, kind="unpaired", training=training)
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    found = [row["kl"] for row in log if row["split"] == "eval"]
    assert found == pytest.approx(seen[: len(found)]) and any(found)


def test_a_divergence_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios 1 and 3 here, 5 elsewhere: mean 3; per token (2 and 4 of them) 0.5, 0.75 and 0.25."""
    none = torch.zeros(2, 1)
    other = PairLogps(torch.tensor([[1.0], [3.0]]), none, torch.tensor([[2], [4]]))
    logps = PairLogps(none, none, torch.ones(2, 1), contrast=other)
    elsewhere = torch.tensor([5.0, 0.25, 1.0])
    monkeypatch.setattr(processes, "total", lambda own: own + elsewhere)
    step = StepDivergence()
    for counts, expected in ((True, [3.0, 0.5]), (False, [5.0, 0.25])):
        step.see(logps, counts)
        assert step.value is not None and [float(one) for one in step.value] == expected
    known = replace(logps, divergence=step.value)
    assert float(estimated_kl(known)) == 5.0 and float(estimated_kl(known.per_token())) == 0.25
    step.look_ahead([(logps, True), (logps, True)])
    step.see(logps, False)
    assert step.value is not None and float(step.value.of_sums) == pytest.approx(13 / 5)
    step.forget()
    assert step.value is None


def test_one_prompt_alone_has_no_answers_to_others(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    write_records(
        [
            {
                "images": [pictures[0]], "prompt": [user_message("What?")],
                "completion": [assistant_message(word)], "label": True,
            }
            for word in WORDS[:2]
        ],
        tmp_path / "rows.parquet",
        "unpaired",
    )  # fmt: skip
    with pytest.raises(UserError, match="All 2 rows ask the same about the same pictures"):
        train_dpo(
            saved, tmp_path / "rows.parquet", tmp_path / "run", LOSS, kind="unpaired",
            training=replace(TRAINING, held_out=0.0),
        )  # fmt: skip


def test_the_last_before_with_another_prompt() -> None:
    """Around the end; rows of the same prompt side by side have one before all of them."""
    assert before_with_another("abc") == [2, 0, 1]
    assert before_with_another("aabba") == [3, 3, 1, 1, 3]
    assert before_with_another("aaa") is None and before_with_another("a") is None


@pytest.mark.parametrize("share_prefix", [True, False])
def test_an_answer_to_another_prompt_is_read_behind_this_one(
    policy: Policy, pictures: list[Image.Image], share_prefix: bool
) -> None:
    """In either layout: the same tokens as if the row had been rendered so; cut where too long."""
    asked = [[user_message(text)] for text in ("What is that?", "Describe the image.")]
    said = [[assistant_message(f"There is a {word}.")] for word in WORDS[:2]]
    own, other = (
        render_group(policy, str(i), [pictures[i]], asked[i], [said[i]]) for i in range(2)
    )
    found = with_answers_of(replace(own, prompt_tokens=(9,)), other)
    expected = render_group(policy, "0", [pictures[0]], asked[0], said)
    batches = [collate(policy, [group], share_prefix) for group in (found, expected)]
    for name in ("input_ids", "position_ids"):
        assert torch.equal(batches[0].inputs[name], batches[1].inputs[name])
    assert torch.equal(batches[0].targets, batches[1].targets)
    assert found.prompt_tokens == (9, 9) and found.contrasts == 1
    short = with_answers_of(replace(own, prompt_tokens=(9,)), other, 12)
    assert len(short.response_ids[1]) == 3 and short.cut == (False, True)
    cut = collate(policy, [short], share_prefix)
    assert cut.token_counts.tolist() == [[len(own.response_ids[0]), 3]]
