"""Intervals that cover, p-values that agree with them, and both with figures worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from veridical.eval import alpaca_eval, judged_pairs, mmvet, short_answers
from veridical.eval.amber_metrics import COLUMNS, FORMULAS
from veridical.eval.chair import BENCHMARK
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator
from veridical.scoring.statistics import (
    Bin,
    CalibrationGap,
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    compare,
    estimate,
    ratio,
    sum_by_cluster,
)
from veridical.scoring.statistics.intervals import binomial_interval, share_interval
from veridical.scoring.statistics.one_way import chance_one_way, share_excluded
from veridical.scoring.statistics.signs import least_p, sign_p, sign_test
from veridical.scoring.statistics.sums import Kind

SHARE = Metric("share", Ratio("part", "whole"), "whole")
LENGTH = Metric("length", Ratio("part", "whole"), "whole", "mean")
LOSS = Metric("loss", Ratio("part", "whole"), "whole", "mean", limit=0.0, event=1.0)


def table(part: Sequence[float], whole: Sequence[float]) -> ClusterSums:
    columns = {"part": np.array(part, float), "whole": np.array(whole, float)}
    return ClusterSums(tuple(range(len(part))), columns)


def ends(found: object) -> tuple[float, float]:
    low, high = getattr(found, "low"), getattr(found, "high")  # noqa: B009
    assert isinstance(low, float)
    assert isinstance(high, float)
    return low, high


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
    low, high = ends(found)
    assert 0 <= low <= 2 / 12 <= high <= 1


def test_mid_p_interval_of_three_of_ten() -> None:
    # Each end leaves 2.5 % beyond it, the observed count by half.
    low, high = binomial_interval(np.array(0.3), np.array(10.0))
    binomial = scipy.stats.binom
    assert binomial.sf(3, 10, low) + binomial.pmf(3, 10, low) / 2 == pytest.approx(0.025)
    assert binomial.cdf(2, 10, high) + binomial.pmf(3, 10, high) / 2 == pytest.approx(0.025)
    # Inside Clopper and Pearson's, which count the observed count in full.
    exact = scipy.stats.binomtest(3, 10).proportion_ci(method="exact")
    assert exact.low < low < high < exact.high


def test_many_single_rows_give_the_usual_binomial_interval() -> None:
    """200 rows, each its own image: normal theory, 0.3 +- 1.96 sqrt(0.3 0.7 / 200)."""
    found = estimate(table([1] * 60 + [0] * 140, [1] * 200), [SHARE])["share"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    assert ends(found) == pytest.approx((0.3 - half, 0.3 + half), abs=0.005)


def test_ignoring_the_clusters_would_be_too_sure() -> None:
    """Ten equal answers per image carry one image's information: sqrt(10) times wider."""
    random = np.random.default_rng(3)
    per_image = random.integers(0, 2, 100)
    clustered = ends(estimate(table((per_image * 10).tolist(), [10.0] * 100), [SHARE])["share"])
    alone = ends(estimate(table(np.repeat(per_image, 10).tolist(), [1.0] * 1000), [SHARE])["share"])
    widths = (clustered[1] - clustered[0]) / (alone[1] - alone[0])
    assert widths == pytest.approx(math.sqrt(10), rel=0.1)


def test_balanced_answers_keep_a_width() -> None:
    """yes_rate: every image has 3 of 6, so that the clusters' own variance is 0."""
    low, high = ends(estimate(table([3] * 12, [6] * 12), [SHARE])["share"])
    assert low < 0.5 < high
    # Fewer than independent answers' (0.5 +- 0.115), and not as few as one answer's 1/72.
    assert 1 / 72 < high - 0.5 < 0.115


def test_a_balance_that_most_images_keep_is_compared_image_by_image() -> None:
    """yes_rate of a model that errs in 6 of 100 images, twice each way and once more down.

    Only those move it: 6 changes of 1/600, of which the score interval of a sum of signs is
    -2/600 +- 1.96 sqrt(6) / 600, a little wider far off. Independent answers have 0.5 +- 0.04.
    """
    top = [3.0] * 94 + [2, 2, 2, 2, 4, 4]
    low, high = ends(estimate(table(top, [6] * 100), [SHARE])["share"])
    value, half = 0.5 - 2 / 600, 1.96 * math.sqrt(6) / 600
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.0025)
    assert low < 0.5 < high


def test_a_score_without_an_error_has_an_interval() -> None:
    """AMBER's score is 1 of ten images: like a share's, the interval bounds what was not seen."""
    ones = np.ones(10)
    columns = dict.fromkeys(COLUMNS, 0 * ones) | {
        "answers": 3 * ones, "nouns": ones, "said_no": ones, "is_no": ones, "true_no": ones,
    }  # fmt: skip
    found = estimate(ClusterSums(tuple(range(10)), columns), FORMULAS)["score"]
    low, high = ends(found)
    assert (found.value, high) == (1.0, 1.0)
    assert 0.7 < low < 0.95


def test_nothing_seen_is_bounded_not_excluded() -> None:
    found = estimate(table([0] * 10, [1] * 10), [SHARE])["share"]
    # At least one of ten at share p has the chance 1 - (1 - p)^10; at the end, half of the rest is
    # 2.5 %. One answer an image has no design effect, and none was estimated: no Student's t.
    assert ends(found) == pytest.approx((0.0, 1 - 0.05 ** (1 / 10)))
    assert "bound on what was not seen" in found.note
    right = estimate(table([1] * 10, [1] * 10), [SHARE])["share"]
    assert ends(right) == pytest.approx((0.05 ** (1 / 10), 1.0))


def test_a_loss_that_skews_reaches_further_up_than_down() -> None:
    low, high = ends(estimate(table([0.01] * 23 + [2.0], [1] * 24), [LOSS])["loss"])
    mean = (0.23 + 2) / 24
    assert 0 < low < mean < high
    assert high - mean > 2 * (mean - low)


def test_correlation_and_calibration_have_intervals() -> None:
    def correlation(sums: Sums) -> FloatArray:
        top = sums["n"] * sums["xy"] - sums["x"] * sums["y"]
        spread = (sums["n"] * sums["xx"] - sums["x"] ** 2) * (
            sums["n"] * sums["yy"] - sums["y"] ** 2
        )
        return ratio(top, np.sqrt(np.maximum(spread, 0)))

    x, y = np.random.default_rng(1).normal(size=(2, 200))
    y = 0.6 * x + 0.8 * y
    columns = {"n": np.ones(200), "x": x, "y": y, "xy": x * y, "xx": x * x, "yy": y * y}
    sums = ClusterSums(tuple(range(200)), columns)
    found = estimate(sums, [Metric("r", correlation, "n", "correlation")])["r"]
    theirs = scipy.stats.pearsonr(x, y).confidence_interval()
    assert ends(found) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    # 50 answers at 0.7, of which 35 were right: no gap; of which 10 were right: a gap of 0.5.
    for right, low, high in ((35, 0.0, 0.2), (10, 0.3, 0.7)):
        seen = {"right": np.array([1.0] * right + [0.0] * (50 - right)), "sure": np.full(50, 0.7),
                "doubt": np.full(50, 0.21), "n": np.ones(50)}  # fmt: skip
        gap = CalibrationGap([Bin("right", "sure", "doubt")], "n")
        sums = ClusterSums(tuple(range(50)), seen)
        off = estimate(sums, [Metric("gap", gap, "n", "gap")])["gap"]
        assert low <= ends(off)[0] <= 0.5 - 0.02 if low else ends(off)[0] == 0
        assert ends(off)[1] < high


@pytest.mark.parametrize("kind", ["share", "mean"])
def test_a_share_or_mean_by_any_formula_is_refused(kind: Kind) -> None:
    """Its interval would be that of a correlation, under the name of another method."""
    with pytest.raises(TypeError, match="has to be a Ratio"):
        Metric("share", lambda sums: ratio(sums["part"], sums["whole"]), "whole", kind)


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


def test_numbers_that_do_not_vary_have_no_interval() -> None:
    same = {"answers": np.ones(3), "words": np.full(3, 7.0)}
    none = dict.fromkeys(
        ("wrong_answers", "mentions", "hallucinated", "recalled", "objects", "exact", "empty"),
        np.zeros(3),
    )
    chair = estimate(ClusterSums(("a", "b", "c"), same | none), BENCHMARK.formulas)
    mean = estimate(table([7, 7, 7], [1, 1, 1]), [LENGTH])["length"]
    for found in (mean, chair["mean_length"]):
        assert (found.value, found.low, found.high) == (7.0, None, None)
        assert "do not vary" in found.note
    # An invented object would have cost 1: what was not seen is known, and bounded.
    assert None not in ends(chair["exact_score"])


def test_every_interval_names_its_method() -> None:
    found = estimate(table([1, 0, 1], [1, 1, 1]), [SHARE, LENGTH, LOSS])
    methods = [row.as_json()["method"] for row in found.values()]
    assert [method.split()[0] for method in methods] == ["mid-p", "Student's", "gamma"]
    assert compare(table([1, 0], [1, 1]), table([0, 0], [1, 1]), [SHARE])["share"].method


def test_difference_by_hand() -> None:
    """100 images of one answer: 7 better, 1 worse, so that 2^8 patterns of signs are counted."""
    ours, theirs = [1.0] * 7 + [0.0] * 93, [0.0] * 7 + [1.0] + [0.0] * 92
    found = compare(table(ours, [1] * 100), table(theirs, [1] * 100), [SHARE])["share"]
    assert found.value == pytest.approx(0.06)
    assert found.differing == 8
    # Of 256 patterns, 2 (all one way) have a larger sum and 16 (one against seven) have the same.
    assert found.p == pytest.approx((2 + 16 / 2) / 256)
    assert 0 < ends(found)[0] < 0.06 < ends(found)[1]


@pytest.mark.parametrize(
    ("better", "worse", "images"), [(0, 0, 100), (7, 1, 100), (12, 2, 100), (40, 20, 200)]
)
def test_interval_of_one_answer_an_image_is_close_to_tangos(
    better: int, worse: int, images: int
) -> None:
    """Tango's score interval (1998, equation 10), solved here with his closed form."""

    def score(truth: float) -> float:
        total = 2 * images
        slope = -better - worse + (total - better + worse) * truth
        root = math.sqrt(max(slope**2 + 4 * total * worse * truth * (1 - truth), 0.0))
        against = (root - slope) / (2 * total)
        variance = images * (2 * against + truth * (1 - truth))
        return abs(better - worse - images * truth) / math.sqrt(variance) - 1.959964

    value = (better - worse) / images
    theirs = [scipy.optimize.brentq(score, *between)
              for between in ((-0.9, value - 1e-9), (value + 1e-9, 0.9))]  # fmt: skip
    rest = [0.0] * (images - better - worse)
    ours = compare(
        table([1.0] * better + [0.0] * worse + rest, [1] * images),
        table([0.0] * better + [1.0] * worse + rest, [1] * images),
        [SHARE],
    )["share"]
    assert ends(ours) == pytest.approx(theirs, abs=0.004)


def test_p_counts_every_pattern_of_signs() -> None:
    """1, 2, 4, 8, 16 and one against, -1: of the sums of 2^6 patterns, those of 30 or more."""
    gains = [16.0, 8.0, 4.0, 2.0, 1.0, -1.0]
    sums = [sum(np.array(gains) * signs) for signs in itertools.product((1, -1), repeat=6)]
    larger, same = sum(abs(s) > 30 for s in sums), sum(abs(s) == 30 for s in sums)
    # 32 and -32; 30 and -30, each with either of the ones against the other.
    assert (larger, same) == (2, 4)
    assert float(sign_p(np.array(gains))) == pytest.approx((2 + 4 / 2) / 64)
    # Images that did not change are no matter.
    assert float(sign_p(np.array([0.0] * 50 + gains))) == pytest.approx(4 / 64)


@pytest.mark.parametrize("images", [9, 11, 13, 16])
def test_p_of_more_images_than_are_counted_is_close_to_the_exact_one(images: int) -> None:
    random = np.random.default_rng(images)
    signs = np.array(list(itertools.product((1, -1), repeat=images)))
    for number in range(8):
        gains = np.ones(images) if number < 4 else random.normal(0.4, 1, images)
        gains[:number] *= -1
        sums, seen = np.abs(signs @ gains), abs(gains.sum())
        exact = (sums > seen + 1e-9).mean() + (np.abs(sums - seen) <= 1e-9).mean() / 2
        assert float(sign_p(gains)) == pytest.approx(exact, rel=0.1, abs=0.004)


def test_agrees_with_the_paired_t_test_where_many_differ() -> None:
    gain = np.random.default_rng(2).normal(0.15, 1.0, 400)
    found = compare(table(gain.tolist(), [1] * 400), table([0] * 400, [1] * 400), [LENGTH])[
        "length"
    ]
    theirs = scipy.stats.ttest_1samp(gain, 0.0)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.01)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.005)


def test_p_is_mcnemars_mid_p() -> None:
    for better, worse in ((5, 0), (6, 0), (7, 1), (9, 2), (15, 4), (12, 8)):
        rest = 300 - better - worse
        ours = [1.0] * better + [0.0] * worse + [1.0] * rest
        theirs = [0.0] * better + [1.0] * worse + [1.0] * rest
        found = compare(table(ours, [1] * 300), table(theirs, [1] * 300), [SHARE])["share"]
        exact = scipy.stats.binomtest(better, better + worse).pvalue
        # McNemar's mid-p: the observed split counts by half.
        middle = exact - scipy.stats.binom.pmf(better, better + worse, 0.5)
        assert found.p == pytest.approx(middle, rel=1e-9 if better + worse <= 8 else 0.1)


def test_swapping_the_models_turns_the_interval_round() -> None:
    random = np.random.default_rng(8)
    whole, other = random.integers(1, 5, (2, 40))
    sides = [
        table(random.binomial(n, r).tolist(), n.tolist()) for n, r in ((whole, 0.5), (other, 0.3))
    ]
    there = compare(sides[0], sides[1], [SHARE, LENGTH])
    back = compare(sides[1], sides[0], [SHARE, LENGTH])
    for name, found in there.items():
        low, high = ends(found)
        assert ends(back[name]) == pytest.approx((-high, -low))
        assert back[name].p == pytest.approx(found.p)


def test_the_interval_excludes_zero_exactly_where_p_is_below_five_per_cent() -> None:
    random = np.random.default_rng(5)
    seen = set()
    for _ in range(400):
        images = int(random.choice([2, 3, 5, 8, 12, 30, 200]))
        changed = random.choice([0.02, 0.1, 0.3, 1.0])
        whole = random.integers(1, 5, images)
        theirs = random.binomial(whole, 0.4)
        ours = np.where(random.random(images) < changed, random.binomial(whole, 0.7), theirs)
        arm, base = (table(side.tolist(), whole.tolist()) for side in (ours, theirs))
        for found in compare(arm, base, [SHARE, LENGTH]).values():
            assert found.p is not None
            low, high = ends(found)
            assert (low > 0 or high < 0) == (found.p < 0.05)
            seen.add(found.p < 0.05)
    assert seen == {True, False}


@pytest.mark.parametrize("images", [5, 6, 20, 50])
@pytest.mark.parametrize("differing", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("metric", [SHARE, LENGTH], ids=lambda metric: metric.kind)
def test_few_changes_do_not_tell_two_models_apart(
    images: int, differing: int, metric: Metric
) -> None:
    """All changes go one way: of 2^differing patterns two say the same, whose half counts.

    Of four images, it counts how many could have differed: enough of ten images or more.
    """
    differing = min(differing, images)
    gains = [1 - 0.01 * number for number in range(differing)]
    ours = table([*gains, *([0.0] * (images - differing))], [1] * images)
    found = compare(ours, table([0] * images, [1] * images), [metric])[metric.name]
    assert found.differing == differing
    assert found.value == pytest.approx(sum(gains) / images)
    assert found.p is not None
    if differing != 4:
        assert found.p == pytest.approx(0.5**differing)
    low, high = ends(found)
    enough = differing >= 5 or (differing == 4 and images >= 10)
    assert (low > 0 or high < 0) == (found.p < 0.05) == enough
    assert ("too few" in found.note) == (not enough)


def test_p_of_four_images_by_hand() -> None:
    """Of seven images, four to seven may differ. Which splits are as unusual as 4 of 4, 1/16?

    Of five and of six, only those that go one way (1/32, 1/64; one against four or five: 7/32,
    4/32); of seven, one against six has 9/128, and is not.
    """
    number = scipy.stats.binom(7, 4 / 7)
    by_hand = sum(number.pmf(count) * 2 / 2**count for count in range(4, 8))
    assert float(least_p(np.array(4.0), 7)) == pytest.approx(by_hand)
    assert float(least_p(np.array(4.0), 10)) < 0.05 < float(least_p(np.array(4.0), 9))
    # No image beyond them could have differed.
    assert float(least_p(np.array(4.0), 4)) == pytest.approx(1 / 16)


def test_the_chance_of_changes_one_way_by_hand() -> None:
    """12 images, of which 1.2 more get better than worse: four or more changes, all one way.

    How many get worse is not known. The chance is largest where one to two do.
    """

    def chance(against: float) -> float:
        shares = [(1.2 + against) / 12, against / 12, 1 - (1.2 + 2 * against) / 12]
        counts = scipy.stats.multinomial(12, shares)
        pairs = [pair for count in range(4, 13) for pair in ((count, 0), (0, count))]
        return sum(float(counts.pmf([*pair, 12 - sum(pair)])) for pair in pairs)

    tried = {against: chance(against) for against in (0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0)}
    best = max(tried, key=lambda against: tried[against])
    assert 1 <= best <= 2
    assert tried[best] <= chance_one_way(4, 12, 1.2) < 1.01 * tried[best]
    # With nothing against it, it is a binomial's upper tail.
    assert chance_one_way(7, 12, 11.9) == pytest.approx(scipy.stats.binom.sf(6, 12, 11.9 / 12))


@pytest.mark.parametrize("images", [12, 24, 50, 500])
def test_few_changes_are_neither_missed_nor_always_held(images: int) -> None:
    """One answer an image: for every pair of true rates, how often the interval misses.

    A true difference of one to three images can be missed from one side only.
    """
    counts = np.array([(b, c) for b in range(16) for c in range(16) if b + c <= images])
    place, (better, worse) = np.arange(images), counts[..., None].swapaxes(0, 1)
    gains = np.where(place < better, 1.0, np.where(place < better + worse, -1.0, 0.0))
    found = sign_test(gains.sum(-1), gains, np.ones(len(gains)), counts.sum(-1) * 1.0)
    outcomes = np.column_stack([counts, images - counts.sum(-1)])
    for truth in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        missed = (found.low > truth) | (found.high < truth)
        rates = []
        for against in (0.1, 0.5, 1.0, 1.5, 2.0, 3.0):
            share = np.array([truth + against, against, images - truth - 2 * against]) / images
            rates.append(scipy.stats.multinomial(images, share).pmf(outcomes) @ missed)
        assert max(rates) < 0.063
        if truth in (1.5, 2.5) and images >= 24:
            assert rates[0] > 0.01


@pytest.mark.parametrize(("images", "least"), [(10, 0.92), (12, 0.92), (16, 0.915), (24, 0.935)])
def test_no_true_difference_of_few_images_is_often_missed(images: int, least: float) -> None:
    """One answer an image, counted out: every share of images that get better and worse."""
    counts = np.array([(b, c) for b in range(images + 1) for c in range(images + 1 - b)])
    place, (better, worse) = np.arange(images), counts[..., None].swapaxes(0, 1)
    gains = np.where(place < better, 1.0, np.where(place < better + worse, -1.0, 0.0))
    found = sign_test(gains.sum(-1), gains, np.ones(len(gains)), counts.sum(-1) * 1.0)
    outcomes = np.column_stack([counts, images - counts.sum(-1)])
    covered = []
    for better_share in range(21):
        for worse_share in range(min(better_share, 20 - better_share) + 1):
            truth = images * (better_share - worse_share) / 20
            held = (found.low <= truth + 1e-9) & (truth - 1e-9 <= found.high)
            shares = np.array([better_share, worse_share, 20 - better_share - worse_share]) / 20
            covered.append(scipy.stats.multinomial(images, shares).pmf(outcomes) @ held)
    assert min(covered) > least


def test_changes_one_way_count_by_their_sizes() -> None:
    """500 images: five alike exclude 1.67 of them, and one large beside four small next to none."""
    gains = np.zeros((4, 500))
    gains[0, :5] = gains[1, :5] = gains[2, :5] = 1.0
    gains[1, 5] = -1e-9
    gains[2, 5] = -0.1
    gains[3, :5] = [1.0, 0.01, 0.01, 0.01, 0.01]
    excluded = share_excluded(gains)
    assert chance_one_way(5, 500, 5 * excluded[0]) == pytest.approx(0.05)
    assert excluded[0] == pytest.approx(0.335, abs=0.001)
    assert excluded[1] == pytest.approx(excluded[0])
    assert excluded[2:].tolist() == [0.0, 0.0]
    assert share_excluded(-gains).tolist() == excluded.tolist()


@pytest.mark.parametrize("images", [10, 24, 50, 500])
def test_equal_models_of_any_rate_differ_in_about_five_per_cent(images: int) -> None:
    """One answer an image: all splits of all numbers of changes, for every rate of changes.

    With three of three called different too, it would be more than 6 %.
    """
    wrong, lax = np.zeros(31), np.zeros(31)
    for differing in range(1, 31):
        for better in range(differing + 1):
            gains = np.array([1.0] * better + [-1.0] * (differing - better))
            p = max(float(sign_p(gains)), 0.5**differing)
            if better in (0, differing):
                p = float(least_p(np.array(float(differing)), images))
            chance = math.comb(differing, better) / 2**differing
            wrong[differing] += chance * (p < 0.05)
            lax[differing] += chance * (p < 0.05 or (differing >= 3 and better in (0, differing)))
    means = np.linspace(0.5, min(12, images), 24)
    number = scipy.stats.binom(images, means[:, None] / images)
    assert (number.pmf(range(31)) @ wrong).max() < (0.05 if images > 10 else 0.053)
    assert (number.pmf(range(31)) @ lax).max() > 0.06


def test_equal_models_may_still_differ() -> None:
    sums = table([1, 0, 2, 1], [2, 2, 2, 2])
    found = compare(sums, sums, [SHARE])["share"]
    assert (found.value, found.p, found.differing) == (0.0, 1.0, 0)
    low, high = ends(found)
    assert low == pytest.approx(-high)
    assert low < -0.1
    assert found.note == "no images differ: too few to tell the two apart"


def test_both_at_zero_keep_a_width_that_more_images_narrow() -> None:
    widths = []
    for images in (10, 100, 1000):
        sums = table([0] * images, [3] * images)
        low, high = ends(compare(sums, sums, [SHARE])["share"])
        widths.append(high - low)
    assert widths[0] > 5 * widths[1] > 25 * widths[2] > 0


def test_pairing_follows_names_not_order() -> None:
    arm = ClusterSums(("a", "b"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    base = ClusterSums(("b", "a"), {"part": np.array([0.0, 1]), "whole": np.array([1.0, 1])})
    assert compare(arm, base, [SHARE])["share"].differing == 0


def test_different_images_are_refused_by_name() -> None:
    arm = ClusterSums(("a", "b"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    base = ClusterSums(("a", "c"), {"part": np.array([1.0, 0]), "whole": np.array([1.0, 1])})
    with pytest.raises(UserError, match="2 are on one side only \\(b, c\\)"):
        compare(arm, base, [SHARE])


def test_ten_thousand_images_take_no_time() -> None:
    """Closed forms: a comparison of 10,000 images is far below a second."""
    random = generator(0, "speed")
    whole = random.integers(1, 6, 10_000)
    sides = [table(random.binomial(whole, 0.3).tolist(), whole.tolist()) for _ in range(2)]
    first, again = (compare(sides[0], sides[1], [SHARE, LENGTH]) for _ in range(2))
    assert first == again


def test_a_share_of_a_million_rows_keeps_its_precision() -> None:
    low, high = share_interval(
        np.array(0.5), np.array(0.25 / 1e6), np.array(1e6), np.array(1.0), np.array(1e6)
    )
    assert (low, high) == pytest.approx((0.5 - 0.00098, 0.5 + 0.00098), abs=1e-6)


@pytest.mark.parametrize(
    "metric",
    [
        short_answers.FORMULAS[0],
        judged_pairs.FORMULAS[0],
        *alpaca_eval.BENCHMARK.formulas[:2],
        mmvet.BENCHMARK.formulas[0],
    ],
    ids=lambda metric: metric.name,
)
@pytest.mark.parametrize("right", [0.0, 1.0, 29.0, 29.3, 30.0])
def test_means_of_values_from_0_to_1_stay_there(metric: Metric, right: float) -> None:
    """Of 30 images: some right, one of them in part."""
    assert isinstance(metric.formula, Ratio)
    top, bottom = str(metric.formula.top), str(metric.formula.bottom)
    gains = [min(max(right - n, 0.0), 1.0) for n in range(30)]
    sums = sum_by_cluster((str(n), {top: gain, bottom: 1.0}) for n, gain in enumerate(gains))
    found = estimate(sums, [metric])[metric.name]
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= right / 30 <= found.high <= 1
    assert found.low < found.high


def test_no_interval_of_ratings_leaves_their_scale() -> None:
    rating = Metric("rating", Ratio("part", "whole"), "whole", "mean", scale=(0.0, 6.0))
    open_ended = Metric("rating", Ratio("part", "whole"), "whole", "mean")
    ours = sum_by_cluster([("a", {"part": 0.0, "whole": 1.0}), ("b", {"part": 6.0, "whole": 1.0})])
    theirs = sum_by_cluster(
        [("a", {"part": 1.0, "whole": 1.0}), ("b", {"part": 0.0, "whole": 1.0})]
    )
    free, held = (estimate(ours, [one])["rating"] for one in (open_ended, rating))
    assert free.low is not None and free.low < 0 and held.low == 0.0
    assert free.high is not None and free.high > 6 and held.high == 6.0
    difference = compare(ours, theirs, [rating])["rating"]
    assert difference.low is not None and difference.low >= -6.0
    assert difference.high is not None and difference.high <= 6.0
    # The official rule of a benchmark may read a number beyond the scale: the value stays inside.
    beyond = sum_by_cluster(
        [("a", {"part": 9.0, "whole": 1.0}), ("b", {"part": 8.0, "whole": 1.0})]
    )
    found = estimate(beyond, [rating])["rating"]
    assert found.low is not None and found.high == found.value == 8.5 > found.low


def test_ratings_are_also_compared_by_ranks() -> None:
    """Six images, of which four go up by 1, 2, 3, 4 and one down by 1.5; one has no rating.

    Ranks 1, 3, 4, 5 up and 2 down: of 32 patterns of signs these have a rank sum of 2 or less:
    none, 1 and 2, so p is 2 x 3 / 32. No other metric has such a p.
    """
    ours = {"rating": np.array([4.0, 4, 5, 6, 0.5, 0]), "rated": np.array([1.0, 1, 1, 1, 1, 0])}
    theirs = {"rating": np.array([3.0, 2, 2, 2, 2, 3]), "rated": np.ones(6)}
    rating = Metric("score", Ratio("rating", "rated"), "rated", "mean", scale=(0, 6))
    names = tuple(range(6))
    found = compare(
        ClusterSums(names, ours), ClusterSums(names, theirs),
        [rating, Metric("mean", Ratio("rating", "rated"), "rated", "mean")],
    )  # fmt: skip
    assert found["score"].wilcoxon_p == pytest.approx(6 / 32)
    assert found["score"].as_json()["wilcoxon_p"] == pytest.approx(6 / 32)
    assert found["mean"].wilcoxon_p is None and "wilcoxon_p" not in found["mean"].as_json()
    same = compare(ClusterSums(names, theirs), ClusterSums(names, theirs), [rating])["score"]
    assert same.wilcoxon_p is None


def test_ranks_of_few_ratings_are_scipys_exact_ones() -> None:
    """With ties among the changes, which SciPy enumerates too."""
    rating = Metric("score", Ratio("rating", "rated"), "rated", "mean", scale=(0, 6))
    changes = np.array([1.0, 1, -1, 2, 3, 0, 0, -2, 2])
    own = [ClusterSums(tuple(range(9)), {"rating": 3 + sign * changes / 2, "rated": np.ones(9)})
           for sign in (1, -1)]  # fmt: skip
    exact = scipy.stats.PermutationMethod(n_resamples=2**7)
    wanted = float(scipy.stats.wilcoxon(changes[changes != 0], method=exact).pvalue)
    assert compare(own[0], own[1], [rating])["score"].wilcoxon_p == pytest.approx(wanted)


def test_ranks_of_many_ratings_are_scipys_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    rating = Metric("score", Ratio("rating", "rated"), "rated", "mean", scale=(0, 6))
    said = [rng.integers(0, 7, 200).astype(np.float64) for _ in range(2)]
    own = [ClusterSums(tuple(range(200)), {"rating": one, "rated": np.ones(200)}) for one in said]
    changes = said[0] - said[1]
    wanted = float(scipy.stats.wilcoxon(changes, method="approx").pvalue)
    assert compare(own[0], own[1], [rating])["score"].wilcoxon_p == pytest.approx(wanted)
