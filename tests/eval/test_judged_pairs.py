"""VL-RewardBench and Multimodal RewardBench: their files, both rules, and their scores."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from published_files import multimodal_rewardbench, vl_rewardbench

from veridical.cli import main
from veridical.eval.judged_pairs import pair_counts, read_better
from veridical.eval.multimodal_rewardbench import category_of, read_multimodal_rewardbench
from veridical.eval.vl_rewardbench import (
    NO_MATCH,
    VlRewardbenchOptions,
    by_majority,
    read_reply,
    read_vl_rewardbench,
)
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl

VL = ["RLHF-V-1", "mathverse_1", "wildvision-1", "wildvision-1#2"]


def run(
    folder: Path, name: str, file: str, replies: list[tuple[str, str]], *more: str
) -> dict[str, Any]:
    lines = [
        json.dumps({"question_id": id, "reply": reply, "first": 1}) + "\n" for id, reply in replies
    ]
    (folder / "replies.jsonl").write_text("".join(lines))
    words = ["eval", name, "--files", str(folder / file), "--replies",
             str(folder / "replies.jsonl"), "--out", str(folder / "out"), *more]  # fmt: skip
    assert main(words) == 0
    scores = read_json(folder / "out" / "scores.json")["scores"]
    return {key: row["value"] for key, row in scores.items()}


def test_both_orders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Better is answer 0, 1, 0, 1; the judge sees 0 first and then 1 first.

    It says 1, 2: answer 0 twice, right. 1, 1: 0 and then 1, half. 2 and nothing: 1, wrong.
    Tie, 2: half a point and 0, a quarter.
    """
    vl_rewardbench(tmp_path)
    said = ["1", "2", "1", "1", "2", "?", "tie", "2"]
    replies = [(VL[n // 2], f"Because.\nBetter: {word}") for n, word in enumerate(said)]
    found = run(tmp_path, "vl_rewardbench", "data.json", replies)
    expected = {
        "accuracy": (1 + 0.5 + 0 + 0.25) / 4,
        "hallucination/accuracy": 1.0,
        "macro": (1 + 0.5 + (0 + 0.25) / 2) / 3,
        "consistent": 1 / 3,  # of the three that could be read twice
        "first_preferred": 3 / 6,  # of the six without the tie: 1, -, 1, 1, -, -
        "longer_preferred": 4 / 6,  # the longer one is 0: yes, yes, yes, no, no, yes
        "unread": 1 / 8,
        "left_out": 0.0,
        "shorter_right": 2 / 4,
        "first_right": 2 / 4,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert "the shorter answer is right for 50.0% of the pairs" in printed
    # Of three pairs both replies count: 1 and 1, 1 and 0, 0.5 and 0. (0 + 0.5 + 0.125) / 3.
    assert "Of 3 answers that were judged more than once, replies differ by 0.456" in printed


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Better: 1", 0), ("**Better:** Answer 2", 1), ("better: tie", "tie"), ("Better: [[2]]", 1),
     ("Better: 1\nBetter: 2", None), ("Better: 12", None), ("1 is better", None), ("", None)],
)  # fmt: skip
def test_replies_to_our_words(reply: str, expected: int | str | None) -> None:
    if expected is None:
        with pytest.raises(UnreadableError):
            read_better(reply)
    else:
        assert read_better(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("**Overall Judgment**: Answer 1 is better.", 0),
        ("Therefore,\nAnswer 2 is the slightly better one", 1),
        ("Overall Judgment - Answer 3 is better", 2),
        ("Answer 1 is better", NO_MATCH),
        ("Overall Judgment: Answer 1 wins", NO_MATCH),
    ],
)
def test_the_published_verdict(reply: str, expected: int | str) -> None:
    assert read_reply(VlRewardbenchOptions(Path("x"), "official"), {}, 0, reply) == expected


@pytest.mark.parametrize(
    ("said", "right"),
    [
        # Better is 0. Shown first: 0, 1, 0. Places 0, 1, 1 choose 0, 0, 1: two agree.
        ([0, 1, 1], 1.0),
        ([1, 0, 0], 0.0),
        ([0, NO_MATCH, 0], 1.0),  # two of three agree
        ([0, 0, NO_MATCH], None),  # one of three agrees, and one does not
        ([2, 2, 1], 1.0),  # a place that there is not agrees
        ([0, None, None], None),
    ],
)
def test_the_published_majority(said: list[Any], right: float | None) -> None:
    assert by_majority({"expected": 0}, said, [0, 1, 0])["right"] == right
    assert by_majority({"expected": 0}, [0, 0], [0, 1])["right"] is None  # a draw


def test_the_published_rule_of_vl_rewardbench(tmp_path: Path) -> None:
    vl_rewardbench(tmp_path)
    told = [(id, "Overall Judgment: Answer 3 is better") for id in VL[:3]] + [(VL[3], "No.")]
    found = run(tmp_path, "vl_rewardbench", "data.json", told, "--rule", "official", "--times", "1")
    assert (found["accuracy"], found["left_out"], found["macro"]) == (1.0, 1 / 4, 1.0)


def test_replies_by_the_published_rule_say_which_answer_was_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answer 1 (the second of the file) was shown first; better is answer 0, 1, 0, 1."""
    vl_rewardbench(tmp_path)
    told = [(id, "Overall Judgment: Answer 1 is better") for id in VL]
    for seed in ("0", "1", "2"):
        more = ("--rule", "official", "--times", "1", "--seed", seed)
        found = run(tmp_path, "vl_rewardbench", "data.json", told, *more)
        assert found["accuracy"] == 2 / 4
        shutil.rmtree(tmp_path / "out")
    (tmp_path / "replies.jsonl").write_text(json.dumps({"question_id": VL[0], "reply": "x"}))
    words = ["eval", "vl_rewardbench", "--files", str(tmp_path / "data.json"), "--replies",
             str(tmp_path / "replies.jsonl"), "--out", str(tmp_path / "out"), *more]  # fmt: skip
    assert main(words) == 2
    assert 'row 1: needs "first", 0 or 1' in capsys.readouterr().err


def test_multimodal_rewardbench(tmp_path: Path) -> None:
    """Official: A, B right; neither: Python's coin of seed 123 says A (0.05), which is wrong."""
    multimodal_rewardbench(tmp_path)
    replies = [("pairs_1", "[[B]] or [[A]]"), ("math_1", "[[B]]"), ("x", "Hm")]
    found = run(tmp_path, "multimodal_rewardbench", "pairs.json", replies, "--rule", "official")
    assert random.Random(123).random() < 0.5
    expected = {
        "accuracy": 2 / 3,
        "safety/bias/accuracy": 1.0,
        "vqa/accuracy": 0.0,
        "unread": 1 / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    both = [(id, f"Better: {n}") for n in (1, 2) for id in ("pairs_1", "math_1", "x")]
    found = run(tmp_path, "multimodal_rewardbench", "pairs.json", both)
    # The file's first answer in both orders: right for one of three.
    assert (found["accuracy"], found["first_preferred"]) == pytest.approx((1 / 3, 1 / 2))


@pytest.mark.parametrize(
    ("category", "id", "expected"),
    [("safety", "PAIRS_1", "safety/bias"), ("safety", "x", "safety/toxicity"),
     ("reasoning", "Math1", "reasoning/math"), ("reasoning", "x", "reasoning/coding"),
     ("vqa", "x", "vqa")],
)  # fmt: skip
def test_categories(category: str, id: str, expected: str) -> None:
    assert category_of(category, id) == expected


def test_a_local_judge_sees_the_image(tmp_path: Path) -> None:
    vl_rewardbench(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "1.png")
    words = ["eval", "vl_rewardbench", "--files", str(tmp_path / "data.json"), "--judge",
             "local:embedded", "--images", str(tmp_path), "--judge-tokens", "2", "--attempts", "1",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    assert len(read_jsonl(tmp_path / "out" / "replies.jsonl")) == 8
    assert read_json(tmp_path / "out" / "scores.json")["scores"]["unread"]["value"] == 1.0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model", "embedded", "--replies", "x"], "Leave the model and --answers out"),
        (["--judge", "local:embedded"], "--images must name"),
        (["--judge", "local:embedded", "--images", "{folder}"], "lacks 1 of 1 images"),
        (["--judge", "local:embedded", "--rule", "official"], "by --judge-prompt"),
        ([], "judged by a model"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vl_rewardbench(tmp_path)
    words = ["eval", "vl_rewardbench", "--files", str(tmp_path / "data.json"), "--out",
             str(tmp_path / "out"), *(word.format(folder=tmp_path) for word in more)]  # fmt: skip
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [({"response": ["x"]}, "response must be"), ({"human_ranking": [0, 0]}, "human_ranking must"),
     ({"id": 1}, "id must be a text")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    vl_rewardbench(tmp_path)
    rows = read_json(tmp_path / "data.json")
    rows[1] |= change
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"row 2: {told}"):
        read_vl_rewardbench(tmp_path / "data.json")
    multimodal_rewardbench(tmp_path)
    rows = read_json(tmp_path / "pairs.json")
    (tmp_path / "pairs.json").write_text(json.dumps([{**rows[0], "Better": "A"}]))
    with pytest.raises(UserError, match="Better must be"):
        read_multimodal_rewardbench(tmp_path / "pairs.json")


def test_the_published_vl_rewardbench() -> None:
    """749 pairs on hallucination, 318 on reasoning, 183 general; 1,245 times the first is better.

    "Prefer the shorter" is right for 56 % of the pairs on hallucination.
    """
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    pairs = read_vl_rewardbench(Path(data) / "benchmarks" / "vl_rewardbench" / "data.json")
    assert len({pair.question_id for pair in pairs}) == len(pairs) == 1250
    groups = Counter(pair.about["group"] for pair in pairs)
    assert groups == {"hallucination": 749, "reasoning": 318, "general": 183}
    assert Counter(pair.expected for pair in pairs) == {0: 1245, 1: 5}
    counts = [
        pair_counts({**pair.row, "looks": [], "right": None})
        for pair in pairs
        if pair.about["group"] == "hallucination"
    ]
    shorter = sum(one["shorter_right"] == 1 for one in counts)  # without ties in length
    assert shorter / 749 == pytest.approx(0.56, abs=0.005)
