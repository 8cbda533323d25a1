"""Two evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluating import eval_chair, eval_pope
from PIL import Image

from veridical.eval.benchmark import find_benchmark
from veridical.eval.compare import compare_runs, eval_compare
from veridical.eval.comparison_tables import alignment_tax
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json, write_jsonl


def _chair(
    folder: Path, name: str, answers: Sequence[str], objects: Mapping[str, Sequence[str]]
) -> Path:
    rows = [{"image_id": str(i), "answer": answer} for i, answer in enumerate(answers)]
    write_jsonl(folder / f"{name}.jsonl", rows)
    write_json(folder / f"{name}.json", objects)
    out = folder / name / "chair"
    eval_chair(folder / f"{name}.json", out, answers=folder / f"{name}.jsonl")
    return out


OBJECTS = {str(i): ["dog"] for i in range(6)}
GOOD = ["A dog."] * 6
BAD = ["A dog and a cat."] * 5 + ["A dog."]


def test_chair_by_hand(tmp_path: Path) -> None:
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    better = _chair(tmp_path, "bdhs", GOOD, OBJECTS)
    rows: dict[str, Any] = {
        row["metric"]: row for row in eval_compare(base, better, tmp_path / "out")
    }
    names = ["chair_i", "chair_s", "recall", "mean_length", "exact_score", "empty"]
    assert list(rows) == names
    # 0/6 against 5/11 mentions.
    found = rows["chair_i"]
    assert (found["arm"], found["baseline"]) == ("bdhs", "base")
    assert found["value"] == pytest.approx(-5 / 11)
    assert (found["arm_value"], found["baseline_value"]) == (0.0, pytest.approx(5 / 11))
    assert found["low"] < -5 / 11 < found["high"] < 0
    # Five of six images differ, all to one side: as five coins that fall alike, 2 (1/2)^5; of
    # these, which are as unusual as what was seen, half counts.
    assert rows["chair_s"]["p"] == pytest.approx(0.0625 / 2)
    assert rows["chair_s"]["low"] < -5 / 6 < rows["chair_s"]["high"] < 0
    assert "note" not in rows["chair_s"]
    assert rows["recall"]["p"] == 1.0
    assert rows["recall"]["note"].startswith("no images differ")
    written = read_json(tmp_path / "out" / "comparison.json")
    assert written["differences"] == list(rows.values())
    assert read_json(tmp_path / "out" / "run.json")["status"] == "finished"


def test_other_images_or_lists_are_refused(tmp_path: Path) -> None:
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    fewer = _chair(tmp_path, "fewer", GOOD[:4], OBJECTS)
    with pytest.raises(UserError, match=r"In one of the two evaluations only: 2 images \(4, 5\)"):
        compare_runs(base, fewer)
    other = _chair(tmp_path, "other", GOOD, {**OBJECTS, "3": ["dog", "cat"]})
    with pytest.raises(UserError, match="different object lists"):
        compare_runs(base, other)


def _pope(folder: Path, name: str, answers: Sequence[str], split: str = "random") -> Path:
    questions = [
        {
            "question_id": i,
            "image": f"{i // 2}.jpg",
            "text": "Is there a dog in the image?",
            "label": "yes",
            "split": split,
        }
        for i in range(len(answers))
    ]
    write_jsonl(folder / f"{name}-q.jsonl", questions)
    rows = [{"question_id": i, "answer": answer} for i, answer in enumerate(answers)]
    write_jsonl(folder / f"{name}-a.jsonl", rows)
    out = folder / name / "pope"
    eval_pope(out, questions=[folder / f"{name}-q.jsonl"], answers=[folder / f"{name}-a.jsonl"])
    return out


def test_pope_by_split(tmp_path: Path) -> None:
    base = _pope(tmp_path, "base", ["Yes", "No", "No", "No"])
    better = _pope(tmp_path, "bdhs", ["Yes", "Yes", "Yes", "No"])
    rows: dict[str, Any] = {row["metric"]: row for row in compare_runs(base, better)}
    assert rows["accuracy"]["value"] == pytest.approx(0.5)
    assert rows["random/accuracy"]["value"] == pytest.approx(0.5)
    # Two images, each with one more right: too few to say anything, and it is said.
    assert rows["accuracy"]["p"] > 0.05
    assert rows["accuracy"]["low"] < 0 < rows["accuracy"]["high"]
    assert rows["accuracy"]["note"] == "2 images differ: too few to tell the two apart"
    assert rows["accuracy"]["clusters"] == 2
    assert rows["precision"]["value"] == 0.0


def test_other_questions_and_other_benchmarks_are_refused(tmp_path: Path) -> None:
    base = _pope(tmp_path, "base", ["Yes", "No"])
    with pytest.raises(UserError, match="different questions"):
        compare_runs(base, _pope(tmp_path, "other", ["Yes", "No"], "popular"))
    with pytest.raises(UserError, match="different benchmarks"):
        compare_runs(base, _chair(tmp_path, "chair", GOOD, OBJECTS))
    with pytest.raises(UserError, match="not an evaluation"):
        compare_runs(base, tmp_path)


def test_settings_that_differ_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    better = _chair(tmp_path, "bdhs", GOOD, OBJECTS)
    record = read_json(better / "run.json")
    record["configuration"] |= {"prompt": "Describe.", "shard": "2/8"}
    write_json(better / "run.json", record)
    eval_compare(base, better, tmp_path / "out")
    said = capsys.readouterr().out
    assert "Note: prompt differs" in said
    assert "shard" not in said  # who made an answer changes none


def test_rows_beside_a_run_that_failed_are_not_compared(tmp_path: Path) -> None:
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    better = _chair(tmp_path, "bdhs", GOOD, OBJECTS)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="none"):
        eval_chair(tmp_path / "base.json", better, model=str(tmp_path / "none"), images=tmp_path)
    with pytest.raises(UserError, match=r"can't be compared: the last run there failed"):
        compare_runs(base, better)


def test_several_arms_are_corrected_by_holm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two arms: the smaller p is doubled, the larger one is not below it."""
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    arms = [
        _chair(tmp_path, "good", GOOD, OBJECTS),
        _chair(tmp_path, "half", GOOD[:3] + BAD[3:], OBJECTS),
    ]
    rows = eval_compare(base, arms[0], tmp_path / "out", also=[arms[1]])
    found: dict[str, Any] = {row["arm"]: row for row in rows if row["metric"] == "chair_s"}
    assert list(found) == ["good", "half"]
    assert found["good"]["p_holm"] == pytest.approx(2 * found["good"]["p"])
    assert found["half"]["p_holm"] == max(found["half"]["p"], found["good"]["p_holm"])
    tax = read_json(tmp_path / "out" / "comparison.json")["tax"]
    assert [row["metric"] for row in tax] == ["chair_i"] * 2
    assert {row["arm"]: row["verdict"] for row in tax}["half"] == "noise"
    assert (
        "p (Holm)" in capsys.readouterr().out
        and "p (Holm)" in (tmp_path / "out" / "differences.md").read_text()
    )
    assert r"\toprule" in (tmp_path / "out" / "tax.tex").read_text()
    with pytest.raises(UserError, match="is given twice"):
        eval_compare(base, arms[0], tmp_path / "out", also=[arms[0]])


def test_wins_losses_and_noise() -> None:
    """Of three headlines p is .001, .03 and .03: Holm leaves .003, .06 and .06."""
    benchmarks = [find_benchmark(name) for name in ("chair", "pope", "mmvet")]
    rows: list[Any] = [
        {"benchmark": one.name, "metric": one.description.headline, "arm": "a", "value": value,
         "p": p}
        for one, value, p in zip(benchmarks, (-0.1, 0.1, 0.1), (0.001, 0.03, 0.03), strict=True)
    ]  # fmt: skip
    assert [row["verdict"] for row in alignment_tax(rows, benchmarks)] == ["win", "noise", "noise"]
    rows[0]["value"] = 0.1  # more hallucination
    assert alignment_tax(rows, benchmarks)[0]["verdict"] == "loss"


def test_seeds_are_one_arm(tmp_path: Path) -> None:
    base = _chair(tmp_path, "base", BAD, OBJECTS)
    seeds = [_chair(tmp_path, f"seed{n}", GOOD[:n] + BAD[n:], OBJECTS) for n in (3, 4, 5)]
    rows = eval_compare(base, seeds[0], tmp_path / "out", also=seeds[1:], seeds=True)
    found: Any = {row["metric"]: row for row in rows}["chair_s"]
    # Of six descriptions 2, 1 and 0 are wrong; the baseline has 5.
    assert found["arm"] == "seed3 and 2 more seeds" and found["seeds"] == 3
    assert found["value"] == pytest.approx(1 / 6 - 5 / 6) and found["low"] < found["high"] < 0
    with pytest.raises(UserError, match="needs more folders of the same arm"):
        eval_compare(base, seeds[0], tmp_path / "out", seeds=True)
