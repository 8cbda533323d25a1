"""Intervals and paired tests for scores whose rows come in clusters.

Several answers about one image are not independent, so the image is the unit that is drawn. A
metric is a formula on *sums over clusters* (CHAIR_I is a ratio of two sums, F1 a function of
three), so a resample is one matrix product of counts and per-cluster sums, and all metrics of a
benchmark share the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from veridical.errors import UserError
from veridical.randomness import generator

FloatArray: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = Mapping[str, FloatArray]
Formula: TypeAlias = Callable[[Sums], FloatArray]

RESAMPLES = 10_000
LEVEL = 0.95
# Values that differ by less are ties: sums of the same numbers in another order.
TIE = 1e-12
# 16 MB of counts at a time, whatever the number of clusters.
CHUNK_ENTRIES = 2_000_000


@dataclass(frozen=True)
class Metric:
    """A named formula on column sums.

    Attributes:
        name: what it is called in `scores.json`.
        formula: sums by column (any shape, the same for all) to values of that shape; NaN where
            it is undefined.
        unit: the column whose total is reported as `n`.
        fraction: the value is a share of at most 1 (a share of exactly 0 or 1 gets an exact
            binomial interval, see `estimate`).
    """

    name: str
    formula: Formula
    unit: str
    fraction: bool = True


@dataclass(frozen=True)
class ClusterSums:
    """Per-cluster sums: `columns[name]` has one number for each of `clusters`."""

    clusters: tuple[Hashable, ...]
    columns: Mapping[str, FloatArray]

    def matrix(self) -> FloatArray:
        """All columns side by side: (clusters, columns)."""
        return np.column_stack([self.columns[name] for name in self.columns])


NO_WIDTH = "every resample gives this value, so the interval does not say how sure it is"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where the data do not define it, and `note` why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row of `scores.json`; the note is left out when there is nothing to say."""
        return {key: item for key, item in asdict(self).items() if key != "note" or item}


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline, paired by cluster: interval by bootstrap, p by permutation."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    arm_value: float | None
    baseline_value: float | None
    clusters: int
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The numbers as a JSON object; the note is left out when there is nothing to say."""
        return {key: item for key, item in asdict(self).items() if key != "note" or item}


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """`numerator / denominator`, NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def sum_by_cluster(rows: Iterable[tuple[Hashable, Mapping[str, float]]]) -> ClusterSums:
    """Add up rows `(cluster, {column: number})`; every row has the same columns."""
    totals: dict[Hashable, dict[str, float]] = {}
    for cluster, numbers in rows:
        total = totals.setdefault(cluster, dict.fromkeys(numbers, 0.0))
        for name, number in numbers.items():
            total[name] += number
    names = list(next(iter(totals.values()))) if totals else []
    columns = {
        name: np.array([total[name] for total in totals.values()], dtype=np.float64)
        for name in names
    }
    return ClusterSums(tuple(totals), columns)


def estimate(
    sums: ClusterSums, metrics: Sequence[Metric], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Values with 95 % bootstrap intervals over clusters (bias-corrected and accelerated).

    A value that the data leave undefined (0/0) is None with a note, as is an interval from a
    single cluster. A share of exactly 0 or 1, which every resample repeats, gets the exact
    (Clopper-Pearson) binomial interval of that many clusters instead of one of zero width: our
    choice, since ten right answers out of ten do not prove that the next is right.

    Args:
        sums: what is added up, by cluster.
        metrics: the formulas to evaluate.
        seed: of the resamples.
        resamples: how many.
    """
    if not sums.clusters:
        return {metric.name: Estimate(None, None, None, 0, 0, "no rows") for metric in metrics}
    matrix, names = sums.matrix(), list(sums.columns)
    total = matrix.sum(axis=0)
    drawn = _resampled_sums(matrix, seed, resamples) if len(matrix) > 1 else None
    jackknife = total - matrix
    result = {}
    for metric in metrics:
        value = _evaluate(metric, names, total[None])[0]
        low, high, note = None, None, ""
        if np.isnan(value):
            note = "undefined: its denominator is 0"
        elif drawn is None:
            note = "one cluster: an interval needs at least two"
        else:
            low, high, note = _interval(
                float(value),
                _evaluate(metric, names, drawn),
                _evaluate(metric, names, jackknife),
            )
            if metric.fraction and low == high and value in (0.0, 1.0):
                low, high = _exact_interval(round(value * len(matrix)), len(matrix))
                note = "exact binomial interval: every cluster has the same value"
        n = round(float(total[names.index(metric.unit)]))
        result[metric.name] = Estimate(_number(value), low, high, n, len(matrix), note)
    return result


def compare(
    arm: ClusterSums,
    baseline: ClusterSums,
    metrics: Sequence[Metric],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Arm minus baseline for every metric, paired by cluster.

    The interval is a bootstrap in which both models keep the same draw of clusters; p is the
    two-sided share of relabellings (the two models' rows swapped, cluster by cluster) with a
    difference at least as large: all of them when there are at most `resamples`, else that
    many drawn ones, with the observed one counted.

    Raises:
        UserError: the two do not cover the same clusters.
    """
    baseline = _in_order_of(arm, baseline)
    if not arm.clusters:
        nothing = Difference(None, None, None, None, None, None, 0, "no rows")
        return {metric.name: nothing for metric in metrics}
    names = list(arm.columns)
    ours, theirs = arm.matrix(), baseline.matrix()
    count, width = ours.shape
    drawn = _resampled_sums(np.hstack([ours, theirs]), seed, resamples) if count > 1 else None
    swapped = _swapped_sums(ours, theirs, seed, resamples)
    jackknife = np.hstack([ours.sum(axis=0) - ours, theirs.sum(axis=0) - theirs])
    observed = np.hstack([ours.sum(axis=0), theirs.sum(axis=0)])[None]
    result = {}
    for metric in metrics:

        def both(sums: FloatArray, metric: Metric = metric) -> tuple[FloatArray, FloatArray]:
            sides = sums[:, :width], sums[:, width:]
            return _evaluate(metric, names, sides[0]), _evaluate(metric, names, sides[1])

        ours_now, theirs_now = (_number(side[0]) for side in both(observed))
        if ours_now is None or theirs_now is None:
            note = "undefined: a denominator is 0"
            result[metric.name] = Difference(
                None, None, None, None, ours_now, theirs_now, count, note
            )
            continue
        value = ours_now - theirs_now
        low, high, note = None, None, "one cluster: an interval needs at least two"
        if drawn is not None:
            low, high, note = _interval(value, _minus(both(drawn)), _minus(both(jackknife)))
        p = _p_value(value, _minus(both(swapped)), exact=2**count <= resamples)
        result[metric.name] = Difference(value, low, high, p, ours_now, theirs_now, count, note)
    return result


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _minus(sides: tuple[FloatArray, FloatArray]) -> FloatArray:
    return sides[0] - sides[1]


def _in_order_of(arm: ClusterSums, baseline: ClusterSums) -> ClusterSums:
    """`baseline` with its clusters in `arm`'s order."""
    places = {cluster: place for place, cluster in enumerate(baseline.clusters)}
    alone = set(arm.clusters) ^ set(baseline.clusters)
    if alone:
        some = ", ".join(sorted(map(str, alone))[:5])
        raise UserError(
            f"A paired comparison needs the same images on both sides, but {len(alone)} are on "
            f"one side only ({some}). Evaluate both models on the same set."
        )
    order = [places[cluster] for cluster in arm.clusters]
    columns = {name: baseline.columns[name][order] for name in arm.columns}
    return ClusterSums(arm.clusters, columns)


def _evaluate(metric: Metric, names: list[str], sums: FloatArray) -> FloatArray:
    """(rows, columns) sums to (rows,) values."""
    return metric.formula({name: sums[:, place] for place, name in enumerate(names)})


def _resampled_sums(matrix: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Column sums of `resamples` draws of clusters with replacement: (resamples, columns)."""
    random = generator(seed, "bootstrap")
    clusters = len(matrix)
    parts = []
    for rows in _chunks(resamples, clusters):
        picks = random.integers(0, clusters, size=(rows, clusters), dtype=np.int32)
        flat = (picks + np.arange(rows, dtype=np.int64)[:, None] * clusters).ravel()
        counts = np.bincount(flat, minlength=rows * clusters).reshape(rows, clusters)
        parts.append(counts.astype(np.float64) @ matrix)
    return np.concatenate(parts)


def _swapped_sums(ours: FloatArray, theirs: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Sums of both sides after swapping some clusters: (relabellings, 2 x columns)."""
    clusters = len(ours)
    gain = theirs - ours
    total, other = ours.sum(axis=0), theirs.sum(axis=0)
    if 2**clusters <= resamples:
        bits = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        moved = [bits.astype(np.float64) @ gain]
    else:
        random = generator(seed, "permutation")
        moved = [
            random.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(np.float64) @ gain
            for rows in _chunks(resamples, clusters)
        ]
    change = np.concatenate(moved)
    return np.hstack([total + change, other - change])


def _chunks(resamples: int, clusters: int) -> list[int]:
    """Numbers of resamples that fit in memory together and add up to `resamples`."""
    size = max(1, CHUNK_ENTRIES // clusters)
    whole, rest = divmod(resamples, size)
    return [size] * whole + ([rest] if rest else [])


def _interval(
    value: float, drawn: FloatArray, jackknife: FloatArray
) -> tuple[float | None, float | None, str]:
    """The BCa interval (Efron 1987) from resampled values; undefined resamples are left out."""
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    note = f"undefined in {lost} of {len(drawn)} resamples, which are left out" if lost else ""
    if len(defined) < len(drawn) / 2:
        return None, None, note
    below = np.mean(defined < value - TIE)
    tied = np.mean(np.abs(defined - value) <= TIE)
    if tied == 1.0:
        return value, value, note or NO_WIDTH
    rank = np.clip(below + tied / 2, 0.5 / len(defined), 1 - 0.5 / len(defined))
    bias = norm.ppf(rank)
    ends = norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shifted = bias + ends
    shares = norm.cdf(bias + shifted / (1 - _acceleration(jackknife) * shifted))
    low, high = np.quantile(defined, shares)
    return float(low), float(high), note


def _acceleration(jackknife: FloatArray) -> float:
    """Skewness of the leave-one-out values over six, 0 where it cannot be had."""
    if np.isnan(jackknife).any():
        return 0.0
    centred = jackknife.mean() - jackknife
    spread = float((centred**2).sum())
    return 0.0 if spread <= TIE**2 else float((centred**3).sum()) / (6 * spread**1.5)


def _exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval."""
    found = binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def _p_value(value: float, relabelled: FloatArray, exact: bool) -> float:
    """Two-sided share of relabellings with a difference of at least `value`'s size."""
    defined = relabelled[~np.isnan(relabelled)]
    extreme = int(np.count_nonzero(np.abs(defined) >= abs(value) - TIE))
    return extreme / len(defined) if exact else (extreme + 1) / (len(defined) + 1)
