"""The simulation of docs/statistics.md, on a few hundred data sets of 24 images."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import veridical.scoring.statistics.paired

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
SETS, IMAGES = 200, 24


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield loaded()


def loaded() -> ModuleType:
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
    assert not any(row.contradicting for row in rows)
    anew = [row.rejected for row in rows if row.case == coverage.ANEW]
    assert len(anew) > 50
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


def test_the_page_shows_the_cells_that_are_kept(coverage: ModuleType, tmp_path: Path) -> None:
    tables = importlib.import_module("coverage_tables")
    page = tmp_path / "statistics.md"
    page.write_text(coverage.PAGE.read_text("utf-8"), "utf-8")
    rows = tables.read_rows()
    tables.write_page(rows, page)
    assert page.read_text("utf-8") == coverage.PAGE.read_text("utf-8")
    # What the page says of all cells: none too low, and no interval beside a p that denies it.
    assert min(row.covered for row in rows) >= 93
    assert not any(row.contradicting for row in rows)
    tables.write_rows(rows, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text("utf-8") == coverage.CELLS.read_text("utf-8")
