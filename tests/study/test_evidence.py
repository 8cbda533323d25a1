"""The committed evidence: the README quotes what was found, and the yardstick is held."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from veridical.runtime.files import read_json

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


@pytest.mark.parametrize(
    ("page", "figures"),
    [("README.md", "evidence"), ("docs/methods.md", "methods")],
)
def test_a_page_quotes_what_was_found(page: str, figures: str) -> None:
    """Each arm's mean over seeds, and each seed's change with its interval, in one line."""
    found = read_json(ROOT / "docs" / figures / "summary.json")
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    for name in dict.fromkeys(arm["name"] for arm in found["arms"]):
        own = [arm["scores"]["chair"]["chair_i"]["value"] for arm in found["arms"]
               if arm["name"] == name]  # fmt: skip
        rows = changes(found, name, "chair_i").values()
        shown = "; ".join(
            f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            for row in rows
        )
        cells = f"| {100 * fmean(own):.1f}% | {shown} |"
        assert any(cells in line for line in lines), (name, cells)


def test_the_page_of_reward_models_quotes_what_was_found() -> None:
    """The mean over seeds and the range, with facts and without."""
    rows = read_json(ROOT / "docs" / "rewards" / "summary.json")["rows"]
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    named = {"wrong": "one wrong fact", "samples": "own samples", "bdhs": "BDHS pairs"}
    for asked, label in named.items():
        cells = []
        for facts in (True, False):
            own = [100 * row["scores"]["accuracy"]["value"] for row in rows
                   if (row["asked"], row["facts"]) == (asked, facts)]  # fmt: skip
            cells.append(f"{fmean(own):.1f}% ({min(own):.1f} to {max(own):.1f})")
        assert f"| {label} | {' | '.join(cells)}" in page


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
