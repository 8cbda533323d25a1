"""MMHal-Bench: its file, both rules of reading ratings, and its scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from published_files import mmhal

from veridical.cli import main
from veridical.eval.judge_cost import JudgeCost
from veridical.eval.mmhal import MmhalOptions, exact_rating, read_mmhal, read_reply
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.world.dataset import write_scenes

REPLIES = ["Fine.\nRating: 5", "Wrong. Rating: 1, very informative", "**Rating**: 3"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    mmhal(tmp_path)
    rows = read_json(tmp_path / "template.json")
    told = [{**row, "model_answer": f"Answer {n}."} for n, row in enumerate(rows)]
    (tmp_path / "answers.json").write_text(json.dumps(told), encoding="utf-8")
    lines = [json.dumps({"question_id": str(n), "reply": r}) + "\n" for n, r in enumerate(REPLIES)]
    (tmp_path / "replies.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def words(files: Path, *more: str) -> list[str]:
    return ["eval", "mmhal", "--files", str(files / "template.json"), "--answers",
            str(files / "answers.json"), "--out", str(files / "out"), *more]  # fmt: skip


def values(files: Path) -> dict[str, Any]:
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # 5, 1 and 3: steps of informativeness 2, 1 and 0.
        ("corrected", {"score": 9 / 3, "hallucination": 1 / 3, "informativeness": 3 / 9,
                       "unread": 0.0, "attribute/score": 4.0, "counting/hallucination": 1.0}),
        # The asterisks: 0, which hallucinates and is not informative.
        ("official", {"score": 6 / 3, "hallucination": 2 / 3, "informativeness": 3 / 9,
                      "unread": 1 / 3, "attribute/score": 2.5, "attribute/unread": 1 / 2}),
    ],
)  # fmt: skip
def test_both_rules(files: Path, rule: str, expected: dict[str, float]) -> None:
    assert main(words(files, "--replies", str(files / "replies.jsonl"), "--rule", rule)) == 0
    found = values(files)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_official_rule_reads_a_reply_that_was_cut(files: Path) -> None:
    """As the published scorer does: the reply of our own judge ended at its length limit."""
    rows = [
        {"key": str(n), "id": f"{n}/0", "attempt": 0, "reply": "Rating: 5", "cut": True}
        for n in range(3)
    ]
    (files / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--replies", str(files / "replies.jsonl"))
    assert main(words(files, *given, "--rule", "official")) == 0
    assert values(files)["score"] == 5
    assert main(words(files, *given)) == 0
    assert values(files)["unread"] == 1


def test_an_unread_rating_counts_in_no_score(files: Path) -> None:
    path = files / "replies.jsonl"
    path.write_text(path.read_text().replace("**Rating**: 3", "Sorry."))
    assert main(words(files, "--replies", str(path))) == 0
    found = values(files)
    expected = {"score": 6 / 2, "hallucination": 1 / 2, "unread": 1 / 3, "attribute/score": 5.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    row = read_jsonl(files / "out" / "answers.jsonl")[2]
    assert row["rating"] is None and "could not be read" in row["judged"][0]["problem"]


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ("RATING: 6", 6, 6),
        ("Rating: 0", 0, 0),
        ("rating:4", None, 4),
        ("**Rating:** 4", None, 4),
        ("Rating: 4/6", 4, 4),
        ("Rating (0-6): 4", None, 4),
        ("Rating (0 to 6): 5", None, 5),
        ("Rating: 0-6", 0, None),
        ("Rating, of 6 things", None, None),
        ("Rating: 10", 1, None),
        ("Rating: 2.5", 2, None),
        ("Rating: 7", None, None),
        ("Rating: 2 or rating: 3", None, None),
        ("Rating: 2. So rating: 2", 2, 2),
        ("", None, None),
    ],
)
def test_what_a_reply_says(reply: str, official: int | None, corrected: int | None) -> None:
    for rule, expected in (("official", official), ("corrected", corrected)):
        options = MmhalOptions(Path("x"), rule=rule)  # type: ignore[arg-type]
        if expected is None:
            with pytest.raises(UnreadableError):
                read_reply(options, {}, 0, reply)
        else:
            assert read_reply(options, {}, 0, reply) == expected


def test_a_local_judge_that_sees_the_images(files: Path) -> None:
    """The tiny model never rates: every answer is unread, and all replies are kept."""
    for n in range(3):
        Image.new("RGB", (32, 32), "red").save(files / f"i{n}.png")
    told = ["--judge", "local:embedded", "--attempts", "2", "--judge-tokens", "4"]
    seen = ["--judge-sees-image", "true", "--images", str(files)]
    assert main(words(files, *told, *seen)) == 0
    assert values(files)["unread"] == 1.0 and values(files)["score"] is None
    replies = read_jsonl(files / "out" / "replies.jsonl")
    assert sorted((row["id"], row["attempt"]) for row in replies) == [
        (f"{n}/0", attempt) for n in range(3) for attempt in range(2)
    ]
    record = read_json(files / "out" / "run.json")
    assert record["models"]["judge"]["name"] == "embedded"
    assert record["results"]["judge_replies"] == 6 and record["results"]["judge_unread"] == 3
    about = read_json(files / "out" / "scores.json")["about"]
    assert about["judge_sees"] == "image and texts" and len(about["judge_words_sha256"]) == 64


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "judged by a model"),
        (["--judge", "local:embedded", "--judge-sees-image", "true"], "needs --images"),
        (["--judge", "local:embedded", "--judge-sees-image", "true", "--images", "{folder}"],
         "lacks, such as i1.jpg"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    files: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32), "red").save(files / "i0.png")
    assert main(words(files, *(word.format(folder=files) for word in more))) == 2
    assert told in capsys.readouterr().err


def test_answers_in_another_order_are_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_json(files / "answers.json")
    (files / "answers.json").write_text(json.dumps(rows[::-1]))
    assert main(words(files, "--replies", str(files / "replies.jsonl"))) == 2
    assert "row 1: the template has another question there" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("image_content", "cup"), ("gt_answer", None)])
def test_another_file_is_refused(files: Path, field: str, value: Any) -> None:
    rows = read_json(files / "template.json")
    rows[1][field] = value
    (files / "template.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"row 2: {field}"):
        read_mmhal(files / "template.json")


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("A red cup and a blue dog in a park.", 6),
        ("A park.", 4),  # a third of what was asked
        ("I cannot see.", 3),
        ("A red cup, a blue dog and a cat in a park.", 2),
        ("A cat in a park.", 1),
        ("Two cats.", 0),
        ("A blue cup.", 0),  # the cup is red
    ],
)
def test_exact_ratings(answer: str, rating: int) -> None:
    asked, false = ["park", "red cup", "blue dog"], ["cat", "blue cup", "red dog", "beach"]
    assert exact_rating(answer, asked, false) == rating


def test_drawn_scenes_are_rated_without_a_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference answers rate 6; the embedded model's own answers have a rating of each type."""
    write_scenes(tmp_path / "scenes", "counter", count=16, seed=3)
    rows = read_json(tmp_path / "scenes" / "mmhal.json")
    assert len({row["question_type"] for row in rows}) == 8
    told = [{**row, "model_answer": row["gt_answer"]} for row in rows]
    (tmp_path / "answers.json").write_text(json.dumps(told), encoding="utf-8")
    given = ["eval", "mmhal", "--files", str(tmp_path / "scenes" / "mmhal.json"), "--rule", "exact"]
    answers = ("--answers", str(tmp_path / "answers.json"), "--out", str(tmp_path / "out"))
    assert main([*given, *answers]) == 0
    assert values(tmp_path)["score"] == 6 and values(tmp_path)["hallucination"] == 0
    images = ("--images", str(tmp_path / "scenes" / "images"), "--max-new-tokens", "64")
    assert main([*given, "--model", "embedded", *images, "--out", str(tmp_path / "own")]) == 0
    scores = read_json(tmp_path / "own" / "scores.json")["scores"]
    assert scores["attribute/score"]["n"] == 2 and scores["unread"]["value"] == 0
    assert main([*given, *answers, "--judge", "local:embedded"]) == 2
    assert "needs no judge" in capsys.readouterr().err
    changes: list[dict[str, Any]] = [{"asked": []}, {"false": ["cat", 1]}]
    for change in changes:
        (tmp_path / "template.json").write_text(json.dumps([{**rows[0], **change}]))
        with pytest.raises(UserError, match="row 1"):
            read_mmhal(tmp_path / "template.json", phrases=True)


def test_a_dry_run_says_what_the_judge_would_cost(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three questions of some 830 characters; replies of at most 1,024 tokens, at $10 a million.

    That is 3.072 cents, and what is the most is not rounded down. A model's answers are not known:
    each may add its 1,024 tokens.
    """
    judge = ("--judge", "endpoint:m", "--endpoint.output_price", "10", "--dry-run", "true")
    assert main(words(files, *judge)) == 0
    said = capsys.readouterr().out
    assert "asked 3 questions" in said and "at most 3,072 written, at most $0.04." in said
    read = int(re.findall(r"some ([\d,]+) tokens", said)[0].replace(",", ""))
    assert 600 < read < 660 and not (files / "out").exists()
    Image.new("RGB", (32, 32)).save(files / "i0.png")
    model = ["eval", "mmhal", "embedded", "--files", str(files / "template.json"), "--images",
             str(files), "--max-bad-fraction", "1", "--out", str(files / "out")]  # fmt: skip
    assert main([*model, *judge]) == 0
    assert "asked 1 question:" in capsys.readouterr().out
    assert main([*model, *judge, "--judge-sees-image", "true"]) == 0
    assert "at most $0.02 without the images." in capsys.readouterr().out
    assert main([*model, "--dry-run", "true", "--replies", str(files / "replies.jsonl")]) == 2
    assert "Name one with --judge" in capsys.readouterr().err


def test_a_price_of_whole_cents_stays_what_it_is() -> None:
    """0.07 * 100 is a little above 7 as a float; what is above 7 cents is 8 at most."""
    for dollars, told in ((0.07, "$0.07."), (0.0701, "$0.08."), (0.0, "$0.00.")):
        assert f"at most {told}" in JudgeCost(1, 0, 0, 0, dollars).line
