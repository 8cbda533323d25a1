"""How often intervals over seeds hold the truth: ours with two levels, and a bootstrap.

    python benchmarks/seeds_coverage.py

Each data set has one baseline and an arm trained with some seeds, on the same images. An image is
easy or hard for everybody, alignment changes it in the same way whatever the seed, and a seed is
better or worse by chance on all images. The truth is over all seeds and images. The bootstrap draws
seeds and, for all seeds alike, images, each with replacement, and takes percentiles (hierarchical,
crossed). Written as a table in Markdown, to standard output.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.special import expit

from veridical.scoring.statistics import ClusterSums, FloatArray, Metric, Ratio
from veridical.scoring.statistics.several import over_seeds

ACCURACY = Metric("accuracy", Ratio("right", "n"), "n")
DATA_SETS, DRAWS = 600, 500
GAIN, EASE, OWN = 0.3, 1.2, 0.8
"""In logits: what alignment adds on average; the spread of images; that of what it adds to them."""


def rights(
    rng: np.random.Generator, seeds: int, images: int, spread: float
) -> tuple[FloatArray, FloatArray]:
    """Who is right of what: the baseline (images), and the arm's seeds (seeds, images)."""
    hard = rng.normal(0, EASE, images)
    base = rng.random(images) < expit(1 - hard)
    added = GAIN + rng.normal(0, OWN, images)
    shifts = rng.normal(0, spread, (seeds, 1))
    arms = rng.random((seeds, images)) < expit(1 - hard + added + shifts)
    return base.astype(np.float64), arms.astype(np.float64)


@cache
def truth(spread: float) -> float:
    """The difference over all seeds and images."""
    rng = np.random.default_rng(1)
    count = 1_000_000
    hard = rng.normal(0, EASE, count)
    added = GAIN + rng.normal(0, OWN, count)
    arm = expit(1 - hard + added + rng.normal(0, spread, count))
    return float((arm - expit(1 - hard)).mean())


def bootstrap(rng: np.random.Generator, gains: FloatArray) -> tuple[float, float]:
    """The percentiles of seeds and images drawn anew, of gains (seeds, images)."""
    seeds, images = gains.shape
    drawn = rng.multinomial(images, np.full(images, 1 / images), DRAWS) / images
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    low, high = np.quantile(((drawn @ gains.T) * chosen).sum(1), [0.025, 0.975])
    return float(low), float(high)


def cell(seeds: int, images: int, spread: float) -> tuple[float, float]:
    """The shares of data sets whose interval holds the truth: ours, the bootstrap's."""
    rng = np.random.default_rng([seeds, images, round(10 * spread), round(10 * GAIN)])
    wanted = truth(spread)
    held = np.zeros(2)
    for _ in range(DATA_SETS):
        base, arms = rights(rng, seeds, images, spread)
        names, ones = tuple(range(images)), np.ones(images)
        own = [ClusterSums(names, {"right": arm, "n": ones}) for arm in arms]
        found = over_seeds(own, ClusterSums(names, {"right": base, "n": ones}), ACCURACY)
        assert found.low is not None and found.high is not None
        low, high = bootstrap(rng, arms - base)
        held += [found.low <= wanted <= found.high, low <= wanted <= high]
    return float(held[0] / DATA_SETS), float(held[1] / DATA_SETS)


def main() -> None:
    """Print a row for each number of seeds, spread and number of images."""
    print("| seeds | spread of seeds | images | two levels, t | bootstrap |")
    print("|---|---|---|---|---|")
    for seeds in (3, 5):
        for spread in (0.0, 0.2, 0.6):
            for images in (50, 1000):
                ours, drawn = cell(seeds, images, spread)
                print(
                    f"| {seeds} | {spread} | {images:,} | {100 * ours:.1f} | {100 * drawn:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
