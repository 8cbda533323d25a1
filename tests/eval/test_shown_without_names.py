"""Judged benchmarks of published files are compared and reported like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_files import mmhal, vl_rewardbench

from veridical.cli import main
from veridical.runtime.files import read_json


def judged(folder: Path, name: str, file: str, replies: list[tuple[str, str]], out: str) -> Path:
    lines = [json.dumps({"question_id": id, "reply": text}) + "\n" for id, text in replies]
    (folder / f"{out}.jsonl").write_text("".join(lines))
    words = ["eval", name, "--files", str(folder / file), "--replies", str(folder / f"{out}.jsonl"),
             "--out", str(folder / out)]  # fmt: skip
    if name == "mmhal":
        answers = [json.dumps({"question_id": str(n), "answer": "x"}) + "\n" for n in range(3)]
        (folder / "answers.jsonl").write_text("".join(answers))
        words += ["--answers", str(folder / "answers.jsonl")]
    assert main(words) == 0
    return folder / out


@pytest.mark.parametrize("name", ["mmhal", "vl_rewardbench"])
def test_two_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MMHal: ratings 5, 4, 3 and then 5, 1, unread: means 4 and 3. Pairs: all right, then half."""
    if name == "mmhal":
        mmhal(tmp_path)
        sides = [[(str(n), text) for n, text in enumerate(said)] for said in (
            ["Rating: 5", "Rating: 4", "Rating: 3"], ["Rating: 5", "Rating: 1", "?"])]  # fmt: skip
        file, metric, values, told = "template.json", "score", (4.0, 3.0), "in no score"
    else:
        vl_rewardbench(tmp_path)
        ids = ("RLHF-V-1", "mathverse_1", "wildvision-1", "wildvision-1#2")
        right = [(id, f"Better: {1 + (n + k) % 2}") for n, id in enumerate(ids) for k in (0, 1)]
        sides = [right, [(id, "Better: 1") for id, _ in right]]
        file, metric, values, told = "data.json", "accuracy", (1.0, 0.5), ""
    folders = [judged(tmp_path, name, file, said, f"run{n}") for n, said in enumerate(sides)]
    both = tmp_path / "both"
    assert main(["eval", "compare", *map(str, folders), "--out", str(both)]) == 0
    rows = {row["metric"]: row for row in read_json(both / "comparison.json")["differences"]}
    assert (rows[metric]["baseline_value"], rows[metric]["arm_value"]) == pytest.approx(values)
    assert told in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert main(["report", *map(str, folders), str(both), "--out", str(page)]) == 0
    shown = page.read_text(encoding="utf-8")
    assert {"mmhal": "MMHal-Bench", "vl_rewardbench": "VL-RewardBench"}[name] in shown
    assert {"mmhal": "Mean rating, 0 to 6", "vl_rewardbench": "Pairs judged correctly"}[
        name
    ] in shown
