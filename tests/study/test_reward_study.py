"""The study of reward models: its table by hand, and a small one from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from veridical.runtime.files import read_json
from veridical.study import reward_study
from veridical.study.reward_study import QUESTIONS, RewardBudget, rewards_table, summarize_rewards
from veridical.world.wrong_facts import WRONG_KINDS


def row(seed: int, asked: str, facts: bool, accuracy: float) -> dict[str, Any]:
    names = ("accuracy", *(f"kind={kind}/accuracy" for kind in WRONG_KINDS))
    scores = {name: {"value": accuracy} for name in names}
    return {"seed": seed, "facts": facts, "asked": asked, "scores": scores}


def test_the_table_has_means_and_ranges() -> None:
    rows = [row(0, "wrong", True, 0.9), row(1, "wrong", True, 0.8), row(0, "wrong", False, 0.7)]
    lines = rewards_table({"rows": rows}).splitlines()
    assert lines[2].startswith("| wrong | 85.0% (80.0 to 90.0) | 70.0% (70.0 to 70.0) |")
    assert lines[3].startswith("| - object | 85.0%")
    about_wrong = sum(question.data.startswith("wrong") for question in QUESTIONS)
    assert len(lines) == 2 + len(QUESTIONS) + 4 * about_wrong


def test_questions_have_folders_of_their_own() -> None:
    assert len({question.folder for question in QUESTIONS}) == len(QUESTIONS)
    assert not any(" " in question.folder or "," in question.folder for question in QUESTIONS)


def test_the_page_says_what_was_measured() -> None:
    """Every accuracy of the committed study that the page's first table shows, as it is shown."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "rewards.md").read_text(encoding="utf-8")
    lines = rewards_table(read_json(docs / "rewards" / "summary.json")).splitlines()
    cells = [line.split(" | ")[1:] for line in lines[2:]]
    named = {"wrong": "one wrong fact", "samples": "own samples", "bdhs": "BDHS pairs"}
    for line, values in zip(lines[2:], cells, strict=True):
        label = line[2:].split(" | ")[0]
        if label in named:
            assert f"| {named[label]} | {' | '.join(values)}" in page


@pytest.mark.slow
def test_a_small_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Every reward model is asked every question that is its; run again, nothing is made again."""
    budget = RewardBudget(scenes=24, steps=2, batch=4, evaluated=4, sampled=24)
    # Its defaults, not the class: jobs are pickled by the name of its class.
    small = tuple(getattr(budget, field.name) for field in dataclasses.fields(RewardBudget))
    monkeypatch.setattr(RewardBudget.__init__, "__defaults__", small)
    out = tmp_path / "study"
    reward_study.reward_study(out, seeds=1, workers=1)
    summary = read_json(out / "summary.json")
    asked = {(row["facts"], row["asked"]) for row in summary["rows"]}
    assert asked == {(facts, question.name) for question in QUESTIONS for facts in question.asks}
    assert "| wrong | " in capsys.readouterr().out
    before = (out / "seed0-facts/train/model/model.safetensors").stat().st_mtime_ns
    reward_study.reward_study(out, seeds=1, workers=1)
    after = (out / "seed0-facts/train/model/model.safetensors").stat().st_mtime_ns
    assert before == after
    assert summarize_rewards(out, range(1), budget) == summary
