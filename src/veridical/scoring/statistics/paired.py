"""Two models' values on the same images, compared image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np
import scipy

from veridical.runtime.errors import UserError
from veridical.runtime.run_files import DifferenceNumbers
from veridical.scoring.statistics.signs import Test, least_p, sign_test
from veridical.scoring.statistics.single import ONE_CLUSTER, usual_event
from veridical.scoring.statistics.sums import (
    LEVEL,
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    influence,
    ratio,
    totals,
)

METHOD = "sign flips by image, mid-p, inverted"
ENUMERATED = 12
"""Wilcoxon's test goes through all signs of so many changes, and is approximate for more."""
DIGITS = 9
"""Mean ratings that differ by less are equal."""


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline, paired by cluster: interval and p come from one test.

    `differing` counts the clusters in which the two are not the same; `wilcoxon_p` is beside p
    where the metric is a mean of ratings (see `signed_ranks`).
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    arm_value: float | None
    baseline_value: float | None
    clusters: int
    note: str = ""
    differing: int | None = None
    method: str = ""
    wilcoxon_p: float | None = None

    def as_json(self) -> DifferenceNumbers:
        """The numbers as a JSON object; what has nothing to say is left out."""
        optional = ("note", "method", "differing", "wilcoxon_p")
        row = {k: item for k, item in asdict(self).items() if k not in optional or item}
        return cast(DifferenceNumbers, row)


def compare(
    arm: ClusterSums, baseline: ClusterSums, metrics: Sequence[Metric]
) -> dict[str, Difference]:
    """Arm minus baseline for every metric, paired by cluster.

    The interval holds every difference that the test does not reject at 5 %, and p is the test's
    for no difference; so the interval leaves 0 out exactly where p is below 0.05.

    Raises:
        UserError: the two do not cover the same clusters.
    """
    baseline = in_order_of(arm, baseline)
    if not arm.clusters:
        nothing = Difference(None, None, None, None, None, None, 0, "no rows")
        return {metric.name: nothing for metric in metrics}
    return {metric.name: _compare(metric, arm.columns, baseline.columns) for metric in metrics}


def _compare(metric: Metric, ours: Sums, theirs: Sums) -> Difference:
    clusters = len(next(iter(ours.values())))
    ours_now, theirs_now = (
        None if np.isnan(value) else float(value)
        for value in (metric.formula(totals(columns)) for columns in (ours, theirs))
    )
    if ours_now is None or theirs_now is None:
        note = "undefined: a denominator is 0"
        return Difference(None, None, None, None, ours_now, theirs_now, clusters, note)
    value = ours_now - theirs_now
    differing = int(np.count_nonzero(differs(metric, ours, theirs)))
    if clusters < 2:
        return Difference(
            value, None, None, None, ours_now, theirs_now, clusters, ONE_CLUSTER, differing
        )
    found = paired_test(metric, ours, theirs)
    change = as_difference(found, ours_now, theirs_now, clusters, differing)
    return (
        replace(change, wilcoxon_p=signed_ranks(metric, ours, theirs)) if metric.scale else change
    )


def signed_ranks(metric: Metric, ours: Sums, theirs: Sums) -> float | None:
    """Wilcoxon's two-sided p for ratings: by the ranks of changes, not by their sizes.

    Ratings are ordered, but a step from 5 to 6 need not be as long as one from 2 to 3. The mean
    rating of each cluster is paired; clusters that do not change are left out (Wilcoxon 1945).
    Exact over all signs where few clusters change, else by the normal approximation.

    Args:
        metric: a mean, whose formula is a `Ratio`.
        ours: sums of the arm.
        theirs: sums of the baseline, in the same order.

    Returns:
        None where no cluster with ratings on both sides changes.
    """
    changes = metric.formula(ours) - metric.formula(theirs)
    changes = np.round(changes[~np.isnan(changes)], DIGITS)
    changes = changes[changes != 0]
    if not len(changes):
        return None
    if len(changes) > ENUMERATED:
        return float(scipy.stats.wilcoxon(changes, method="approx").pvalue)
    # SciPy enumerates ties too, but takes most of a second for it.
    ranks = scipy.stats.rankdata(np.abs(changes))
    patterns = (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks))) & 1
    off = np.abs(patterns @ ranks - ranks.sum() / 2)
    observed = abs(ranks[changes > 0].sum() - ranks.sum() / 2)
    return float(np.mean(off >= observed - 1e-9))


def as_difference(
    test: Test, ours: float, theirs: float, clusters: int, differing: int
) -> Difference:
    """The numbers of one test, with a note where they say little."""
    low, high, p = (float(number) for number in (test.low, test.high, test.p))
    if np.isnan(low):
        note = "no interval: the rows do not vary"
        return Difference(
            ours - theirs, None, None, None, ours, theirs, clusters, note, differing, METHOD
        )
    note = ""
    if float(least_p(np.array(float(differing)), clusters)) >= 1 - LEVEL:
        images = "image differs" if differing == 1 else "images differ"
        note = f"{differing or 'no'} {images}: too few to tell the two apart"
    return Difference(ours - theirs, low, high, p, ours, theirs, clusters, note, differing, METHOD)


def paired_test(metric: Metric, ours: Sums, theirs: Sums) -> Test:
    """The test of a metric's difference, of columns (..., clusters) with two clusters or more."""
    value = metric.formula(totals(ours)) - metric.formula(totals(theirs))
    moved = influence(metric.formula, ours), influence(metric.formula, theirs)
    clusters = moved[0].shape[-1]
    event = usual_event(np.concatenate(moved, axis=-1))
    if metric.kind in ("share", "combination"):
        sizes = [_items(metric, totals(columns)) for columns in (ours, theirs)]
        item = (ratio(np.ones(()), sizes[0]) + ratio(np.ones(()), sizes[1])) / 2
        image = item * np.maximum((sizes[0] + sizes[1]) / 2 / clusters, 1.0)
        event = np.where(event > 0, np.maximum(event, item), image)
    differing = differs(metric, ours, theirs).sum(axis=-1)
    found = sign_test(value, gains(metric, ours, theirs), event, differing)
    # A rule that takes any number for a rating may give values beyond the scale.
    most = np.maximum(metric.most, np.abs(value))
    return Test(np.maximum(found.low, -most), np.minimum(found.high, most), found.p)


def _items(metric: Metric, whole: Sums) -> FloatArray:
    """How many items a share counts, and a combination of shares in all."""
    formula = metric.formula
    return formula.parts(whole)[1] if isinstance(formula, Ratio) else whole[metric.unit]


def gains(metric: Metric, ours: Sums, theirs: Sums) -> FloatArray:
    """What each cluster adds to the difference, (..., clusters).

    Swapping the two models on one cluster flips its sign and changes nothing else, because what
    both models say together stays. Of a ratio, the sum is the difference itself.
    """
    formula = metric.formula
    if not isinstance(formula, Ratio):
        middle = {name: (ours[name] + theirs[name]).sum(-1, keepdims=True) / 2 for name in ours}
        sides = [
            formula({name: middle[name] + sign * (ours[name] - theirs[name]) for name in ours})
            for sign in (0.5, -0.5)
        ]
        return np.nan_to_num(sides[0] - sides[1])
    (top, bottom), (other_top, other_bottom) = formula.parts(ours), formula.parts(theirs)
    size, other_size = (part.sum(axis=-1, keepdims=True) for part in (bottom, other_bottom))
    together = ratio((top + other_top).sum(axis=-1, keepdims=True), size + other_size)
    scale = ratio(2 * size * other_size, size + other_size)
    return ratio(top - other_top - together * (bottom - other_bottom), scale)


def differs(metric: Metric, ours: Sums, theirs: Sums) -> FloatArray:
    """Whether a cluster is not the same on both sides."""
    if isinstance(metric.formula, Ratio):
        sides = zip(metric.formula.parts(ours), metric.formula.parts(theirs), strict=True)
        pairs = list(sides)
    else:
        pairs = [(ours[name], theirs[name]) for name in ours]
    differs: FloatArray = np.any([np.abs(one - other) > 1e-12 for one, other in pairs], axis=0)
    return differs


def in_order_of(arm: ClusterSums, baseline: ClusterSums) -> ClusterSums:
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
