"""The committed evidence: the README quotes what was found, and the yardstick is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veridical.runtime.files import read_json
from veridical.study.evidence import evidence_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    content: dict[str, Any] = read_json(ROOT / "docs" / "evidence" / "summary.json")
    return content


def changes(
    summary: dict[str, Any], arm: str, metric: str, benchmark: str = "chair"
) -> dict[int, dict[str, Any]]:
    return {
        row["seed"]: row
        for row in summary["differences"]
        if (row["arm"], row["baseline"]) == (arm, "base")
        and (row["benchmark"], row["metric"]) == (benchmark, metric)
    }


def test_the_readme_quotes_the_evidence(summary: dict[str, Any]) -> None:
    assert evidence_table(summary) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_bdhs_lowers_hallucination_at_every_seed(summary: dict[str, Any]) -> None:
    bdhs, sft = changes(summary, "bdhs", "chair_i"), changes(summary, "sft", "chair_i")
    assert set(bdhs) == {0, 1, 2}
    for seed, row in bdhs.items():
        assert row["high"] < 0
        assert row["value"] <= -0.2 * row["baseline_value"]
        assert row["value"] < sft[seed]["value"]


def test_nothing_else_is_lost(summary: dict[str, Any]) -> None:
    for row in changes(summary, "bdhs", "recall").values():
        assert row["value"] >= -0.01
    for row in changes(summary, "bdhs", "mean_length").values():
        assert abs(row["value"]) <= 0.05 * row["baseline_value"]
    for row in changes(summary, "bdhs", "accuracy", "pope").values():
        assert row["low"] > -0.02
