"""Several arms, and several seeds of one."""

from __future__ import annotations

import numpy as np
import pytest

from veridical.scoring.statistics import ClusterSums, FloatArray, Metric, Ratio
from veridical.scoring.statistics.several import (
    LEAST_P,
    ONE_SEED,
    detectable,
    holm,
    interaction,
    moves_of,
    over_seeds,
    paired_over_seeds,
)

ACCURACY = Metric("accuracy", Ratio("right", "n"), "n")


def test_holm_by_hand() -> None:
    """Three tests: 0.01 x 3; 0.03 x 2; 0.04 x 1 is less than the one before, so it is raised."""
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": None})
    assert found == {"a": pytest.approx(0.06), "b": pytest.approx(0.03),
                     "c": pytest.approx(0.06), "d": None}  # fmt: skip
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def sums(right: FloatArray) -> ClusterSums:
    return ClusterSums(tuple(range(len(right))), {"right": right, "n": np.ones(len(right))})


def test_seeds_by_hand() -> None:
    """Every image alike, so that only seeds vary: differences 0.1, 0.2, 0.3 over 10 images.

    Mean 0.2, variance of a seed 0.01, so S = 0.01 / 3; t(2) = 4.3027: 0.2 +- 0.2484.
    """
    arms = [sums(np.full(10, 0.5 + gain)) for gain in (0.1, 0.2, 0.3)]
    found = over_seeds(arms, sums(np.full(10, 0.5)), ACCURACY)
    assert found.value == pytest.approx(0.2) and found.arm_value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.2 - 0.24841, abs=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-3) and found.differing == 10
    far = [sums(np.full(10, right)) for right in (0.0, 1.0)]
    assert over_seeds(far, sums(np.full(10, 0.9)), ACCURACY).low == -1  # a share differs by 1


def test_seeds_with_baselines_of_their_own_by_hand() -> None:
    """Seeds of 0.6, 0.7, 0.8 against 0.5, 0.6, 0.7: always 0.1 more, whatever the seed."""
    arms, bases = ([sums(np.full(10, low + n / 10)) for n in range(3)] for low in (0.6, 0.5))
    found = paired_over_seeds(arms, bases, ACCURACY)
    assert found.value == pytest.approx(0.1) and found.baseline_value == pytest.approx(0.6)
    assert over_seeds(arms, bases[0], ACCURACY).p != found.p


def test_an_interaction_by_hand() -> None:
    """Alone 0.1 and 0.2; together 0.6, so 0.3 beyond the sum; seeds move it by 0.01 each way."""
    levels = {"both": 0.6, "first": 0.1, "second": 0.2, "neither": 0.0}
    cells = {
        name: [sums(np.full(10, 0.2 + gain + (0.01 * n if name == "both" else 0.0)))
               for n in (-1, 0, 1)]
        for name, gain in levels.items()
    }  # fmt: skip
    both, first, second, neither = cells.values()
    found = interaction(both, first, second, neither, ACCURACY)
    assert found.value == pytest.approx(0.3)
    # Only seeds vary: S = 0.0001 / 3, t(2) = 4.3027, so 0.3 +- 0.02484.
    assert found.low == pytest.approx(0.3 - 0.02484, abs=1e-4)


def test_what_can_be_seen_by_hand() -> None:
    """Only seeds vary, S = 0.01 / 3: t(2) = 4.3027 and z(0.8) = 0.8416 of its root, 0.05774."""
    arms = [sums(np.full(10, 0.5 + gain)) for gain in (0.1, 0.2, 0.3)]
    moves = moves_of(ACCURACY, arms, [sums(np.full(10, 0.5))] * 3)
    assert detectable(moves, 0.8) == pytest.approx((4.30265 + 0.84162) * 0.057735, rel=1e-4)
    assert detectable(moves, 0.8, comparisons=2) > detectable(moves, 0.8)


def test_seeds_that_agree_leave_the_images() -> None:
    """The interval is that of one seed's t interval over images."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 40).astype(float)
    base = rng.integers(0, 2, 40).astype(float)
    found = over_seeds([sums(right)] * 3, sums(base), ACCURACY)
    gain = right - base
    reach = 2.0227 * gain.std(ddof=1) / np.sqrt(40)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=1e-3)


def test_what_has_no_interval() -> None:
    one, other = sums(np.ones(4)), sums(np.zeros(4))
    assert over_seeds([one], other, ACCURACY).note == ONE_SEED
    assert over_seeds([one, one], one, ACCURACY).p is None  # nothing varies
    assert over_seeds([sums(np.ones(1))] * 2, sums(np.zeros(1)), ACCURACY).low is None
    shares = Metric("x", Ratio("right", "none"), "none")
    nothing = [ClusterSums((0, 1), {"right": np.ones(2), "none": np.zeros(2)})] * 2
    assert over_seeds(nothing, nothing[0], shares).value is None


def test_a_certain_difference_has_the_least_p() -> None:
    rng = np.random.default_rng(0)
    arms = [sums(1 + 1e-9 * rng.random(500)) for _ in range(5)]
    assert over_seeds(arms, sums(np.zeros(500)), ACCURACY).p == LEAST_P


def test_intervals_of_three_seeds_hold_the_truth() -> None:
    """200 studies: a seed moves accuracy by some 5 points, 300 images; truth 10 points."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        hard = rng.random(300)
        base = sums((hard < 0.5).astype(float))
        shifts = 0.6 + rng.normal(0, 0.05, 3)
        arms = [sums((0.5 * (hard + rng.random(300)) < shift).astype(float)) for shift in shifts]
        found = over_seeds(arms, base, ACCURACY)
        # P((u + v) / 2 < s) of two uniform numbers is 1 - 2 (1 - s)^2 for s above 1/2.
        truth = 1 - 2 * (0.4**2 + 0.05**2) - 0.5
        hits += found.low is not None and found.low <= truth <= (found.high or 0)
    assert 0.91 <= hits / 200 <= 1.0
