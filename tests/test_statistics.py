"""Intervals that cover, p-values that agree with counting by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from veridical.errors import UserError
from veridical.statistics import (
    ClusterSums,
    FloatArray,
    Metric,
    Sums,
    compare,
    estimate,
    ratio,
    sum_by_cluster,
)


def share(sums: Sums) -> FloatArray:
    return ratio(sums["part"], sums["whole"])


SHARE = Metric("share", share, "whole")
LENGTH = Metric("length", share, "whole", fraction=False)


def table(part: Sequence[float], whole: Sequence[float]) -> ClusterSums:
    columns = {"part": np.array(part, float), "whole": np.array(whole, float)}
    return ClusterSums(tuple(range(len(part))), columns)


def test_rows_are_added_up_by_cluster() -> None:
    rows = [
        ("a", {"part": 1.0, "whole": 2.0}),
        ("b", {"part": 0.0, "whole": 1.0}),
        ("a", {"part": 3.0, "whole": 4.0}),
    ]
    sums = sum_by_cluster(rows)
    assert sums.clusters == ("a", "b")
    assert sums.columns["part"].tolist() == [4.0, 0.0]
    assert sums.columns["whole"].tolist() == [6.0, 1.0]


def test_value_is_the_ratio_of_sums_not_the_mean_of_ratios() -> None:
    # (1 + 0 + 1) / (1 + 9 + 2) = 2/12, whereas the mean of 1, 0, 1/2 would be 1/2.
    found = estimate(table([1, 0, 1], [1, 9, 2]), [SHARE])["share"]
    assert found.value == pytest.approx(2 / 12)
    assert (found.n, found.clusters) == (12, 3)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= 2 / 12 <= found.high <= 1


def test_same_seed_same_interval_and_another_seed_almost_the_same() -> None:
    random = np.random.default_rng(0)
    sums = table(random.integers(0, 3, 200).tolist(), [4.0] * 200)
    first, again, other = (estimate(sums, [SHARE], seed=seed)["share"] for seed in (0, 0, 1))
    assert first == again
    assert first.low == pytest.approx(other.low, abs=0.01)
    assert first != other


def test_agrees_with_scipy_bca() -> None:
    random = np.random.default_rng(5)
    part = random.poisson(2, 60).astype(float)
    whole = part + random.poisson(5, 60)

    def statistic(one: FloatArray, two: FloatArray, axis: int = -1) -> FloatArray:
        return np.asarray(one.sum(axis=axis) / two.sum(axis=axis))

    theirs = scipy.stats.bootstrap(
        (part, whole), statistic, paired=True, n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = estimate(table(part.tolist(), whole.tolist()), [SHARE])["share"]
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    """Answers of one image agree with each other; 400 data sets of 150 images, true share 0.2.

    Each image has its own rate, Beta(1, 4) with mean 0.2, and 1 to 8 answers at that rate.
    The standard error of a coverage from 400 sets is 1.1 %, so 92 % to 98 % are 2.7 of them.
    """
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        whole = random.integers(1, 9, 150)
        part = random.binomial(whole, random.beta(1, 4, 150))
        found = estimate(table(part.tolist(), whole.tolist()), [SHARE], resamples=1000)["share"]
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_ignoring_the_clusters_would_be_too_sure() -> None:
    """Ten equal answers per image carry one image's information: sqrt(10) times wider."""
    random = np.random.default_rng(3)
    per_image = random.integers(0, 2, 100)
    clustered = estimate(table((per_image * 10).tolist(), [10.0] * 100), [SHARE])["share"]
    alone = estimate(table(np.repeat(per_image, 10).tolist(), [1.0] * 1000), [SHARE])["share"]
    assert clustered.low is not None and clustered.high is not None
    assert alone.low is not None and alone.high is not None
    widths = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert widths == pytest.approx(math.sqrt(10), rel=0.1)


def test_zero_denominator_is_none_with_a_reason() -> None:
    found = estimate(table([0, 0], [0, 0]), [SHARE])["share"]
    assert (found.value, found.low, found.high, found.n) == (None, None, None, 0)
    assert "denominator" in found.note
    assert "note" in found.as_json()


def test_one_cluster_has_a_value_but_no_interval() -> None:
    found = estimate(table([1], [4]), [SHARE])["share"]
    assert (found.value, found.low, found.high) == (0.25, None, None)
    assert "at least two" in found.note


def test_no_rows() -> None:
    found = estimate(sum_by_cluster([]), [SHARE])["share"]
    assert (found.value, found.n, found.clusters) == (None, 0, 0)


def test_all_right_gets_the_exact_binomial_bound_not_zero_width() -> None:
    # Clopper-Pearson for 10 of 10: low = 0.025 ** (1/10), high = 1.
    found = estimate(table([1] * 10, [1] * 10), [SHARE])["share"]
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    assert found.high == pytest.approx(1.0)
    none = estimate(table([0] * 10, [3] * 10), [SHARE])["share"]
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_constant_that_is_no_fraction_keeps_its_value() -> None:
    found = estimate(table([7, 7, 7], [1, 1, 1]), [LENGTH])["length"]
    assert (found.value, found.low, found.high) == (7.0, 7.0, 7.0)


def test_resamples_that_are_undefined_are_counted() -> None:
    # A resample of five clusters misses the only one with a denominator (4/5)^5 = 33 % of times.
    found = estimate(table([1, 0, 0, 0, 0], [2, 0, 0, 0, 0]), [SHARE])["share"]
    assert "left out" in found.note


def test_exact_p_value_by_enumeration() -> None:
    """Five images, per-image gains 1, 1, 1, 2, -1: 32 sign patterns, counted one by one."""
    ours, theirs = [2.0, 3, 1, 4, 1], [1.0, 2, 0, 2, 2]
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    observed = abs(sum(gains))
    extreme = sum(
        abs(sum(sign * gain for sign, gain in zip(signs, gains, strict=True))) >= observed
        for signs in itertools.product((1, -1), repeat=5)
    )
    found = compare(table(ours, [5] * 5), table(theirs, [5] * 5), [SHARE])["share"]
    assert found.value == pytest.approx(4 / 25)
    assert found.p == pytest.approx(extreme / 32)


def test_exact_p_value_of_a_ratio_agrees_with_scipy() -> None:
    """Both sides have their own denominators, so swapping is not the same as flipping signs."""
    random = np.random.default_rng(8)
    whole_a, whole_b = random.integers(1, 6, 8), random.integers(1, 6, 8)
    part_a, part_b = random.binomial(whole_a, 0.3), random.binomial(whole_b, 0.6)

    def statistic(one: FloatArray, two: FloatArray) -> float:
        a, b = one.astype(int), two.astype(int)
        return float((a // 100).sum() / (a % 100).sum() - (b // 100).sum() / (b % 100).sum())

    theirs = scipy.stats.permutation_test(
        (part_a * 100 + whole_a, part_b * 100 + whole_b),
        statistic,
        permutation_type="samples",
        n_resamples=1000,
    )
    found = compare(
        table(part_a.tolist(), whole_a.tolist()), table(part_b.tolist(), whole_b.tolist()), [SHARE]
    )["share"]
    assert found.value == pytest.approx(theirs.statistic)
    # SciPy doubles the smaller tail; the two agree closely, not exactly, when it is skewed.
    assert found.p == pytest.approx(theirs.pvalue, abs=0.08)


def test_random_p_value_approaches_the_normal_one() -> None:
    random = np.random.default_rng(2)
    gain = random.normal(0.15, 1.0, 200)
    found = compare(table(gain.tolist(), [1] * 200), table([0] * 200, [1] * 200), [SHARE])["share"]
    p = scipy.stats.ttest_1samp(gain, 0.0).pvalue
    assert found.p == pytest.approx(p, abs=0.02)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * gain.std(ddof=1) / math.sqrt(200), rel=0.08
    )


def test_p_is_uniform_when_nothing_differs() -> None:
    """Under the null about 5 % of p-values are below 0.05 (300 sets: standard error 1.3 %)."""
    random = np.random.default_rng(4)
    small = 0
    for _ in range(300):
        whole = random.integers(1, 5, (2, 40))
        part = random.binomial(whole, random.beta(2, 3, 40))
        arm, base = (table(part[i].tolist(), whole[i].tolist()) for i in (0, 1))
        p = compare(arm, base, [SHARE], resamples=400)["share"].p
        assert p is not None
        small += p < 0.05
    assert 0.01 <= small / 300 <= 0.09


def test_equal_models_differ_by_nothing() -> None:
    sums = table([1, 0, 2, 1], [2, 2, 2, 2])
    found = compare(sums, sums, [SHARE])["share"]
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert "does not say how sure" in found.note


def test_pairing_follows_names_not_order() -> None:
    arm = ClusterSums(("a", "b"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    base = ClusterSums(("b", "a"), {"part": np.array([0.0, 1]), "whole": np.array([1.0, 1])})
    assert compare(arm, base, [SHARE])["share"].p == 1.0


def test_different_images_are_refused_by_name() -> None:
    arm = ClusterSums(("a", "b"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    base = ClusterSums(("a", "c"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    with pytest.raises(UserError, match="2 are on one side only \\(b, c\\)"):
        compare(arm, base, [SHARE])


def test_intervals_of_differences_cover_the_truth() -> None:
    """200 pairs of models, true difference -0.1 on every image (standard error 1.5 %)."""
    random = np.random.default_rng(21)
    covered = 0
    for _ in range(200):
        whole = random.integers(1, 6, 120)
        rate = random.beta(3, 5, 120) * 0.8 + 0.1
        ours, theirs = random.binomial(whole, rate - 0.1), random.binomial(whole, rate)
        arm, base = table(ours.tolist(), whole.tolist()), table(theirs.tolist(), whole.tolist())
        found = compare(arm, base, [SHARE], resamples=1000)["share"]
        assert found.low is not None and found.high is not None
        covered += found.low <= -0.1 <= found.high
    assert 0.905 <= covered / 200 <= 0.99
