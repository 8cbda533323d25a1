"""SteerLM: what is learned behind which marks, and steering end to end on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.messages import user_message
from veridical.data.record_types import Rating
from veridical.data.steering import ATTRIBUTES, steer_prompt
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.train.loop.pair_rows import Images
from veridical.train.loop.training_set import split_held_out
from veridical.train.steerlm import marks_of, prompt_id, steered_groups


def ratings(answer: str, marks: list[float]) -> list[Rating]:
    return [
        {"answer": answer, "aspect": aspect, "value": mark}
        for aspect, mark in zip(ATTRIBUTES, marks, strict=True)
    ]


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"row{number}",
        "images": [f"{number}.png"],
        "prompt": "Describe the image.",
        "responses": ["There is a red cup.", "This is a park. There is a blue dog."],
        "ratings": ratings("responses/0", [4, 4, 4, 1, 0])
        + ratings("responses/1", [0, 1, 4, 2, 3]),
    } | more


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    """The tiny model in a folder, in float32."""
    policy.model.float().save_pretrained(tmp_path / "model")
    policy.processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Six prompts with two rated responses each."""
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    write_jsonl(tmp_path / "samples.jsonl", [row(number) for number in range(6)])
    return tmp_path / "samples.jsonl"


def run(*words: object) -> int:
    return main([str(word) for word in words])


TRAIN = ("--tuning", "full", "--max-steps", "2", "--batch-size", "4", "--accumulation", "1",
         "--held-out", "0.34", "--learning-rate", "1e-3", "--evaluations", "1")  # fmt: skip


def test_each_response_stands_behind_its_own_marks(policy: Policy) -> None:
    record: Any = row(0, images=[], prompt=[user_message("Describe the image.", 0)])
    record["responses"] = [
        [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
        for text in record["responses"]
    ]
    one, other = steered_groups(policy, record, Images(0, None, {}), "words", None)
    assert (one.id, other.id) == ("row0/0", "row0/1")
    assert "Helpfulness: four, Correctness: four, Coherence: four" in one.prompt_text
    assert "Helpfulness: zero, Correctness: one, Coherence: four" in other.prompt_text
    assert one.response_texts[0].strip().startswith("There is a red cup.")
    # The policy is asked in the same words afterwards.
    marks = marks_of(record["ratings"], "responses/1")
    assert list(marks.values()) == [0, 1, 4, 2, 3]
    assert (
        steer_prompt(record["prompt"], marks, "words")[0]["content"][0]["text"].split("\n")[-1]
        in other.prompt_text
    )


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([4, 4, 4, 4, 2.5], "responses/0 has Verbosity 2.5, no whole number from 0 to 4"),
        ([5, 4, 4, 4, 4], "responses/0 has Helpfulness 5"),
    ],
)
def test_marks_that_are_none(marks: list[float], message: str) -> None:
    with pytest.raises(RefusedRowError, match=message):
        marks_of(ratings("responses/0", marks), "responses/0")
    with pytest.raises(RefusedRowError, match="responses/1 is not rated on Helpfulness"):
        marks_of(ratings("responses/0", marks), "responses/1")


def test_responses_to_a_prompt_are_held_out_together() -> None:
    groups = [Group(f"a/{i}/{n}", (), "", ("",), (), (False,)) for i in range(5) for n in range(3)]
    train, held_out = split_held_out(groups, 0.4, 0, by=prompt_id)
    assert (len(train), len(held_out)) == (9, 6)
    assert not {prompt_id(g.id) for g in train} & {prompt_id(g.id) for g in held_out}


def test_from_rated_samples_to_a_steered_answer(
    saved: str, data: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "run"
    assert run("train", "steerlm", saved, "--data", data, "--out", out, *TRAIN) == 0
    results = read_json(out / "run.json")["results"]
    # 2 of 6 prompts are held out, two responses each.
    assert (results["rows"], results["held_out_rows"], results["steps"]) == (8, 4, 2)
    assert "SteerLM" in (out / "model" / "README.md").read_text()
    ask = ("ask", out / "model", tmp_path / "0.png", "Describe the image.", "--max-new-tokens", "3")
    assert run(*ask, "--steer", "all-4") == 0
    assert run(*ask, "--steer", "all-5") == 2
    assert "--steer can't take 'all-5'" in capsys.readouterr().err


def test_evaluations_ask_steered_and_say_so(data: Path, tmp_path: Path, saved: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        (tmp_path / f"{number}.png").rename(folder / f"{number}.png")
    write_json(tmp_path / "objects.json", {"0": ["dog"], "1": ["cup"]})
    common = ("--images", folder, "--objects", tmp_path / "objects.json", "--max-new-tokens", "3")
    steer = ("--steer", "all-4,Verbosity:1")
    assert run("eval", "chair", saved, *common, *steer, "--out", tmp_path / "chair") == 0
    (first, _) = read_jsonl(tmp_path / "chair" / "answers.jsonl")
    assert first["decoding"]["steer"] == dict.fromkeys(ATTRIBUTES, 4) | {"Verbosity": 1}
    assert first["prompt"] == "Describe this image in detail."
    assert run("eval", "chair", saved, *common, "--out", tmp_path / "plain") == 0
    (plain, _) = read_jsonl(tmp_path / "plain" / "answers.jsonl")
    assert "steer" not in plain["decoding"] and plain["key"] != first["key"]
    pope = (*common, *steer, "--per-image", "1", "--out", tmp_path / "pope")
    assert run("eval", "pope", saved, *pope) == 0
    answered = read_jsonl(tmp_path / "pope" / "answers.jsonl")
    assert all(row["decoding"]["steer"]["Verbosity"] == 1 for row in answered)


def test_steering_needs_a_model(tmp_path: Path, capsys: Any) -> None:
    write_json(tmp_path / "objects.json", {"0": ["dog"]})
    write_jsonl(tmp_path / "answers.jsonl", [{"image_id": 0, "answer": "A dog."}])
    given = ("--answers", tmp_path / "answers.jsonl", "--objects", tmp_path / "objects.json")
    assert run("eval", "chair", *given, "--out", tmp_path / "out", "--steer", "all-4") == 2
    assert "--steer asks a model" in capsys.readouterr().err


def test_unrated_samples_are_listed_or_refused(
    saved: str, data: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = [row(0, ratings=None), *(row(number) for number in range(1, 6))]
    write_jsonl(data, rows)
    command = ("train", "steerlm", saved, "--data", data, "--out", tmp_path / "run", *TRAIN)
    assert run(*command) == 2
    error = capsys.readouterr().err
    assert "1 of 6 rows can't be used" in error and "is not rated on Helpfulness" in error
    assert run(*command, "--max-bad-fraction", "0.2") == 0
    (skipped,) = read_jsonl(tmp_path / "run" / "skipped.jsonl")
    assert skipped["id"] == "row0"
