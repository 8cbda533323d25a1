"""Metrics as formulas on sums over images, and those sums.

Several answers about one image are not independent, so the image is the unit that is counted. A
metric is a formula on *sums over images* (CHAIR_I is a ratio of two sums, F1 of sums of several).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = Mapping[str, FloatArray]
Formula: TypeAlias = Callable[[Sums], FloatArray]
Kind: TypeAlias = Literal["share", "mean", "correlation", "gap", "combination"]

LEVEL = 0.95


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """`numerator / denominator`, NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


@dataclass(frozen=True)
class Ratio:
    """A formula `top / bottom`, each a column or a sum of columns with weights."""

    top: str | Formula
    bottom: str | Formula

    def parts(self, sums: Sums) -> tuple[FloatArray, FloatArray]:
        """Numerator and denominator; both are linear in the sums."""
        top, bottom = (
            sums[part] if isinstance(part, str) else part(sums) for part in (self.top, self.bottom)
        )
        return top, bottom

    def __call__(self, sums: Sums) -> FloatArray:
        """The value; NaN where the denominator is 0."""
        return ratio(*self.parts(sums))


@dataclass(frozen=True)
class Metric:
    """A named formula on column sums.

    Attributes:
        name: what it is called in `scores.json`.
        formula: sums by column (any shape, the same for all) to values of that shape; NaN where
            it is undefined. Shares and means are a `Ratio`.
        unit: the column whose total is reported as `n`.
        kind: what the value is, which decides its interval: a `share` of items, a `mean` of
            numbers, a `correlation`, a `gap` (a sum of absolute differences, see `gap`), or a
            `combination` of shares, in [0, 1].
        limit: of a mean: a number that no row can pass, such as 0 for a loss.
        event: of a mean with a limit: how far from it a single rare row can lie.
        scale: of a mean of ratings: the lowest and the highest, which no interval goes beyond.
    """

    name: str
    formula: Formula
    unit: str
    kind: Kind = "share"
    limit: float | None = None
    event: float = 0.0
    scale: tuple[float, float] | None = None

    @property
    def most(self) -> float:
        """How far two models' values can be apart."""
        if self.scale is not None:
            return self.scale[1] - self.scale[0]
        if self.kind in ("share", "gap", "combination"):
            return 1.0
        return 2.0 if self.kind == "correlation" else float("inf")

    def __post_init__(self) -> None:
        if self.kind in ("share", "mean") and not isinstance(self.formula, Ratio):
            raise TypeError(
                f"Metric {self.name!r} is a {self.kind}, whose formula has to be a Ratio: its "
                "interval counts what the denominator counts."
            )


@dataclass(frozen=True)
class ClusterSums:
    """Per-cluster sums: `columns[name]` has one number for each of `clusters`."""

    clusters: tuple[Hashable, ...]
    columns: Mapping[str, FloatArray]


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


def totals(columns: Sums) -> dict[str, FloatArray]:
    """Every column's sum over clusters (its last axis)."""
    return {name: column.sum(axis=-1) for name, column in columns.items()}


def influence(formula: Formula, columns: Sums) -> FloatArray:
    """How much each cluster moves the value: (..., clusters), adding up to about 0.

    The sum of squares times clusters / (clusters - 1) estimates the value's variance. Exact for
    the linear part of a ratio; of any other formula it is the jackknife's.
    """
    whole = totals(columns)
    if isinstance(formula, Ratio):
        top, bottom = formula.parts(columns)
        share, size = formula(whole)[..., None], formula.parts(whole)[1][..., None]
        return ratio(top - share * bottom, size)
    clusters = next(iter(columns.values())).shape[-1]
    without = formula({name: whole[name][..., None] - column for name, column in columns.items()})
    moved: FloatArray = (without.mean(axis=-1, keepdims=True) - without) * (1 - 1 / clusters)
    return moved
