"""MMBench: its file, the rotations of options, both rules, and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_files import MMBENCH, mmbench

from veridical.cli import main
from veridical.data.image_checks import refused_files
from veridical.eval.embedded_images import write_embedded
from veridical.eval.mmbench import read_tsv, rotated
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl


@pytest.fixture
def files(tmp_path: Path) -> Path:
    mmbench(tmp_path)
    return tmp_path


def run(files: Path, answers: dict[str, str], *more: str) -> dict[str, Any]:
    rows = [json.dumps({"index": int(id), "answer": said}) + "\n" for id, said in answers.items()]
    (files / "answers.jsonl").write_text("".join(rows))
    words = ["eval", "mmbench", "--files", str(files / "mmbench.tsv"), "--answers",
             str(files / "answers.jsonl"), "--out", str(files / "out"), *more]  # fmt: skip
    assert main(words) == 0
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


def test_options_are_rotated(files: Path) -> None:
    """The right answer, "a cat", is B, then A, then C."""
    questions = rotated(read_tsv(files / "mmbench.tsv"), True, files / "mmbench.tsv")
    first = [(q.question_id, q.expected) for q in questions[:3]]
    assert first == [("1", "B"), ("1000001", "A"), ("2000001", "C")]
    assert questions[1].prompt == "Look.\nWhat is it?\nA. a cat\nB. a cup\nC. a dog"
    assert [(q.question_id, q.expected) for q in questions[3:]] == [("2", "A"), ("1000002", "B")]
    assert questions[3].prompt == "Is it red?\nA. yes\nB. no"
    assert len({q.image for q in questions}) == 1
    assert len(rotated(read_tsv(files / "mmbench.tsv"), False, files)) == 2


def test_a_question_is_right_only_in_every_rotation(files: Path) -> None:
    """Of question 1 one rotation is wrong, question 2 is right; one of five answers is unclear."""
    said = {"1": "B", "1000001": "A", "2000001": "I see.", "2": "A. yes", "1000002": "yes"}
    found = run(files, said)
    expected = {
        "accuracy": 1 / 2, "vanilla": 1.0, "answer_accuracy": 4 / 5, "unparsed": 1 / 5,
        "identity/accuracy": 0.0, "color/accuracy": 1.0, "perception/accuracy": 1 / 2,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_question_without_all_rotations_counts_for_no_accuracy(files: Path) -> None:
    said = {"1": "B", "1000001": "A", "2": "B", "1000002": "yes"}
    found = run(files, said, "--max-bad-fraction", "0.5")
    assert (found["accuracy"], found["vanilla"], found["answer_accuracy"]) == (0.0, 0.0, 3 / 4)
    only = run(files, {"1": "B", "2": "B"}, "--circular", "false")
    assert only["accuracy"] == only["vanilla"] == 1 / 2


def test_the_published_rule_takes_the_article_for_a_letter(files: Path) -> None:
    said = {"1": "A cat", "1000001": "A", "2000001": "C", "2": "A", "1000002": "B"}
    assert run(files, said)["accuracy"] == 1.0
    assert run(files, said, "--rule", "official")["accuracy"] == 1 / 2


def test_a_file_with_rotations_keeps_them(files: Path) -> None:
    path = files / "mmbench.tsv"
    with path.open("a") as file:
        file.write("1000002\tIs it red?\tnan\tno\tyes\t\t\tB\tcolor\tperception\t1\n")
    questions = rotated(read_tsv(path), True, path)
    assert [(q.question_id, q.about["rotations"]) for q in questions] == [
        ("1", 1), ("2", 2), ("1000002", 2)
    ]  # fmt: skip
    assert len(rotated(read_tsv(path), False, path)) == 2


def test_the_embedded_model_is_asked_about_the_images_of_the_file(files: Path) -> None:
    words = ["eval", "mmbench", "embedded", "--files", str(files / "mmbench.tsv"), "--out",
             str(files / "out"), "--max-new-tokens", "3"]  # fmt: skip
    assert main(words) == 0
    rows = read_jsonl(files / "out" / "answers.jsonl")
    assert len(rows) == 5 and rows[0]["prompt"].endswith(
        "\nReply with the letter of the right option."
    )
    assert len(list((files / "out" / "question_images").iterdir())) == 1
    text = (files / "mmbench.tsv").read_text().replace("iVBOR", "!")
    (files / "mmbench.tsv").write_text(text)
    assert main([*words[:-2], "--max-bad-fraction", "1"]) == 2  # no image is one


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["x\tq\t\ta\tb\t\t\tA\t\t\ti"], "line 2: index must be a number"),
        (["9" * 5000 + "\tq\t\ta\tb\t\t\tA\t\t\ti"], "line 2: index must be a number"),
        (["1\tq\t\ta\tb\t\t\tC\t\t\ti"], "line 2: answer is 'C', which is not an option"),
        (["1\tq\t\ta\tb\t\t\tA\t\t\ti"] * 2, "the index 1 is there twice"),
        ([], "has no questions"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, rows: list[str], told: str) -> None:
    path = tmp_path / "m.tsv"
    path.write_text("\n".join([MMBENCH, *rows]) + "\n")
    with pytest.raises(UserError, match=told):
        rotated(read_tsv(path), True, path)
    path.write_text("index\tquestion\n1\tq\n")
    with pytest.raises(UserError, match="no column answer, image, A, B"):
        read_tsv(path)


def test_text_that_is_no_base64_is_refused_as_no_image(tmp_path: Path) -> None:
    (file,) = write_embedded({"1.jpg": "77!"}, tmp_path).values()
    assert file.read_text() == "77!"
    assert refused_files([file], lambda: None) == {file: "not an image of an allowed format"}
