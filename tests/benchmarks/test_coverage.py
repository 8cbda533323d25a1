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
import scipy

from veridical.scoring.statistics import paired, signs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
SETS, IMAGES = 200, 24
# Of 2,310 cells, fewer miss their target although no bound says that they have to.
LEFT = 105


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        module = loaded()
        patch.setattr(module, "AGAIN", 0)
        patch.setattr(module, "_areas", lambda *_: iter(()))
        patch.setattr(module, "_paired_bound", lambda *_: 0.0)
        yield module


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
    rows = rows_of(coverage)
    assert too_low(rows) == []
    assert np.mean([row.covered for row in rows]) > 95
    assert not any(row.contradicting for row in rows)
    # 5 % where enough images differ; and no more than is possible where they do not.
    found = [row.rejected for row in rows if row.rejected is not None and row.count > 8]
    assert len(found) > 30
    assert 3.5 < np.mean(found) < 5.7
    assert max(found) < 5 + 400 * np.sqrt(0.05 * 0.95 / SETS)
    few = [row for row in rows if row.rejected is not None and row.count < 3]
    assert all(row.rejected <= row.possible + 300 * np.sqrt(0.05 / SETS) for row in few)
    # What the page says of 4 in 5 of the cells, and of the few that are left.
    enough = [row.covered for row in rows if row.case and row.count > 8]
    assert np.mean(np.array(enough) > 99) < 0.1


@pytest.mark.parametrize(
    ("differing", "rate"), [(3, 0), (4, 2 / 16), (5, 2 / 32), (6, 6 / 64), (7, 12 / 128)]
)
def test_the_largest_rate_of_any_test_of_signs(
    coverage: ModuleType, differing: int, rate: float
) -> None:
    """Two-sided tests reject k pairs of 2^d patterns: 2 k / 2^d, half of which is below 0.05."""
    assert coverage.largest_rate(np.array([differing])) == pytest.approx([rate])


def test_equal_sums_are_rejected_together(coverage: ModuleType) -> None:
    """Of 64 patterns of six equal changes 2 have the largest sum, and 12 the next: 14 are too many.

    If one is larger than the others, its sign divides those 12: with the others' 5 against 1, it
    gives 2 patterns of each of their signs. The first 2 + 2 of 64 are below 0.1, then come 10 more.
    """
    alike, unlike = [1.0] * 6 + [0.0] * 4, [0.5] + [1.0] * 5 + [0.0] * 4
    found = coverage.largest_tied_rate(np.array([6.0, 6.0]), np.array([alike, unlike]))
    assert found == pytest.approx([2 / 64, 4 / 64])
    # Other numbers are as of any test: three are too few, and of nine there are many sums.
    few = np.array([3.0, 4.0, 9.0])
    found = coverage.largest_tied_rate(few, np.ones((3, 10)))
    assert found == pytest.approx(coverage.largest_rate(few))


def test_the_lowest_coverage_of_any_interval(coverage: ModuleType) -> None:
    """Values 0, 1, 2 with 90, 6 and 4 %: an interval may miss 6 and not 4, and not 10 together."""
    values = np.array([0.0] * 90 + [1.0] * 6 + [2.0] * 4)
    assert coverage.lowest_coverage(values) == pytest.approx(96)


def test_an_interval_that_holds_for_all_rates_misses_rare_events_hardly_ever(
    coverage: ModuleType,
) -> None:
    """100 images of one answer, 0.1 events expected: one or more come in 9.5 % of data sets.

    So one event must not exclude the truth. Two or more come in 0.5 %.
    """
    events = np.array([0.0] * 90 + [1.0] * 9 + [2.0])
    assert coverage.share_coverage(0.001, events, events, 100, 100) == pytest.approx(99)
    # 0.05 events expected: one or more come in 4.9 %, and may be missed, within the 7 %.
    assert coverage.share_coverage(0.0005, events, events, 100, 100) == pytest.approx(93)
    # 3 expected: none comes in 4.8 %. Were six answers an image alike, it would be more often.
    none = np.array([0.0] * 5 + [3.0] * 95)
    assert coverage.share_coverage(0.03, none, none, 100, 100) == pytest.approx(95)
    assert coverage.share_coverage(0.03, none, none, 100, 17) == pytest.approx(100)


def test_no_change_at_all_is_in_the_interval_of_a_few(coverage: ModuleType) -> None:
    """500 images: a true difference of d makes a p smaller by e^-d at most; 1 / 20 at 3.0."""
    none, equal = np.zeros(20), np.full(20, 0.5)
    for truth, covered in ((1.0, 100), (2.9, 100), (3.1, 93)):
        assert coverage.paired_coverage(truth, none, none, equal, 500) == pytest.approx(covered)
    # Three for the worse have a p of 1/8, which is 2.5 times 0.05: e^0.92.
    for truth, covered in ((0.8, 100), (1.0, 93)):
        found = coverage.paired_coverage(truth, none, none + 3, 1 - equal / 8, 500)
        assert found == pytest.approx(covered)
    # One for the worse has 1/2, ten times 0.05: e^2.3.
    for truth, covered in ((2.2, 100), (2.4, 93)):
        found = coverage.paired_coverage(truth, none, none + 1, 1 - equal / 2, 500)
        assert found == pytest.approx(covered)
    # Five for the better come in 0.4 %; that excludes one true change only if p is small.
    assert coverage.paired_coverage(1.0, none + 5, none, equal / 8, 500) == pytest.approx(100)
    assert coverage.paired_coverage(1.0, none + 5, none, equal / 32, 500) == pytest.approx(93)


def test_both_sides_of_an_interval_share_what_it_may_miss(coverage: ModuleType) -> None:
    """Truly 1.22 more of 500 images get better: is that unusual beside four better, none worse?

    So many or more come in 6.8 % where 1.25 get worse on average. But in another 0.3 % four or more
    get worse and p calls that real, which makes more than 7 %.
    """
    number, none = scipy.stats.poisson, np.zeros(20)
    above = number.sf(3, 1.22 + 1.25) * number.pmf(0, 1.25)
    below = number.pmf(0, 1.22 + 1.25) * number.sf(3, 1.25)
    assert above < 0.07 < above + below
    p_of_four = none + 0.041 / 2
    assert coverage.paired_coverage(1.22, none + 4, none, p_of_four, 500) == pytest.approx(100)
    assert coverage.paired_coverage(1.15, none + 4, none, p_of_four, 500) == pytest.approx(93)


def test_a_plain_test_shows_as_too_narrow(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student's interval of the same gains: the cells with few changes lose the truth."""

    def plain(value: Any, gains: Any, event: Any, differing: Any) -> Any:
        clusters = gains.shape[-1]
        variance = (gains**2).sum(axis=-1) - value**2 / clusters
        half = 2.07 * np.sqrt(variance * clusters / (clusters - 1))
        return signs.Test(value - half, value + half, signs.sign_p(gains))

    monkeypatch.setattr(paired, "sign_test", plain)
    monkeypatch.setattr(coverage, "WORLDS", {"CHAIR": coverage.WORLDS["CHAIR"]})
    assert len(too_low(rows_of(coverage))) > 3


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
    # No cell is outside of what the bounds allow by more than chance: else they would be wrong.
    error = 300 * np.sqrt(0.05 / 500)
    assert all(row.covered > row.attainable - error for row in rows)
    assert all(row.rejected < row.possible + error for row in rows if row.rejected is not None)
    # Cells that miss their target although no bound excludes it: see the page.
    assert sum(map(tables.too_wide, rows)) + sum(map(tables.too_rare, rows)) < LEFT
    tables.write_rows(rows, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text("utf-8") == coverage.CELLS.read_text("utf-8")
