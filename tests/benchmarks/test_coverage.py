"""The simulation of docs/statistics.md, on a few hundred data sets of 24 images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import veridical.scoring.statistics.paired

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
SETS, IMAGES = 200, 24


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows_of(coverage: ModuleType) -> list[Any]:
    return list(coverage.simulate(SETS, (IMAGES,), large=30_000))


def too_low(rows: list[Any]) -> list[Any]:
    """Cells that hold the truth in less than 93 % by more than three standard errors."""
    return [row for row in rows if row.covered < 93 - 300 * np.sqrt(0.93 * 0.07 / SETS)]


def test_intervals_hold_the_truth_and_p_is_honest(coverage: ModuleType) -> None:
    rows = [row for row in rows_of(coverage) if row.metric != "auc"]
    assert too_low(rows) == []
    assert np.mean([row.covered for row in rows]) > 95
    anew = [row.rejected for row in rows if row.case == coverage.CASES[0]]
    assert 1 < np.mean(anew) < 5
    assert max(anew) < 5 + 300 * np.sqrt(0.05 * 0.95 / SETS)


def test_without_the_two_added_changes_it_shows(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = veridical.scoring.statistics.paired.test_of

    def plain(value: Any, moved: Any, event: Any, differing: Any) -> Any:
        clusters = moved.shape[-1]
        variance = (moved**2).sum(axis=-1) * clusters / (clusters - 1)
        half = 2.07 * np.sqrt(variance)
        return veridical.scoring.statistics.paired.Test(
            value - half, value + half, own(value, moved, event, differing).p
        )

    monkeypatch.setattr(veridical.scoring.statistics.paired, "test_of", plain)
    assert len(too_low(rows_of(coverage))) > 20
