"""Several comparisons at once: Holm's correction, and one arm trained with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from scipy import optimize, stats

from veridical.scoring.statistics.paired import Difference, gains, in_order_of
from veridical.scoring.statistics.single import ONE_CLUSTER
from veridical.scoring.statistics.sums import LEVEL, ClusterSums, FloatArray, Metric, totals

METHOD = "mean over seeds, variances of seeds and images, t"
LEAST_P = 1e-12
"""No smaller p is computed."""
ONE_SEED = "one seed: the spread between seeds is unknown"


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's correction (Holm 1979): the chance of any false difference stays below the level.

    Args:
        p_values: by name; one that is None was not tested, and stays None.
    """
    tested = sorted((p, name) for name, p in p_values.items() if p is not None)
    raised = [min(1.0, p * (len(tested) - n)) for n, (p, _) in enumerate(tested)]
    corrected = dict(zip((name for _, name in tested), accumulate(raised, max), strict=True))
    return {name: corrected.get(name) for name in p_values}


def over_seeds(arms: Sequence[ClusterSums], baseline: ClusterSums, metric: Metric) -> Difference:
    """An arm's mean difference from one baseline, over seeds and images: see `paired_over_seeds`.

    Raises:
        UserError: the clusters are not the same.
    """
    return paired_over_seeds(arms, [baseline] * len(arms), metric)


def paired_over_seeds(
    arms: Sequence[ClusterSums], baselines: Sequence[ClusterSums], metric: Metric
) -> Difference:
    """An arm's mean difference from a baseline, over seeds and images, each seed with its own.

    Two levels: another seed would give another model, other images another difference. With s2 the
    variance of the seeds' differences and k seeds, S = s2 / k, less the part that images alone
    explain, is what seeds add; I is the variance that the images give the mean of the seeds. The
    interval reaches to sqrt(t(k - 1)^2 S + t(images - 1)^2 I) on both sides (Graybill and Wang
    1980, as if S and I were independent), and p is the level at which it ends at 0. With three
    seeds a bootstrap would draw the same few again, and be too narrow.

    Args:
        arms: of each seed, the same clusters.
        baselines: of each seed, the same clusters; one model several times where it has no seed.
        metric: what is compared.

    Raises:
        UserError: the clusters are not the same.
    """
    ours = [in_order_of(arms[0], arm) for arm in arms]
    theirs = [in_order_of(arms[0], baseline) for baseline in baselines]
    clusters = len(arms[0].clusters)
    own, base = (_means(metric, sides) for sides in (ours, theirs))
    if own is None or base is None:
        return Difference(None, None, None, None, own, base, clusters, "undefined for a seed")
    if clusters < 2 or len(arms) < 2:
        note = ONE_CLUSTER if clusters < 2 else ONE_SEED
        return Difference(own - base, None, None, None, own, base, clusters, note)
    moves = moves_of(metric, ours, theirs)
    found = difference_of(moves, metric.most)
    differing = int(np.count_nonzero(np.abs(moves.by_image).max(axis=0) > 1e-12))
    if found is None:
        note = "no interval: neither seeds nor images vary"
        return Difference(own - base, None, None, None, own, base, clusters, note)
    low, high, p = found
    return Difference(own - base, low, high, p, own, base, clusters, "", differing, METHOD)


@dataclass(frozen=True)
class Moves:
    """What a change moved, by seed and by image.

    Attributes:
        by_seed: each seed's difference, (seeds).
        by_image: what each image adds to it, (seeds, images).
    """

    by_seed: FloatArray
    by_image: FloatArray

    def __sub__(self, other: Moves) -> Moves:
        return Moves(self.by_seed - other.by_seed, self.by_image - other.by_image)


def moves_of(metric: Metric, ours: Sequence[ClusterSums], theirs: Sequence[ClusterSums]) -> Moves:
    """What each seed and image adds to a difference; all with their clusters in one order."""
    sides = list(zip(ours, theirs, strict=True))
    values = [
        float(metric.formula(totals(arm.columns)) - metric.formula(totals(base.columns)))
        for arm, base in sides
    ]
    moved = np.stack([gains(metric, arm.columns, base.columns) for arm, base in sides])
    return Moves(np.array(values), moved)


def interaction(
    both: Sequence[ClusterSums],
    first: Sequence[ClusterSums],
    second: Sequence[ClusterSums],
    neither: Sequence[ClusterSums],
    metric: Metric,
) -> Difference:
    """How much more two changes do together than one by one: (both - second) - (first - neither).

    Interval and p as in `paired_over_seeds`; each argument has a seed's sums after the other.
    """
    cells = [[in_order_of(both[0], one) for one in cell] for cell in (both, first, second, neither)]
    means = [_means(metric, cell) for cell in cells]
    clusters = len(both[0].clusters)
    known = [mean for mean in means if mean is not None]
    if len(known) < len(means):
        return Difference(None, None, None, None, None, None, clusters, "undefined for a seed")
    together, alone = known[0] - known[2], known[1] - known[3]
    if clusters < 2 or len(both) < 2:
        note = ONE_CLUSTER if clusters < 2 else ONE_SEED
        return Difference(together - alone, None, None, None, together, alone, clusters, note)
    moves = moves_of(metric, cells[0], cells[2]) - moves_of(metric, cells[1], cells[3])
    found = difference_of(moves, 2 * metric.most)
    if found is None:
        note = "no interval: neither seeds nor images vary"
        return Difference(together - alone, None, None, None, together, alone, clusters, note)
    low, high, p = found
    return Difference(together - alone, low, high, p, together, alone, clusters, "", None, METHOD)


def difference_of(moves: Moves, most: float) -> tuple[float, float, float] | None:
    """Interval and p of a mean difference; None where neither seeds nor images vary.

    Args:
        moves: of two seeds and two images at least.
        most: that the difference can be; larger where it is.
    """
    mean = float(moves.by_seed.mean())
    of_seeds, of_images = _variances(moves.by_seed, moves.by_image)
    if not of_seeds + of_images:
        return None

    def reach(level: float) -> float:
        """Half the width of the interval that leaves out a share of cases."""
        seed_t, image_t = (stats.t.isf(level / 2, n - 1) for n in moves.by_image.shape)
        return float(np.sqrt(seed_t**2 * of_seeds + image_t**2 * of_images))

    most = max(most, abs(mean))
    low, high = max(mean - reach(1 - LEVEL), -most), min(mean + reach(1 - LEVEL), most)
    return low, high, _level_where(reach, abs(mean))


def detectable(moves: Moves, power: float, comparisons: int = 1) -> float:
    """The difference that a comparison like this one shows with a given chance.

    Args:
        moves: of two seeds and two images at least; their spread counts, not their mean.
        power: the chance.
        comparisons: that Holm's correction counts; the first step of it is the strictest.
    """
    of_seeds, of_images = _variances(moves.by_seed, moves.by_image)
    level = (1 - LEVEL) / comparisons
    seed_t, image_t = (stats.t.isf(level / 2, n - 1) for n in moves.by_image.shape)
    half = np.sqrt(seed_t**2 * of_seeds + image_t**2 * of_images)
    return float(half + stats.norm.ppf(power) * np.sqrt(of_seeds + of_images))


def _means(metric: Metric, sides: Sequence[ClusterSums]) -> float | None:
    """The mean over seeds; None where it is undefined for one."""
    values = np.array([float(metric.formula(totals(side.columns))) for side in sides])
    if not len(sides[0].clusters) or np.isnan(values).any():
        return None
    return float(values.mean())


def _level_where(reach: Callable[[float], float], distance: float) -> float:
    """The level at which an interval reaches to a distance; it is wider for smaller ones."""
    if reach(LEAST_P) <= distance:
        return LEAST_P
    if reach(1 - LEAST_P) >= distance:
        return 1.0
    return float(optimize.brentq(lambda level: reach(level) - distance, LEAST_P, 1 - LEAST_P))


def _variances(values: FloatArray, moved: FloatArray) -> tuple[float, float]:
    """What seeds and what images add to the variance of the mean over seeds.

    Args:
        values: of each seed.
        moved: what each image adds to a seed's difference, (seeds, images).
    """
    seeds, clusters = moved.shape
    of_seeds = float(values.var(ddof=1)) / seeds
    scale = clusters / (clusters - 1)
    of_images = float(scale * ((moved.mean(0) - moved.mean()) ** 2).sum())
    apart = moved - moved.mean(0) - moved.mean(1, keepdims=True) + moved.mean()
    counted_twice = float(scale * (apart**2).sum()) / (seeds - 1) / seeds
    return max(of_seeds - counted_twice, 0.0), of_images
