"""TextVQA, VQAv2 and GQA: their files, their rules, their scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from published_files import gqa, textvqa, vqav2

from veridical.cli import main
from veridical.eval.gqa import read_gqa
from veridical.eval.textvqa import TextvqaOptions, read_textvqa
from veridical.eval.vqav2 import read_vqav2
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.scoring.vqa_rules import agreement, normalized


def score(folder: Path, name: str, answers: Any, *more: str) -> dict[str, Any]:
    path = folder / "answers.json"
    path.write_text(json.dumps(answers), encoding="utf-8")
    words = ["eval", name, "--answers", str(path), "--out", str(folder / "out"), *more]
    assert main(words) == 0
    scores = read_json(folder / "out" / "scores.json")["scores"]
    return {key: row["value"] for key, row in scores.items()}


def test_textvqa(tmp_path: Path) -> None:
    """Two of ten said "Coke": 2 times 1/3 and 8 times 2/3; "the cola." is "cola": 1."""
    textvqa(tmp_path)
    said = [{"question_id": 1, "answer": "coke!"}, {"question_id": 2, "answer": "Cola"},
            {"question_id": 3, "answer": " . "}]  # fmt: skip
    found = score(tmp_path, "textvqa", said, "--files", str(tmp_path / "textvqa.json"))
    assert found == pytest.approx({"accuracy": (0.6 + 1 + 0) / 3, "empty": 1 / 3})


def test_textvqa_as_llava_asks_and_answers(tmp_path: Path) -> None:
    """Ids are those of images; which question it is, is a line of the prompt."""
    textvqa(tmp_path)
    asked = [
        {"question_id": f"t{n // 2}", "text": f"What is {n}?\nReference OCR token: x\nBriefly."}
        for n in range(3)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    files = ["--files", str(tmp_path / "textvqa.json")]
    said = [{**row, "prompt": row["text"].upper(), "text": "cola"} for row in asked]
    assert score(tmp_path, "textvqa", said, *files)["accuracy"] == 1.0
    options = TextvqaOptions(tmp_path / "textvqa.json", prompts=tmp_path / "prompts.jsonl")
    assert [question.prompt for question in options.questions] == [row["text"] for row in asked]
    (tmp_path / "prompts.jsonl").write_text(json.dumps(asked[0]) + "\n")
    with pytest.raises(UserError, match="has no prompt for question 2 and 1 more"):
        _ = TextvqaOptions(tmp_path / "textvqa.json", prompts=tmp_path / "prompts.jsonl").questions


def test_the_embedded_model_is_asked(tmp_path: Path) -> None:
    textvqa(tmp_path)
    for name in ("t0", "t1"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    words = ["eval", "textvqa", "embedded", "--images", str(tmp_path), "--max-new-tokens", "3",
             "--files", str(tmp_path / "textvqa.json"), "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    rows = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert rows[0]["prompt"] == "What is 0?\nAnswer with a word or a short phrase."


@pytest.mark.parametrize(
    ("rule", "expected"),
    # "Two" is what 4 of 10 said; only the answer becomes "2". "a few" loses its article there.
    [("official", (0.0, 0.0)), ("corrected", (1.0, 1.0))],
)
def test_vqav2(tmp_path: Path, rule: str, expected: tuple[float, float]) -> None:
    vqav2(tmp_path)
    said = [{"question_id": 1, "answer": "Two"}, {"question_id": 2, "answer": "A few"}]
    files = ["--files", str(tmp_path / "annotations.json"), "--questions-file",
             str(tmp_path / "questions.json")]  # fmt: skip
    found = score(tmp_path, "vqav2", said, *files, "--rule", rule)
    assert (found["number/accuracy"], found["other/accuracy"]) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("official", {"open": 0, "binary": 1}), ("corrected", {"open": 1, "binary": 1})],
)
def test_gqa(tmp_path: Path, rule: str, expected: dict[str, float]) -> None:
    gqa(tmp_path)
    said = [{"questionId": "0", "prediction": "The cup."}, {"questionId": "1", "prediction": "yes"}]
    found = score(tmp_path, "gqa", said, "--files", str(tmp_path / "gqa.json"), "--rule", rule)
    assert {name: found[f"{name}/accuracy"] for name in expected} == expected
    assert found["query/accuracy"] == expected["open"]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("textvqa.json", {"data": [{"question_id": 1, "image_id": "a", "question": "x"}]},
         "answers"),
        ("textvqa.json", {"data": [{"question_id": 1, "question": "x"}]}, "needs question_id"),
        ("textvqa.json", [], "must be JSON"),
        ("gqa.json", {"1": {"question": "x", "imageId": 1}}, "imageId must be a text"),
        ("gqa.json", {"1": 2}, "must be an object"),
        ("gqa.json", [], "must be JSON"),
        ("annotations.json", {"annotations": [{"question_id": 1, "answers": []}]}, "1: answers"),
        ("annotations.json", {"annotations": [{"question_id": 7, "answers": [{"answer": "x"}]}]},
         "no answers to question 1"),
        ("questions.json", {"questions": [{"question_id": 1, "question": "x"}]}, "image_id"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, name: str, change: Any, told: str) -> None:
    for write in (textvqa, vqav2, gqa):
        write(tmp_path)
    (tmp_path / name).write_text(json.dumps(change))
    with pytest.raises(UserError, match=told):
        if name == "textvqa.json":
            read_textvqa(tmp_path / name)
        elif name == "gqa.json":
            read_gqa(tmp_path / name)
        else:
            files = tmp_path / "questions.json", tmp_path / "annotations.json"
            read_vqav2(*files, "{id}.jpg")


def test_an_image_name_that_names_none_is_refused(tmp_path: Path) -> None:
    vqav2(tmp_path)
    files = tmp_path / "questions.json", tmp_path / "annotations.json"
    assert (
        read_vqav2(*files, "COCO_val2014_{id:012d}.jpg")[0].image == "COCO_val2014_000000000009.jpg"
    )
    with pytest.raises(UserError, match="--image-name"):
        read_vqav2(*files, "{name}.jpg")


def test_the_published_textvqa() -> None:
    """5,000 questions about 3,166 images with ten answers each; each person against the other nine.

    What a person says agrees with the ten by 0.68 to 0.95 in the mean, whatever the normalization.
    """
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    questions = read_textvqa(Path(data) / "benchmarks" / "textvqa" / "TextVQA_0.5.1_val.json")
    assert len(questions) == 5000 and len({question.image_id for question in questions}) == 3166
    assert {len(question.expected) for question in questions} == {10}
    people = [[normalized(one) for one in question.expected] for question in questions[:500]]
    first = sum(agreement(own[0], own) for own in people) / len(people)
    assert 0.68 < first < 0.95
