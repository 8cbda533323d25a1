"""LLaVA-Bench: its files, both rules, published reviews, and its scores."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from published_files import llava_bench

from veridical.cli import main
from veridical.eval.grading import filled
from veridical.eval.llava_bench import (
    FAILED,
    LlavaBenchOptions,
    read_llava_bench,
    read_reply,
)
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl


@pytest.fixture
def files(tmp_path: Path) -> Path:
    llava_bench(tmp_path)
    answers = [{"question_id": n, "text": f"Answer {n}."} for n in range(2)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return tmp_path


def run(files: Path, replies: list[tuple[int, str]], *more: str) -> dict[str, Any]:
    lines = [json.dumps({"question_id": n, "text": text}) + "\n" for n, text in replies]
    (files / "replies.jsonl").write_text("".join(lines))
    words = ["eval", "llava_bench", "--files", str(files / "questions.jsonl"), "--context",
             str(files / "context.json"), "--references", str(files / "references.json"),
             "--answers", str(files / "answers.jsonl"), "--replies", str(files / "replies.jsonl"),
             "--out", str(files / "out"), *more]  # fmt: skip
    assert main(words) == 0
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


def test_both_orders(files: Path) -> None:
    """Question 0: 8 and 6 for the reference first, 7 and 9 for the answer first.

    The means are 8.5 and 6.5, so a loss; shown second it scores 6, first 7. Of question 1 one reply
    can be read: 5 and 5, a tie.
    """
    found = run(files, [(0, "8 6\nWhy."), (0, "7 9\nWhy."), (1, "5, 5"), (1, "Both are good.")])
    expected = {
        "relative": (6.5 + 5) / (8.5 + 5), "candidate": 11.5 / 2, "reference": 13.5 / 2,
        "win": 0.0, "tie": 1 / 2, "loss": 1 / 2, "gain_when_second": -1.0, "unread": 1 / 4,
        "conv/relative": 6.5 / 8.5, "detail/relative": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_published_rule_averages_failures_in(files: Path) -> None:
    """A comma and a space make three words: -1 for both, (6 - 1) / (8 - 1), and a tie."""
    found = run(files, [(0, "8 6"), (1, "5, 5")], "--rule", "official")
    expected = {"relative": 5 / 7, "candidate": 5 / 2, "loss": 1 / 2, "tie": 1 / 2, "unread": 1 / 2}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["gain_when_second"] is None


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ("8 9\nWhy", [8, 9], [8, 9]),
        ("8.5,9", [8.5, 9], [8.5, 9]),
        ("8, 9", FAILED, [8, 9]),
        ("8 9 ", FAILED, [8, 9]),
        ("**8 / 9**", FAILED, [8, 9]),
        ("I compare.\n\n7 6", FAILED, [7, 6]),
        ("11 9", [11, 9], None),
        ("8", FAILED, None),
        ("Assistant 1: 8", FAILED, None),
        ("", FAILED, None),
    ],
)
def test_what_a_reply_says(reply: str, official: list[float], corrected: Any) -> None:
    path = Path("x")
    assert read_reply(LlavaBenchOptions(path, path, path, "official"), {}, 0, reply) == official
    options = LlavaBenchOptions(path, path, path)
    if corrected is None:
        with pytest.raises(UnreadableError):
            read_reply(options, {}, 0, reply)
    else:
        assert read_reply(options, {}, 0, reply) == corrected


def test_llavas_words_and_layout(files: Path) -> None:
    """The words are read from LLaVA's file, by category."""
    rules = {"llava_bench_conv": {"role": "Assistant", "prompt": "Rate."},
             "llava_bench_detail": {"role": "Assistant", "prompt": "Rate both."}}  # fmt: skip
    (files / "rule.json").write_text(json.dumps(rules))
    names = (files / "questions.jsonl", files / "context.json", files / "references.json")
    options = LlavaBenchOptions(*names, judge_rules=files / "rule.json")
    shown = {"context": "{first}", "question": "Q?", "first": "a", "second": "b"}
    assert filled(options.words("conv"), shown) == (
        "[Context]\n{first}\n\n[Question]\nQ?\n\n[Assistant 1]\na\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nb\n\n[End of Assistant 2]\n\n[System]\nRate.\n\n"
    )
    with pytest.raises(UserError, match="no rule for the category 'complex'"):
        options.words("complex")


@pytest.mark.parametrize(("known", "said"), [("caption", "Wild."), ("captions", "COCO.")])
def test_words_by_the_kind_of_the_contexts(files: Path, known: str, said: str) -> None:
    rules = {name: {"role": "Assistant", "prompt": prompt}
             for name, prompt in (("conv", "COCO."), ("llava_bench_conv", "Wild."))}  # fmt: skip
    (files / "rule.json").write_text(json.dumps(rules))
    (files / "known.jsonl").write_text(json.dumps({"image": "a", known: []}))
    names = (files / "questions.jsonl", files / "known.jsonl", files / "references.json")
    assert said in LlavaBenchOptions(*names, judge_rules=files / "rule.json").words("conv")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("questions.jsonl", [{"question_id": 0, "image": "9.jpg", "text": "x", "category": "conv"}],
         "says nothing of image 9.jpg"),
        ("questions.jsonl", [{"question_id": 7, "image": "001.jpg", "text": "", "category": ""}],
         "no answer to question 7"),
        ("questions.jsonl", [{"question_id": 0, "text": "x"}], "image must be a text"),
        ("context.json", [{"image": "001.jpg"}], "needs image, and caption"),
        ("references.json", [1], "JSON Lines of objects"),
    ],
)  # fmt: skip
def test_other_files_are_refused(files: Path, name: str, content: Any, told: str) -> None:
    (files / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    with pytest.raises(UserError, match=told):
        read_llava_bench(
            files / "questions.jsonl", files / "context.json", files / "references.json"
        )


@pytest.fixture
def data() -> Path:
    found = os.environ.get("VERIDICAL_TEST_DATA")
    if not found:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    return Path(found)


def test_the_published_files(data: Path) -> None:
    """60 questions in the wild: 17, 15 and 28; 90 on COCO: 30 of each, with captions and boxes."""
    wild = data / "benchmarks" / "llava_bench_wild"
    names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
    questions = read_llava_bench(*(wild / name for name in names))
    counts = Counter(question.about["category"] for question in questions)
    assert counts == {"conv": 17, "detail": 15, "complex": 28}
    coco = data / "judge"
    parts = ("questions", "captions_boxes", "gpt4_answers")
    questions = read_llava_bench(*(coco / f"llava_bench_coco_{part}.jsonl" for part in parts))
    assert Counter(question.about["category"] for question in questions) == {
        "conv": 30, "detail": 30, "complex": 30
    }  # fmt: skip
    assert "suitcase: [" in questions[0].about["context"]


@pytest.mark.parametrize(
    ("name", "wins", "ties", "losses"),
    [("gpt35_vicuna-13b", 44, 22, 14), ("llama-13b_vicuna-13b", 3, 0, 77)],
)
def test_published_reviews(data: Path, name: str, wins: int, ties: int, losses: int) -> None:
    """GPT-4's reviews in this form: 77 of 80 are read as published, by both rules.

    The other three do not begin with the scores; people read them. Then wins, ties and losses are
    those published.
    """
    reviews = read_jsonl(data / "judge" / f"review_{name}.jsonl")
    path = Path("x")
    official = LlavaBenchOptions(path, path, path, "official")
    scores = [read_reply(official, {}, 0, review["text"]) for review in reviews]
    by_hand = [n for n, pair in enumerate(scores) if pair == FAILED]
    assert len(by_hand) == 3
    for n, review in enumerate(reviews):
        if n not in by_hand:
            assert scores[n] == review["score"]
            assert (
                read_reply(LlavaBenchOptions(path, path, path), {}, 0, review["text"]) == scores[n]
            )
    told = [review["score"] if n in by_hand else scores[n] for n, review in enumerate(reviews)]
    signs = Counter((a > b) - (a < b) for a, b in told)
    assert (signs[1], signs[0], signs[-1]) == (wins, ties, losses)
