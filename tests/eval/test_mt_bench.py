"""MT-Bench: its files, both turns, both rules of reading ratings, and its scores."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from published_files import mt_bench

from veridical.cli import main
from veridical.eval import answers
from veridical.eval.grading import Grading
from veridical.eval.mt_bench import (
    OWN,
    MtBenchOptions,
    ask_judge,
    read_mt_bench,
    read_reply,
)
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl


@pytest.fixture
def files(tmp_path: Path) -> Path:
    mt_bench(tmp_path)
    said = [
        {"question_id": n, "choices": [{"index": 0, "turns": [f"One {n}.", f"Two {n}."]}]}
        for n in (81, 111)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    return tmp_path


def words(files: Path, *more: str) -> list[str]:
    return ["eval", "mt_bench", "--files", str(files / "question.jsonl"), "--references",
            str(files / "references.json"), "--out", str(files / "out"), *more]  # fmt: skip


def run(files: Path, replies: list[tuple[str, str]], *more: str) -> dict[str, Any]:
    lines = [json.dumps({"question_id": id, "reply": text}) + "\n" for id, text in replies]
    (files / "replies.jsonl").write_text("".join(lines))
    given = ["--answers", str(files / "answers.jsonl"), "--replies", str(files / "replies.jsonl")]
    assert main(words(files, *given, *more)) == 0
    scores = read_json(files / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


REPLIES = [("81/1", "Good. [[8]]"), ("81/2", "[[4]] or [[6]]"), ("111/1", "[7]"), ("111/2", "?")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("corrected", {"score": 8, "unread": 3 / 4, "turn_1": 8, "turn_2": None, "writing": 8}),
        # The first of two ratings, and one in single brackets: (8 + 4 + 7) / 3.
        ("official", {"score": 19 / 3, "unread": 1 / 4, "turn_1": 7.5, "turn_2": 4, "math": 7}),
    ],
)
def test_both_rules(files: Path, rule: str, expected: dict[str, float | None]) -> None:
    found = run(files, REPLIES, "--rule", rule)
    named = {n if n in ("score", "unread") else f"{n}/score": v for n, v in expected.items()}
    assert {name: found[name] for name in named} == pytest.approx(named)


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [("[[10]]", 10, 10), ("[[ 5 ]]", None, 5), ("[[7.5]]", 7.5, 7.5), ("[[0]]", 0, None),
     ("[[11]]", 11, None), ("[6]", 6, None), ("[[5]] so [[5]]", 5, 5), ("5", None, None)],
)  # fmt: skip
def test_what_a_reply_says(reply: str, official: float | None, corrected: float | None) -> None:
    for rule, expected in (("official", official), ("corrected", corrected)):
        options = MtBenchOptions(Path("x"), rule=rule)  # type: ignore[arg-type]
        if expected is None:
            with pytest.raises(UnreadableError):
                read_reply(options, {}, 0, reply)
        else:
            assert read_reply(options, {}, 0, reply) == expected


def test_the_judge_sees_both_turns_and_the_references(files: Path) -> None:
    published = [
        {"name": name, "system_prompt": "S.",
         "prompt_template": "{question}{question_1}|{ref_answer_1}|{answer}{answer_2}"}
        for name in OWN
    ]  # fmt: skip
    (files / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in published))
    options = MtBenchOptions(
        files / "question.jsonl", files / "references.json", files / "prompts.jsonl"
    )
    rows = [{**q.row, "answer": f"A{q.about['turn']}"} for q in options.questions]
    rows[3] |= {"history": [["Q1?", "A1"]]}
    evaluation: Any = Grading()
    (first,) = ask_judge(options, evaluation, rows[2])
    assert first.text == "S.\n\nFirst 111?{question_1}|Reference one.|A1{answer_2}"
    (second,) = ask_judge(options, evaluation, rows[3])
    assert second.text == "S.\n\n{question}Q1?|Reference one.|{answer}A2"
    own = MtBenchOptions(files / "question.jsonl", files / "references.json")
    (text,) = (asked.text for asked in ask_judge(own, evaluation, rows[3]))
    assert "Reference two." in text and "[[5]]" in text and "{" not in text
    (files / "prompts.jsonl").write_text(json.dumps(published[0]) + "\n")
    with pytest.raises(UserError, match="no prompt single-math-v1"):
        _ = MtBenchOptions(files / "q", judge_prompts=files / "prompts.jsonl").words


def test_the_second_question_follows_the_models_own_answer(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an interrupted run asks only what is missing, without a warning."""
    told = ["--judge", "local:embedded", "--judge-tokens", "2", "--attempts", "1",
            "--max-new-tokens", "4", "--model", "embedded"]  # fmt: skip
    assert main(words(files, *told)) == 0
    rows = {row["question_id"]: row for row in read_jsonl(files / "out" / "answers.jsonl")}
    assert list(rows) == ["81/1", "111/1", "81/2", "111/2"]
    assert rows["81/2"]["history"] == [[rows["81/1"]["question"], rows["81/1"]["answer"]]]
    asked: list[str] = []
    ask = answers._ask

    def spy(queries: Any, *more: Any) -> Any:
        asked.extend(query.id for query in queries)
        return ask(queries, *more)

    monkeypatch.setattr(answers, "_ask", spy)
    capsys.readouterr()
    assert main(words(files, *told)) == 0
    assert asked == [] and "which this run replaces" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "told"),
    [({"turns": ["x"]}, "turns, a list of two"), ({"category": 1}, "category must be a text")],
)
def test_another_file_is_refused(files: Path, row: dict[str, Any], told: str) -> None:
    first = read_jsonl(files / "question.jsonl")[0]
    (files / "question.jsonl").write_text(json.dumps(first | row) + "\n")
    with pytest.raises(UserError, match=told):
        read_mt_bench(files / "question.jsonl", None)


def test_the_published_files() -> None:
    """80 questions of two turns, ten of each category; 30 have two reference answers."""
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    folder = Path(data) / "benchmarks" / "mt_bench"
    questions = read_mt_bench(folder / "question.jsonl", folder / "reference_answer_gpt-4.jsonl")
    counts = Counter(question.about["category"] for question in questions)
    assert set(counts.values()) == {20} and len(counts) == 8
    assert sum(len(question.expected) == 2 for question in questions) == 60
