"""MM-Vet: its file, both rules of reading marks, and its scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from published_files import mmvet

from veridical.cli import main
from veridical.eval import grading
from veridical.eval.kept_replies import KeepingAsker
from veridical.eval.mmvet import MmvetOptions, by_capability, read_mmvet, read_reply
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json


@pytest.fixture
def files(tmp_path: Path) -> Path:
    mmvet(tmp_path)
    answers = {f"v1_{n}": f"x = {n}" for n in range(3)}
    (tmp_path / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return tmp_path


def run(files: Path, replies: list[str], *more: str) -> dict[str, Any]:
    lines = [
        json.dumps({"question_id": f"v1_{n}", "reply": r}) + "\n" for n, r in enumerate(replies)
    ]
    (files / "replies.jsonl").write_text("".join(lines), encoding="utf-8")
    words = ["eval", "mmvet", "--files", str(files / "mm-vet.json"), "--answers",
             str(files / "answers.json"), "--replies", str(files / "replies.jsonl"), "--out",
             str(files / "out"), *more]  # fmt: skip
    assert main(words) == 0
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # 0.5 and 1 of the first two; the third says no number.
        ("corrected", {"score": 1.5 / 2, "unread": 1 / 3, "ocr/score": 0.5, "rec/score": 1.0,
                       "math/score": 0.5, "ocr/unread": 1 / 2}),
        # The second begins with a word, the third has none: 0 each.
        ("official", {"score": 0.5 / 3, "unread": 2 / 3, "ocr/score": 0.25, "rec/score": 0.0}),
    ],
)  # fmt: skip
def test_both_rules(files: Path, rule: str, expected: dict[str, float]) -> None:
    found = run(files, ["0.5", "Score: 1.0", "none"], "--rule", rule)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ("0.0", 0.0, 0.0),
        ("1", 1.0, 1.0),
        ("0.3 points", 0.3, 0.3),
        ("0.3.", None, 0.3),
        ("1.1", None, None),
        ("-0.1", None, None),
        ("0.3 or 0.4", 0.3, None),
        ("nan", None, None),
        ("", None, None),
    ],
)
def test_what_a_reply_says(reply: str, official: float | None, corrected: float | None) -> None:
    for rule, expected in (("official", official), ("corrected", corrected)):
        options = MmvetOptions(Path("x"), rule)  # type: ignore[arg-type]
        if expected is None:
            with pytest.raises(UnreadableError):
                read_reply(options, {}, 0, reply)
        else:
            assert read_reply(options, {}, 0, reply) == expected


def test_the_judge_is_asked_in_given_words(files: Path) -> None:
    """<AND> stands between spaces; braces of an answer are left as they are."""
    (files / "words.txt").write_text("{question} | {reference} | {answer} |")
    (files / "answers.json").write_text(
        json.dumps({"v1_0": "{reference}", "v1_1": "b", "v1_2": "c"})
    )
    told = ["--judge", "local:embedded", "--judge-tokens", "1", "--attempts", "1"]
    words = ["eval", "mmvet", "--files", str(files / "mm-vet.json"), "--answers",
             str(files / "answers.json"), "--judge-prompt", str(files / "words.txt"), "--out",
             str(files / "out"), *told]  # fmt: skip
    asked: list[str] = []
    keep = KeepingAsker

    def keeping(ask: Any, path: Path, identity: Any) -> Any:
        asker = keep(ask, path, identity)

        def seen(questions: Any) -> Any:
            asked.extend(
                question.prompt.messages[0]["content"][0]["text"] for question in questions
            )
            return asker(questions)

        return seen

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grading, "KeepingAsker", keeping)
        assert main(words) == 0
    assert asked[0] == "Question 0? | -1 <AND> -5 | {reference} |"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"capability": ["x"]}, "capability must list"),
        ({"capability": [{}]}, "capability must list"),
        ({"question": 1}, "question must be a text"),
    ],
)
def test_another_file_is_refused(files: Path, change: dict[str, Any], told: str) -> None:
    rows = read_json(files / "mm-vet.json")
    rows["v1_1"] |= change
    (files / "mm-vet.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"v1_1: {told}"):
        read_mmvet(files / "mm-vet.json")


def test_the_published_file() -> None:
    """218 questions about 200 images; how many need each capability."""
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    questions = read_mmvet(Path(data) / "benchmarks" / "mm_vet" / "mm-vet.json")
    assert len(questions) == 218 and len({question.image_id for question in questions}) == 200
    groups = by_capability([question.row for question in questions])
    assert {name: len(rows) for name, rows in groups.items()} == {
        "rec": 150, "ocr": 96, "know": 84, "gen": 80, "spat": 75, "math": 26
    }  # fmt: skip
