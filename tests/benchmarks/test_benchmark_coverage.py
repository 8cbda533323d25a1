"""The simulation of the benchmarks' metrics, on 150 data sets of 50 clusters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from veridical.scoring.statistics import paired

FOLDER = Path(__file__).parents[2] / "benchmarks"
SETS = 150
# Three standard errors below 93 %.
LOWEST = 93 - 300 * np.sqrt(0.93 * 0.07 / SETS)


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import benchmark_coverage

        yield benchmark_coverage
        sys.modules.pop("benchmark_coverage", None)


def cells_of(coverage: ModuleType) -> list[Any]:
    return list(coverage.simulate(SETS, (50,), large=40_000))


def too_low(cells: list[Any]) -> list[Any]:
    return [c for c in cells if min(c.covered, c.difference, c.equal) < LOWEST]


def test_intervals_of_every_benchmark_hold_the_truth(coverage: ModuleType) -> None:
    cells = cells_of(coverage)
    assert too_low(cells) == []
    assert 3 < np.mean([cell.rejected for cell in cells]) < 6
    ranked = [cell for cell in cells if cell.wilcoxon is not None]
    assert {cell.benchmark for cell in ranked} == {
        "mmhal", "mt_bench", "llava_bench", "hallusionbench",
    }  # fmt: skip
    assert 2 < np.mean([cell.wilcoxon for cell in ranked]) < 8
    lines = coverage.table(cells)
    assert len(lines) == 2 + len(coverage.WORLDS) and lines[2].startswith("| mmhal | 50 | ")
    assert any(line.startswith("mmhal unread, 50: ") for line in coverage.outside(cells))


def test_narrower_intervals_are_seen(coverage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*given: Any) -> Any:
        found = paired.paired_test(*given)
        middle, reach = (found.low + found.high) / 2, (found.high - found.low) / 4
        return type(found)(middle - reach, middle + reach, found.p)

    monkeypatch.setattr(coverage, "paired_test", half)
    monkeypatch.setattr(coverage, "WORLDS", {"mmvet": coverage.WORLDS["mmvet"]})
    assert too_low(cells_of(coverage))
