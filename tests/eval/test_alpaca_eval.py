"""AlpacaEval: published annotations, a judge in both orders, and its scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from published_files import alpaca_eval

from veridical.cli import main
from veridical.runtime.files import read_json


def values(folder: Path) -> dict[str, Any]:
    scores = read_json(folder / "out" / "scores.json")["scores"]
    return {name: row["value"] for name, row in scores.items()}


def test_a_judge_sees_both_orders(tmp_path: Path) -> None:
    """Instruction 0: the answer (2, then 1) wins both; 1: the first answer wins twice, so half."""
    alpaca_eval(tmp_path)
    said = [{"instruction": f"Do {n}.", "output": "12345", "generator": "x"} for n in (1, 0)]
    (tmp_path / "outputs.json").write_text(json.dumps(said))
    replies = [("0", "2"), ("0", "1"), ("1", "1"), ("1", "1")]
    lines = [json.dumps({"question_id": id, "reply": f"Better: {n}"}) + "\n" for id, n in replies]
    (tmp_path / "replies.jsonl").write_text("".join(lines))
    words = ["eval", "alpaca_eval", "--files", str(tmp_path / "baseline.json"), "--answers",
             str(tmp_path / "outputs.json"), "--replies", str(tmp_path / "replies.jsonl"),
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    expected = {"win_rate": 1.5 / 2, "discrete_win_rate": 1.5 / 2, "length": 5, "unread": 0,
                "baseline_length": 7}  # fmt: skip
    assert values(tmp_path) == pytest.approx(expected)
    # The replies give 1 and 1, 0 and 1: (0 + 0.5) / 2 is their variance.
    about = read_json(tmp_path / "out" / "scores.json")["about"]
    assert about["judge/disagreement"] == pytest.approx(0.5)


def test_annotations(tmp_path: Path) -> None:
    """Preferences 2, 1, 0 (none: half) and 1.25; null counts in no win rate."""
    rows = [{"preference": value, "output_1": "abc", "output_2": "ab"} for value in (2, 1, 0, 1.25, None)]  # noqa: E501  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    words = ["eval", "alpaca_eval", "--preferences", str(tmp_path / "annotations.json"), "--out",
             str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    expected = {"win_rate": (1 + 0 + 0.5 + 0.25) / 4, "discrete_win_rate": 1.5 / 4, "length": 2,
                "baseline_length": 3, "unread": 1 / 5}  # fmt: skip
    assert values(tmp_path) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "win_rate", "error"),
    [
        ("v1_vicuna-13b", 70.43478260869566, 1.6069688407799696),
        ("v2_vicuna-13b-v1.5", 6.722122014857143, 0.7674173990955542),
        ("v2_gpt4_gamed", 3.7383373713788814, 0.6278799633668313),
    ],
)
def test_the_published_leaderboards(
    tmp_path: Path, name: str, win_rate: float, error: float
) -> None:
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    path = Path(data) / "benchmarks" / "alpaca_eval" / f"{name}.jsonl"
    words = ["eval", "alpaca_eval", "--preferences", str(path), "--rule", "official", "--out",
             str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    about = read_json(tmp_path / "out" / "scores.json")["about"]
    assert about["printed/win_rate"] == pytest.approx(win_rate, abs=1e-9)
    assert about["printed/standard_error"] == pytest.approx(error, abs=1e-9)
    assert 100 * values(tmp_path)["win_rate"] == pytest.approx(win_rate, abs=1e-9)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "Give either --files"),
        (["--length-controlled", "true"], "df_gamed.csv"),
        (["--files", "{baseline}", "--answers", "x", "--rule", "official", "--replies", "x"],
         "log-probabilities"),
        (["--files", "{baseline}", "--answers", "x"], "judged by a model"),
        (["--preferences", "{baseline}"], "row 1: preference must be a number"),
        (["--preferences", "{half}"], "row 1: preference must be a number from 1 to 2, or 0"),
        (["--preferences", "{baseline}", "--model", "embedded"], "Leave the model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    alpaca_eval(tmp_path)
    half = tmp_path / "half.json"
    half.write_text(json.dumps([{"preference": 0.5}]))
    given = [word.format(baseline=tmp_path / "baseline.json", half=half) for word in more]
    if not given or "--length-controlled" in given:
        (tmp_path / "answers.json").write_text("[]")
        given += ["--answers", str(tmp_path / "answers.json"), "--replies", "x"]
    assert main(["eval", "alpaca_eval", "--out", str(tmp_path / "out"), *given]) == 2
    assert told in capsys.readouterr().err
