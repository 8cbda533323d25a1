"""HallusionBench: its file, both rules, with a judge and without, and its scores."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from published_files import hallusionbench

from veridical.cli import main
from veridical.eval.hallusion_metrics import FORMULAS, hallusion_sums
from veridical.eval.hallusionbench import BENCHMARK, HallusionOptions, read_hallusionbench
from veridical.eval.hallusionbench import read_reply as read
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.scoring.statistics import estimate

# In the order of the file: no figure (yes), figure (yes), edited (no); figure (yes, no), edited
# (no, no).
SAID = ["I cannot tell.", "Yes", "Yes", "Yes", "No", "No", "Hard to say."]
OUTCOMES = ["unclear", "correct", "incorrect", "correct", "correct", "correct", "unclear"]
EXPECTED = {
    # Right: 1 (not to know without a figure), 1, 0, 1, 1, 1, 0.
    "aAcc": 5 / 7,
    # Pairs: VS 0 no; VD 0 yes; VD 1 no.
    "qAcc": 1 / 3,
    # VS figure 1 yes, 2 no; VD figure 0 yes, 1 no.
    "fAcc": 2 / 4,
    # VS 0 on no figure and the figure: right; VD 0 and 1: right.
    "easy": 3 / 3,
    # VS 0 wrong, VD 0 right, VD 1 wrong.
    "hard": 1 / 3,
    "unclear": 2 / 7,
    "unread": 0.0,
    # Yes is right of 3; a wrong answer counts as the opposite: yes is said by rows 1, 2, 3, 4, 7.
    "yes_difference": 5 / 7 - 3 / 7,
    # Both wrong answers are to questions with no.
    "false_yes": 2 / 2,
    "VS/aAcc": 2 / 3,
    "with_image/aAcc": 4 / 6,
    "without_image/aAcc": 1.0,
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    hallusionbench(tmp_path)
    rows = read_json(tmp_path / "HallusionBench.json")
    told = [{**row, "model_prediction": said} for row, said in zip(rows, SAID, strict=True)]
    (tmp_path / "answers.json").write_text(json.dumps(told), encoding="utf-8")
    return tmp_path


def write_replies(files: Path, replies: list[str]) -> Path:
    ids = [question.question_id for question in read_hallusionbench(files / "HallusionBench.json")]
    lines = [
        json.dumps({"question_id": id, "reply": reply}) + "\n"
        for id, reply in zip(ids, replies, strict=True)
    ]
    (files / "replies.jsonl").write_text("".join(lines), encoding="utf-8")
    return files / "replies.jsonl"


def words(files: Path, *more: str) -> list[str]:
    return ["eval", "hallusionbench", "--files", str(files / "HallusionBench.json"), "--answers",
            str(files / "answers.json"), "--out", str(files / "out"), *more]  # fmt: skip


def values(files: Path) -> dict[str, Any]:
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


def test_without_a_judge_yes_and_no_are_read(files: Path) -> None:
    assert main(words(files)) == 0
    found = values(files)
    assert {name: found[name] for name in EXPECTED} == pytest.approx(EXPECTED)
    about = read_json(files / "out" / "scores.json")["about"]
    assert about["rule"] == "corrected" and about["judge"].startswith("none")


@pytest.mark.parametrize("rule", ["corrected", "official"])
def test_replies_of_a_judge(files: Path, rule: str) -> None:
    replies = write_replies(files, [outcome.capitalize() + "." for outcome in OUTCOMES])
    assert main(words(files, "--rule", rule, "--replies", str(replies))) == 0
    found = values(files)
    assert {name: found[name] for name in EXPECTED} == pytest.approx(EXPECTED)
    row = read_jsonl(files / "out" / "answers.jsonl")[2]
    assert row["judged"] == [{"reply": "Incorrect.", "read": "incorrect", "problem": ""}]


def test_a_reply_that_cannot_be_read(files: Path) -> None:
    """Official: an empty reply is "unclear", so a wrong answer. Corrected: it counts nowhere.

    The last but one answer was right: 4 of 6 are left, and its pair and its figure are not.
    """
    replies = write_replies(files, [*OUTCOMES[:5], "I am sorry.", OUTCOMES[6]])
    assert main(words(files, "--replies", str(replies))) == 0
    found = values(files)
    expected = {"aAcc": 4 / 6, "unread": 1 / 7, "qAcc": 0 / 2, "fAcc": 2 / 3, "hard": 0 / 2}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert main(words(files, "--replies", str(replies), "--rule", "official")) == 0
    found = values(files)
    expected = {"aAcc": 4 / 7, "unread": 0.0, "qAcc": 0 / 3, "fAcc": 2 / 4, "unclear": 3 / 7}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_an_unanswered_question_takes_its_pair_and_its_figure_with_it(files: Path) -> None:
    """Without the third answer, which was wrong: VS 0, its hard part and VS figure 2 are gone."""
    rows = read_json(files / "answers.json")
    (files / "answers.json").write_text(json.dumps(rows[:2] + rows[3:]))
    assert main(words(files, "--max-bad-fraction", "0.5")) == 0
    found = values(files)
    expected = {"aAcc": 5 / 6, "qAcc": 1 / 2, "fAcc": 2 / 3, "easy": 3 / 3, "hard": 1 / 2,
                "with_image/qAcc": 1 / 2}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ("Correct", "correct", "correct"),
        ("INCORRECT.", "incorrect", "incorrect"),
        ("Unclear", "unclear", "unclear"),
        ("It is not incorrect.", "incorrect", None),
        ("correct or incorrect?", "incorrect", None),
        ("incorrectly", "incorrect", None),
        ("", "unclear", None),
    ],
)
def test_what_a_reply_says(reply: str, official: str, corrected: str | None) -> None:
    path = Path("x")
    assert read(HallusionOptions(path, "official"), {}, 0, reply) == official
    if corrected is None:
        with pytest.raises(UnreadableError):
            read(HallusionOptions(path), {}, 0, reply)
    else:
        assert read(HallusionOptions(path), {}, 0, reply) == corrected


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rule", "official"], "judged by a model"),
        (["--judge", "exact"], "--judge exact is none of local:MODEL, endpoint:MODEL"),
        (["--judge", "local:embedded", "--replies", "x"], "both were given"),
        (["--endpoint.url", "http://localhost:1"], "not given"),
        (["--judge-prompt", "{HERE}"], "{reference}"),
    ],
)
def test_judges_that_cannot_be(
    files: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "prompt.txt").write_text("{question} {answer}")
    given = [str(files / "prompt.txt") if word == "{HERE}" else word for word in more]
    assert main(words(files, *given)) == 2
    assert told in capsys.readouterr().err


def test_replies_that_do_not_fit(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_replies(files, OUTCOMES)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    assert main(words(files, "--replies", str(path))) == 2
    assert "0 replies to question VS/chart/0_0_0, and 1 are needed" in capsys.readouterr().err
    path.write_text("".join(lines) + '{"question_id": "VS/9", "reply": "Correct"}')
    assert main(words(files, "--replies", str(path))) == 2
    assert "to 1 questions that are not judged here: VS/9." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("gt_answer", "2", "gt_answer must be 0 or 1"),
        ("figure_id", 1, "figure_id must be a text"),
        ("filename", 1, "filename must be a text where visual_input is 1"),
        ("filename", None, "filename must be a text where visual_input is 1"),
        ("visual_input", "0", "filename must be null where visual_input is 0"),
        ("filename", ..., "filename is missing"),
        ("question_id", "1", "is there twice"),
    ],
)
def test_another_file_is_refused(files: Path, field: str, value: Any, told: str) -> None:
    rows = read_json(files / "HallusionBench.json")
    rows[3][field] = value
    if value is ...:
        del rows[3][field]
    (files / "HallusionBench.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=told):
        read_hallusionbench(files / "HallusionBench.json")


def test_the_published_file() -> None:
    """1,129 questions: 455 pairs (easy; 430 hard), 346 figures, 178 without an image.

    The paper has 346 images and 1,129 questions, and GPT-4V right on 31.42 % of the pairs, which
    are 143 of 455.
    """
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    path = Path(data) / "benchmarks" / "hallusionbench" / "HallusionBench.json"
    questions = read_hallusionbench(path)
    assert Counter(question.expected for question in questions) == {"no": 645, "yes": 484}
    assert sum(not question.image for question in questions) == 178
    rows = [
        {**row, "right": True, "outcome": "correct", "rule": "official"}
        for row in (question.row for question in questions)
    ]
    counted = {name: one.n for name, one in estimate(hallusion_sums(rows), FORMULAS).items()}
    assert counted["aAcc"] == 1129 and counted["fAcc"] == 346
    assert (counted["qAcc"], counted["easy"], counted["hard"]) == (455, 455, 430)
    assert len(BENCHMARK.groups(rows)) == 4
