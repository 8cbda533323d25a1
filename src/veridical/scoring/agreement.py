"""How far people agree who label the same things: Cohen's kappa and Krippendorff's alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veridical.runtime.randomness import generator

DRAWS = 2000
"""Bootstrap samples of the labeled things (our choice)."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its 95 % interval: 1 is full agreement, 0 what chance gives.

    Attributes:
        value: None where it is not defined: nothing in common, or one label alone was given.
        low: None where too few things were labeled twice for an interval.
        high: as `low`.
        same: share of the pairs of labels that are the same.
        units: things that were labeled by at least two.
    """

    value: float | None
    low: float | None
    high: float | None
    same: float | None
    units: int


def krippendorff_alpha(labels: Sequence[Sequence[str | None]], seed: int = 0) -> Agreement:
    """Krippendorff's alpha for nominal labels (Krippendorff 2011, "Computing ...", section C).

    Args:
        labels: for each thing, the label of each annotator; None where there is none.
        seed: of the bootstrap.
    """
    return _agreement(labels, _alphas, seed)


def cohen_kappa(labels: Sequence[tuple[str | None, str | None]], seed: int = 0) -> Agreement:
    """Cohen's kappa of two annotators (Cohen 1960, equation 1), on what both have labeled.

    Args:
        labels: for each thing, the two labels; None where there is none.
        seed: of the bootstrap.
    """
    names = sorted({label for two in labels for label in two if label is not None})
    places = {name: place for place, name in enumerate(names)}
    both = [(one, other) for one, other in labels if one is not None and other is not None]
    first, second = np.zeros((len(both), len(names))), np.zeros((len(both), len(names)))
    for row, (one, other) in enumerate(both):
        first[row, places[one]] = 1
        second[row, places[other]] = 1
    agrees = (first * second).sum(axis=1)

    def kappas(weights: Matrix) -> Matrix:
        total = weights.sum(axis=1)
        observed = weights @ agrees / total
        chance = ((weights @ first) * (weights @ second)).sum(axis=1) / total**2
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Matrix = (observed - chance) / (1 - chance)
        return found

    return _bootstrapped(len(both), float(agrees.mean()) if both else None, kappas, seed)


def _agreement(
    labels: Sequence[Sequence[str | None]],
    statistic: Callable[[Matrix, Matrix], Matrix],
    seed: int,
) -> Agreement:
    names = sorted({label for row in labels for label in row if label is not None})
    places = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(labels), len(names)))
    for row, own in enumerate(labels):
        for label in own:
            if label is not None:
                counts[row, places[label]] += 1
    counts = counts[counts.sum(axis=1) > 1]
    given = counts.sum(axis=1)
    pairs = float((given * (given - 1)).sum())
    same = float((counts * (counts - 1)).sum()) / pairs if pairs else None
    return _bootstrapped(len(counts), same, lambda weights: statistic(counts, weights), seed)


def _alphas(counts: Matrix, weights: Matrix) -> Matrix:
    """Alpha for each row of weights of the things; counts of labels by thing and label."""
    given = counts.sum(axis=1)
    differing = (counts * (given[:, None] - counts)).sum(axis=1) / (given - 1)
    totals = weights @ counts
    number = totals.sum(axis=1)
    expected = (totals * (number[:, None] - totals)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = 1 - (number - 1) * (weights @ differing) / expected
    return found


def _bootstrapped(
    units: int, same: float | None, statistic: Callable[[Matrix], Matrix], seed: int
) -> Agreement:
    """A statistic of weights of things, and its percentile interval over drawn weights."""
    if not units:
        return Agreement(None, None, None, same, 0)
    value = float(statistic(np.ones((1, units)))[0])
    if not np.isfinite(value):
        return Agreement(None, None, None, same, units)
    if units < 2:
        return Agreement(value, None, None, same, units)
    chance = generator(seed, "agreement")
    values: list[Matrix] = []
    for _ in range(0, DRAWS, 200):  # bounds the memory of many things
        weights = chance.multinomial(units, np.full(units, 1 / units), size=200)
        values.append(statistic(weights.astype(np.float64)))
    drawn = np.concatenate(values)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < DRAWS / 2:
        return Agreement(value, None, None, same, units)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Agreement(value, float(low), float(high), same, units)
