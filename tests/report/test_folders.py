"""Whose a part of a run is, told by its folders."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veridical.report.folders import find_parts
from veridical.report.results import collect_results
from veridical.runtime.descriptions import BenchmarkDescription
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_json
from veridical.scoring.object_scores import CHAIR, POPE

SCORE = {"value": 0.9, "low": 0.8, "high": 1.0, "clusters": 9}


def scored(folder: Path, benchmark: BenchmarkDescription) -> None:
    folder.mkdir(parents=True)
    scores = {benchmark.headline: SCORE}
    content = {"benchmark": benchmark.as_json(), "scores": scores, "about": {}}
    write_json(folder / "scores.json", content)


def test_benchmarks_of_one_arm_share_its_name(tmp_path: Path) -> None:
    scored(tmp_path / "eval" / "bdhs" / "chair", CHAIR)
    scored(tmp_path / "eval" / "bdhs" / "pope", POPE)
    found = collect_results(find_parts([tmp_path]))
    assert found.arms == ["bdhs"]
    assert set(found.values) == {("bdhs", "chair/chair_i"), ("bdhs", "pope/accuracy")}


@pytest.mark.parametrize("file", ["pairs.parquet", "log.jsonl"])
def test_a_folder_below_runs_has_its_own_name(tmp_path: Path, file: str) -> None:
    for name in ("pairs", "train"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).touch()
    found = find_parts([tmp_path / "runs" / "pairs", tmp_path / "runs" / "train"])
    assert [part.name for part in found] == ["pairs", "train"]


def test_without_a_comparison_the_arm_that_was_trained_from_is_the_baseline(tmp_path: Path) -> None:
    """A chain: `first` is trained from the model and `second` from `first`; both are evaluated."""
    models = {"untrained": "base-model"}
    for arm, start in (("first", "base-model"), ("second", str(tmp_path / "train/first/model"))):
        folder = tmp_path / "train" / arm
        (folder / "model").mkdir(parents=True)
        (folder / "log.jsonl").touch()
        write_json(folder / "run.json", {"configuration": {"model": start}, "status": "finished"})
        models[arm] = str(folder / "model")
    for arm in ("first", "second", "untrained"):
        scored(tmp_path / "eval" / arm / "chair", CHAIR)
        record = {"configuration": {"model": models[arm]}, "status": "finished"}
        write_json(tmp_path / "eval" / arm / "chair" / "run.json", record)
    found = collect_results(find_parts([tmp_path]))
    assert (found.arms[0], found.baseline) == ("first", "untrained")


def test_arms_of_two_experiments_are_not_one(tmp_path: Path) -> None:
    for experiment in ("one", "other"):
        scored(tmp_path / experiment / "bdhs" / "chair", CHAIR)
        scored(tmp_path / experiment / "bdhs" / "pope", POPE)
    found = collect_results(find_parts([tmp_path / "one" / "bdhs", tmp_path / "other" / "bdhs"]))
    assert found.arms == ["one/bdhs", "other/bdhs"]
    assert all(len(values) == 1 for values in found.values.values())


def test_folders_that_say_nothing_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    scored(tmp_path / "x" / "eval", CHAIR)
    scored(tmp_path / "x" / "eval" / "chair", CHAIR)
    found = collect_results(find_parts([tmp_path / "x"]))
    assert sorted(found.arms) == ["chair", "eval"]


def test_a_comparison_of_rows_that_were_replaced_since_is_refused(tmp_path: Path) -> None:
    read = tmp_path / "answers.jsonl"
    read.write_text("one")
    for role in ("base", "arm"):
        scored(tmp_path / "x" / role, POPE)
    row = {
        "benchmark": "pope",
        "metric": "accuracy",
        "arm": "arm",
        "baseline": "base",
        "value": 0.0,
    }
    (tmp_path / "x" / "c").mkdir()
    write_json(
        tmp_path / "x" / "c" / "comparison.json",
        {"benchmarks": [POPE.as_json()], "differences": [row]},
    )
    inputs = {"candidate": {"path": str(read), "sha256": hash_file(read)}}
    write_json(tmp_path / "x" / "c" / "run.json", {"inputs": inputs})
    assert collect_results(find_parts([tmp_path / "x"])).changes
    read.write_text("another")
    with pytest.raises(UserError, match="replaced since"):
        collect_results(find_parts([tmp_path / "x"]))


def test_scores_beside_a_run_that_failed_are_not_shown(tmp_path: Path) -> None:
    scored(tmp_path / "x" / "arm", POPE)
    write_json(tmp_path / "x" / "arm" / "run.json", {"status": "failed", "reason": "no model"})
    assert not collect_results(find_parts([tmp_path / "x"])).arms


@pytest.mark.parametrize("content", [["arms"], {"arms": 3}, 7])
def test_a_summary_of_another_program_stops_no_report(tmp_path: Path, content: object) -> None:
    scored(tmp_path / "x" / "eval", CHAIR)
    (tmp_path / "x" / "theirs").mkdir()
    write_json(tmp_path / "x" / "theirs" / "summary.json", content)
    assert [part.kind for part in find_parts([tmp_path / "x"])] == ["eval"]


def test_files_of_other_programs_without_a_record_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(tmp_path / "x" / "eval", CHAIR)
    theirs = tmp_path / "x" / "theirs"
    foreign = {"scores.json": [1, 2], "comparison.json": {"a": 1}}
    for name, content in foreign.items():
        (theirs / name[:4]).mkdir(parents=True)
        write_json(theirs / name[:4] / name, content)
    (theirs / "log").mkdir()
    (theirs / "log" / "log.jsonl").write_text('{"level": "info", "message": "begun"}\n')
    (theirs / "broken").mkdir()
    (theirs / "broken" / "scores.json").write_text("{")
    (theirs / "pairs").mkdir()
    pq.write_table(pa.table({"prompt": ["What?"]}), theirs / "pairs" / "pairs.parquet")
    assert [part.kind for part in find_parts([tmp_path / "x"])] == ["eval"]
    said = capsys.readouterr().out
    assert said.count("is left out of the report: it has no run.json, and ") == 5
    # With a record it is a run's, and may not have been changed.
    write_json(theirs / "scor" / "run.json", {})
    with pytest.raises(UserError, match=r"scores\.json: "):
        collect_results(find_parts([tmp_path / "x"]))
