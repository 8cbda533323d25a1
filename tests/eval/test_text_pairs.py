"""Pairs of texts without an image: against the stock forward and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veridical.cli import main
from veridical.data.messages import assistant_message, user_message
from veridical.eval.benchmark import differences, score_rows
from veridical.eval.scores import read_scores
from veridical.eval.text_pairs import BENCHMARK
from veridical.models.load import load_policy
from veridical.models.measures import logps_measure
from veridical.models.rendering import render_group
from veridical.runtime.files import read_json, read_jsonl, write_jsonl

ROWS = [
    {"id": "a", "type": "order", "prompt": "Describe the image.",
     "good": "There is a red cup at the top.", "bad": "There is a cup red at the top."},
    {"id": "b", "type": "article", "prompt": "What is in this picture?",
     "good": "This is a park. There is an orange tree on the left.",
     "bad": "This is a park. There is a orange tree on the left."},
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    return tmp_path / "pairs.jsonl"


def test_log_probabilities_are_those_of_the_stock_forward(files: Path, tmp_path: Path) -> None:
    words = ["eval", "text_pairs", "embedded", "--files", str(files), "--shard", "1/2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    measure = logps_measure(load_policy("embedded"))
    found = read_jsonl(tmp_path / "out" / "answers.jsonl")
    for own, row in zip(ROWS, found, strict=True):
        said = [[assistant_message(own[name])] for name in ("good", "bad")]
        asked = [user_message(own["prompt"], images=0)]
        group = render_group(load_policy("embedded"), "x", [], asked, said)
        stock = [float(sum_) for sum_ in measure.stock(group)]
        assert [row["good_logp"], row["bad_logp"]] == pytest.approx(stock, abs=1e-3)
        assert row["answer"] == ""  # nothing was generated
    assert read_scores(tmp_path / "out")["accuracy"]["value"] == 1.0


def test_the_second_shard_leaves_it_to_the_first(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever comes first, the run ends finished, with its table."""
    for shards in (("1/2", "2/2"), ("2/2", "1/2")):
        out = tmp_path / shards[0][0]
        words = ["eval", "embedded", "--benchmarks", "text_pairs", "--out", str(out), "--options",
                 f"text_pairs.files={files}"]  # fmt: skip
        for shard in shards:
            assert main([*words, "--shard", shard]) == 0
        assert "shard 1/2 measures all of this" in capsys.readouterr().out
        for folder in (out, out / "text_pairs"):
            assert read_json(folder / "run.json")["status"] == "finished"
        assert (out / "table.md").is_file()


def judged(id: str, good: float, bad: float, kind: str = "order") -> dict[str, Any]:
    return {"image_id": id, "question_id": id, "question": "", "expected": "", "bad": "",
            "type": kind, "good_logp": good, "bad_logp": bad, "tokens": 4}  # fmt: skip


def test_scores_by_hand() -> None:
    """Right, wrong and equal: 1.5 of 3. Nats: 12 of 12 tokens, later 2 + 3 + 4 = 9."""
    rows = [judged("a", -2, -3), judged("b", -6, -5, "article"), judged("c", -4, -4)]
    scores = score_rows(BENCHMARK, rows)
    assert scores["accuracy"].value == 0.5 and scores["nats"].value == 1.0
    assert scores["order/accuracy"].value == 0.75 and scores["article/accuracy"].value == 0.0
    assert "order/nats" not in scores
    later = [rows[0], judged("b", -3, -5, "article"), rows[2]]
    changes = differences(BENCHMARK, later, rows)
    assert changes["nats"].value == pytest.approx(-0.25)
    assert changes["accuracy"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1]], "must be an object with id, type"),
        ([{**ROWS[0], "good": 1}], "row 1: good must be a text"),
        ([{**ROWS[0], "bad": ROWS[0]["good"]}], "row 1: good and bad must be two different"),
        ([{**ROWS[0], "bad": " "}], "two different texts"),
        ([ROWS[0], ROWS[0]], "row 2: the id a is there twice"),
    ],
)
def test_what_is_no_file_of_pairs(
    rows: list[Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["eval", "text_pairs", "embedded", "--files", str(tmp_path / "pairs.jsonl")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_answers_made_elsewhere_say_nothing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "text_pairs", "--answers", str(files), "--files", str(files)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "needs a model" in capsys.readouterr().err
