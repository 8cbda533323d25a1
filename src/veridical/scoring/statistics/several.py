"""Several comparisons at once: Holm's correction, and one arm trained with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """An arm's mean difference from a baseline, over seeds and images.

    Two levels: another seed would give another model, other images another difference. With s2 the
    variance of the seeds' differences and k seeds, S = s2 / k, less the part that images alone
    explain, is what seeds add; I is the variance that the images give the mean of the seeds. The
    interval reaches to sqrt(t(k - 1)^2 S + t(images - 1)^2 I) on both sides (Graybill and Wang
    1980, as if S and I were independent), and p is the level at which it ends at 0. With three
    seeds a bootstrap would draw the same few again, and be too narrow.

    Args:
        arms: of each seed, the same clusters.
        baseline: one model.
        metric: what is compared.

    Raises:
        UserError: the clusters are not the same.
    """
    ours = [in_order_of(arms[0], arm) for arm in arms]
    theirs = in_order_of(arms[0], baseline)
    clusters = len(theirs.clusters)
    values = np.array([float(metric.formula(totals(arm.columns))) for arm in ours])
    base = float(metric.formula(totals(theirs.columns)))
    if not clusters or np.isnan(base) or np.isnan(values).any():
        return Difference(None, None, None, None, None, None, clusters, "undefined for a seed")
    mean, own = float(values.mean() - base), float(values.mean())
    if clusters < 2 or len(arms) < 2:
        note = ONE_CLUSTER if clusters < 2 else ONE_SEED
        return Difference(mean, None, None, None, own, base, clusters, note)
    moved = np.stack([gains(metric, arm.columns, theirs.columns) for arm in ours])
    of_seeds, of_images = _variances(values, moved)
    if not of_seeds + of_images:
        note = "no interval: neither seeds nor images vary"
        return Difference(mean, None, None, None, own, base, clusters, note)

    def reach(level: float) -> float:
        """Half the width of the interval that leaves out a share of cases."""
        seed_t, image_t = (stats.t.isf(level / 2, n - 1) for n in (len(arms), clusters))
        return float(np.sqrt(seed_t**2 * of_seeds + image_t**2 * of_images))

    most = max(metric.most, abs(mean))
    low, high = max(mean - reach(1 - LEVEL), -most), min(mean + reach(1 - LEVEL), most)
    p = _level_where(reach, abs(mean))
    differing = int(np.count_nonzero(np.abs(moved).max(axis=0) > 1e-12))
    return Difference(mean, low, high, p, own, base, clusters, "", differing, METHOD)


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
