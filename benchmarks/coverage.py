"""How often the intervals hold the truth: a simulation in which it is known.

    python benchmarks/coverage.py            (four minutes on an idle core)

draws evaluations of two models in worlds whose rates are known, asks the product's own functions
for intervals and p, writes every cell into docs/statistics/coverage.csv, and makes the tables of
docs/statistics.md of them. Nothing depends on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from coverage_bounds import (
    largest_rate,
    largest_tied_rate,
    lowest_coverage,
    paired_coverage,
    share_coverage,
)
from coverage_tables import (
    ANEW,
    CELLS,
    COVERED,
    EDGE,
    PAGE,
    REJECTED,
    Row,
    read_rows,
    write_page,
    write_rows,
)

from veridical.eval._reward_scores import BINS, reward_metrics
from veridical.eval.amber_metrics import FORMULAS as AMBER
from veridical.eval.chair import BENCHMARK as CHAIR
from veridical.eval.pope import BENCHMARK as POPE
from veridical.eval.pope_auc import BoolArray, area_interval, area_test, clustered_area
from veridical.runtime.randomness import generator
from veridical.scoring.statistics import FloatArray, Metric, Ratio
from veridical.scoring.statistics.paired import differs, gains, paired_test
from veridical.scoring.statistics.signs import Test
from veridical.scoring.statistics.single import common_balance, interval, usual_event
from veridical.scoring.statistics.sums import influence, ratio, totals

IMAGES = (10, 24, 50, 128, 500)
RATES = (0.5, 0.12, 0.02)
# Per image, of one kind; as in `eval pope --per-image 3`.
QUESTIONS = 3
# One data set this large stands for the truth.
TRUTH = 200_000
# Of thousands of cells, some fall out of bounds by chance, to either side. A cell that is out by no
# more than chance explains is measured again in so many new simulations of the same size, and the
# first one does not count; so is every cell that is too low, or nearly.
AGAIN = 4
BY_CHANCE = 0.8

Columns: TypeAlias = dict[str, FloatArray]
World: TypeAlias = Callable[[np.random.Generator, tuple[int, int], float, "Case"], list[Columns]]


@dataclass(frozen=True)
class Case:
    """How the second model differs from the first.

    Attributes:
        label: for the tables.
        anew: share of the answers that it gives anew; the others are the same.
        mended: share of the errors that are gone from those.
    """

    label: str
    anew: float
    mended: float


CASES = (
    Case(ANEW, 1.0, 0.0),
    Case("5 % anew", 0.05, 0.0),
    Case("2 % anew", 0.02, 0.0),
    Case("20 % anew, half the errors gone", 0.2, 0.5),
    Case("all anew, 30 % fewer errors", 1.0, 0.3),
)


def _rates(
    random: np.random.Generator, shape: tuple[int, int], mean: float, tied: float
) -> FloatArray:
    """Each image's own rate: Beta, with this correlation between its answers."""
    weight = (1 - tied) / tied
    rates: FloatArray = random.beta(mean * weight, (1 - mean) * weight, shape)
    return rates


def _pope(tied: float, together: bool) -> World:
    """POPE: rate = share of wrong answers; `together`: an image's answers change all at once."""

    def world(
        random: np.random.Generator, shape: tuple[int, int], rate: float, case: Case
    ) -> list[Columns]:
        wrong = _rates(random, shape, rate, tied)[..., None]
        sides = [random.random((2, *shape, QUESTIONS)) < wrong]
        after = random.random((2, *shape, QUESTIONS)) < wrong * (1 - case.mended)
        drawn = random.random((*shape, 1) if together else (2, *shape, QUESTIONS))
        sides.insert(0, np.where(drawn < case.anew, after, sides[0]))
        return [_pope_columns(missed.sum(-1), invented.sum(-1)) for missed, invented in sides]

    return world


def _pope_columns(missed: FloatArray, invented: FloatArray) -> Columns:
    all_present = np.full(missed.shape, float(QUESTIONS))
    return {
        "questions": 2 * all_present,
        "right": 2 * all_present - missed - invented,
        "present": all_present,
        "true_yes": all_present - missed,
        "false_yes": 1.0 * invented,
        "said_yes": all_present - missed + invented,
        # Half of what is missed says neither.
        "unparsed": np.floor(missed / 2),
    }


def _chair(
    random: np.random.Generator, shape: tuple[int, int], rate: float, case: Case
) -> list[Columns]:
    """CHAIR: rate = share of invented mentions; an answer is given anew as a whole."""
    wrong = _rates(random, shape, rate, 0.1)
    listed = 1 + random.poisson(2, shape)

    def answers(rates: FloatArray) -> Columns:
        mentions = 1 + random.poisson(2, shape)
        invented = random.binomial(mentions, rates)
        recalled = np.minimum(random.binomial(listed, 0.6), mentions - invented)
        words = 6 + random.poisson(3 * mentions)
        return {
            "answers": np.ones(shape),
            "wrong_answers": 1.0 * (invented > 0),
            "mentions": 1.0 * mentions,
            "hallucinated": 1.0 * invented,
            "recalled": 1.0 * recalled,
            "objects": 1.0 * listed,
            "words": 1.0 * words,
            "exact": 0.9 * recalled / listed - invented - words / 1e4,
            # A stand-in of the same kind: the shortest answers, one in twelve or so.
            "empty": 1.0 * (words < 8),
        }

    before, after = answers(wrong), answers(wrong * (1 - case.mended))
    drawn = random.random(shape) < case.anew
    return [{name: np.where(drawn, after[name], before[name]) for name in before}, before]


def _amber(
    random: np.random.Generator, shape: tuple[int, int], rate: float, case: Case
) -> list[Columns]:
    """AMBER: rate = share of invented nouns and of wrong yes/no answers; for its score only."""
    wrong = _rates(random, shape, rate, 0.1)

    def answers(rates: FloatArray) -> Columns:
        nouns = 1 + random.poisson(2, shape)
        missed, mistaken = (random.binomial(QUESTIONS, rates) for _ in range(2))
        return {
            "answers": np.full(shape, 1.0 + 2 * QUESTIONS),
            "nouns": 1.0 * nouns,
            "hallucinated": 1.0 * random.binomial(nouns, rates),
            "is_no": np.full(shape, 1.0 * QUESTIONS),
            "true_no": 1.0 * QUESTIONS - missed,
            "said_no": 1.0 * QUESTIONS - missed + mistaken,
        }

    before, after = answers(wrong), answers(wrong * (1 - case.mended))
    drawn = random.random(shape) < case.anew
    return [{name: np.where(drawn, after[name], before[name]) for name in before}, before]


def _reward(
    random: np.random.Generator, shape: tuple[int, int], rate: float, case: Case
) -> list[Columns]:
    """A reward model: rate = share of pairs ranked wrongly; one or two pairs an image."""
    from scipy.special import ndtri

    words = np.round(random.normal(1, 6, (*shape, 2)))
    there = np.stack([np.ones(shape), random.random(shape) < 0.3], axis=-1)

    def margins(wrong: float) -> FloatArray:
        noise = 0.2 * (words - 1) / 6 + np.sqrt(0.8) * random.normal(size=words.shape)
        own = 0.4 * random.normal(size=(*shape, 1))
        return np.asarray(1.5 * (-ndtri(wrong) + noise + own), dtype=np.float64)

    before, after = margins(rate), margins(rate * (1 - case.mended))
    arm = np.where(random.random(words.shape) < case.anew, after, before)
    return [_reward_columns(side, words, there) for side in (arm, before)]


def _reward_columns(margin: FloatArray, words: FloatArray, there: FloatArray) -> Columns:
    right, confidence = 1.0 * (margin > 0), 1 / (1 + np.exp(-np.abs(margin)))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    rows = {
        "pairs": np.ones(margin.shape),
        "right": right,
        "margin": margin,
        "log_loss": np.logaddexp(0, -margin),
        "words": words,
        "margin_squared": margin**2,
        "words_squared": words**2,
        "margin_words": margin * words,
        "unequal": 1.0 * (words != 0),
        "longer_preferred": (words != 0) * ((margin > 0) == (words > 0)),
        "longer_chosen": 1.0 * (words > 0),
    }
    for number in range(BINS):
        here = place == number
        rows[f"right_{number}"] = right * here
        rows[f"confidence_{number}"] = confidence * here
        rows[f"doubt_{number}"] = confidence * (1 - confidence) * here
    return {name: (row * there).sum(-1) for name, row in rows.items()}


WORLDS: Mapping[str, tuple[World, Sequence[Metric]]] = {
    "POPE": (_pope(0.1, together=False), POPE.formulas),
    "POPE, answers of an image alike": (_pope(0.4, together=True), POPE.formulas),
    "CHAIR": (_chair, CHAIR.formulas),
    "AMBER": (_amber, tuple(metric for metric in AMBER if metric.kind == "combination")),
    "rewards": (_reward, reward_metrics()),
}


def simulate(
    sets: int, images: tuple[int, ...] = IMAGES, seed: int = 0, large: int = TRUTH
) -> Iterator[Row]:
    """Every cell: coverage of single values (`case` "") and of differences, and p."""
    for name, (world, metrics) in WORLDS.items():
        for rate in RATES:
            for case in CASES:
                known = world(generator(seed, "truth", name), (1, large), rate, case)
                truth = {metric.name: _truth(metric, known, case) for metric in metrics}
                for count in images:
                    turn = lru_cache(AGAIN)(
                        partial(_sides, world, name, (sets, count), rate, case, seed)
                    )
                    sides = turn(0)
                    for metric in metrics:
                        place = name, metric, rate, case
                        first = list(_rows(*place, sides, truth[metric.name]))
                        again = range(1, 1 + AGAIN * any(map(_is_doubtful, first)))
                        turns = [list(_rows(*place, turn(n), truth[metric.name])) for n in again]
                        yield from _averaged(turns or [first])
    yield from _areas(sets, images, seed)


def _sides(
    world: World,
    name: str,
    shape: tuple[int, int],
    rate: float,
    case: Case,
    seed: int,
    turn: int,
) -> list[Columns]:
    """Both models' columns in one simulation; `turn` counts those of the same cells."""
    return world(generator(seed, name, str(rate), case.label, shape[1], turn), shape, rate, case)


def _is_doubtful(row: Row) -> bool:
    p, wide = row.rejected, row.covered - row.most
    short = p is not None and REJECTED[0] - BY_CHANCE < p < REJECTED[0]
    wide_by_chance = 0 < wide < (BY_CHANCE if row.most == COVERED[1] else BY_CHANCE / 2)
    reachable = row.attainable <= row.most
    return bool(
        row.covered < COVERED[0] + BY_CHANCE
        or (p is not None and p > REJECTED[1])
        or (short and (row.possible or 0.0) >= REJECTED[0])
        or (wide_by_chance and reachable)
    )


def _averaged(turns: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """One row for each cell, of several simulations of equal size."""
    measured = ("covered", "count", "attainable", "rejected", "possible", "contradicting")
    for rows in zip(*turns, strict=True):
        numbers = {name: [getattr(row, name) for row in rows] for name in measured}
        known = {name: float(np.mean(n)) for name, n in numbers.items() if n[0] is not None}
        yield replace(rows[0], **known)


def _truth(metric: Metric, known: list[Columns], case: Case) -> tuple[float, float]:
    ours, theirs = (float(metric.formula(totals(side))[0]) for side in known)
    if metric.kind == "gap":
        # Margins are logits of a model that is off by a known curve only in the large.
        return ours, theirs
    return (ours, theirs) if case.mended else ((ours + theirs) / 2,) * 2


def _rows(
    world: str,
    metric: Metric,
    rate: float,
    case: Case,
    sides: list[Columns],
    truth: tuple[float, float],
) -> Iterator[Row]:
    images = next(iter(sides[0].values())).shape[-1]
    values = [metric.formula(totals(side)) for side in sides]
    if case is CASES[0]:
        low, high = interval(metric, sides[1])
        covered = _covered(low, high, truth[1], values[1])
        events = _events(metric, sides[1], truth[1])
        best = max(lowest_coverage(values[1]), _share_bound(metric, sides[1], truth[1]))
        yield Row(world, metric.name, rate, "", images, covered, events, best)
    test = paired_test(metric, *sides)
    difference = values[0] - values[1]
    known = ~np.isnan(difference)
    differing = differs(metric, *sides).sum(axis=-1)
    test = Test(test.low[known], test.high[known], test.p[known])
    changes = np.nan_to_num(gains(metric, *sides)[known])
    yield _paired(
        Row(world, metric.name, rate, case.label, images, 0.0, 0.0, 0.0),
        test, difference[known], differing[known], truth[0] - truth[1], not case.mended, changes,
    )  # fmt: skip


def _paired(
    row: Row,
    test: Test,
    value: FloatArray,
    differing: FloatArray,
    truth: float,
    equal: bool,
    changes: FloatArray,
) -> Row:
    """The row of a difference, whose coverage is that of equal models where they are `equal`."""
    most = 100 * float(np.mean(largest_tied_rate(differing, changes)))
    best = 100 - most
    row = replace(row, count=float(np.mean(differing)))
    if not equal:
        best = lowest_coverage(value)
        best = max(best, _paired_bound(test, value, truth, changes)) if row.edge else best
    return replace(
        row,
        covered=_covered(test.low, test.high, truth, value),
        attainable=best,
        rejected=_per_cent(test.p < 0.05) if equal else None,
        possible=most if equal else None,
        contradicting=_contradicting(test),
    )


def _events(metric: Metric, columns: Columns, truth: float) -> float:
    """What decides, see `Row.count`: Kish's effective number of images, where it is not a share."""
    if metric.kind != "share" or not isinstance(metric.formula, Ratio):
        squares = influence(metric.formula, columns) ** 2
        return float(np.nanmean(ratio(squares.sum(-1) ** 2, (squares**2).sum(-1))))
    top, bottom = metric.formula.parts(columns)
    balance = common_balance(top, bottom)[..., None]
    off = np.abs(top - balance * bottom) > 1e-9
    rare = bottom.sum(axis=-1) * min(truth, 1 - truth)
    return float(np.mean(np.where(np.isnan(balance[..., 0]), rare, off.sum(axis=-1))))


def _share_bound(metric: Metric, columns: Columns, truth: float) -> float:
    """What no interval of a share of rare events can do better; 0 where nothing is known."""
    if metric.kind != "share" or not isinstance(metric.formula, Ratio):
        return 0.0
    top, bottom = metric.formula.parts(columns)
    balance = common_balance(top, bottom)[..., None]
    if np.mean(np.isnan(balance)) < 0.5:
        # As of equal models: the images out of balance may as well be so the other way.
        off = (np.abs(top - balance * bottom) > 1e-9).sum(axis=-1)
        return 100 - 100 * float(np.mean(largest_rate(off)))
    rare = top if truth <= 0.5 else bottom - top
    items = float(np.mean(bottom.sum(axis=-1)))
    images = round(float(np.mean((bottom > 0).sum(axis=-1))))
    expected = items * min(truth, 1 - truth)
    # At most one event an image: the image is the item.
    items = images if rare.max() <= 1 else items
    if expected >= EDGE:
        return 0.0
    return share_coverage(
        expected / items, rare.sum(axis=-1), (rare > 0).sum(axis=-1), items, images
    )


def _paired_bound(test: Test, value: FloatArray, truth: float, changes: FloatArray) -> float:
    """What no interval of a difference can do better; the usual size of a change is its unit."""
    sizes = usual_event(changes)
    side = np.sign(truth)
    if side == 0 or np.isnan(sizes).all():
        return 0.0
    in_changes = min(abs(truth) / float(np.nanmedian(sizes)), changes.shape[-1])
    smallest = 1e-6 * np.abs(changes).max(axis=-1, keepdims=True)
    better, worse = ((side * way * changes > smallest).sum(axis=-1) for way in (1, -1))
    ahead = side * value > 0
    p = np.where(ahead, test.p / 2, 1 - test.p / 2)
    return paired_coverage(in_changes, better, worse, p, changes.shape[-1])


def _per_cent(holds: BoolArray) -> float:
    return 100 * float(np.mean(holds))


def _contradicting(test: Test) -> float:
    """Percent of the tests whose interval and p disagree."""
    return _per_cent(((test.low > 0) | (test.high < 0)) != (test.p < 0.05))


def _covered(low: FloatArray, high: FloatArray, truth: float, values: FloatArray) -> float:
    """Percent of the defined values whose interval holds the truth; one without ends holds it."""
    # No difference is 0 exactly; other true values are numbers that were rounded.
    rounding = 1e-9 if truth else 0.0
    holds = ~((low > truth + rounding) | (high < truth - rounding))
    return 100 * float(np.mean(holds[~np.isnan(values)]))


def _areas(sets: int, images: tuple[int, ...], seed: int) -> Iterator[Row]:
    """POPE's area under the curve: rate = one minus the area."""
    for rate in RATES:
        for case in (*CASES[:2], Case("all anew, 30 % fewer errors", 1.0, 0.3)):
            for count in images:
                first = list(_area_rows(sets, rate, case, count, seed, 0))
                again = AGAIN * any(_is_doubtful(row) for row in first)
                turns = [list(_area_rows(sets, rate, case, count, seed, 1 + n))
                         for n in range(again)]  # fmt: skip
                yield from _averaged(turns or [first])


def _area_rows(
    sets: int, rate: float, case: Case, count: int, seed: int, turn: int
) -> Iterator[Row]:
    from scipy.special import ndtr, ndtri

    shift = float(np.sqrt(2) * ndtri(1 - rate))
    more = float(np.sqrt(2) * ndtri(1 - rate * (1 - case.mended)))
    truths = [float(ndtr(moved / np.sqrt(2))) for moved in (more, shift)]
    truths[0] = truths[1] if case.anew < 1 else truths[0]
    random = generator(seed, "areas", str(rate), case.label, count, turn)
    held_alone, ours_all, theirs_all, found = 0, [], [], []
    owners = np.repeat(np.arange(count), 2 * QUESTIONS)
    yes = np.tile(np.arange(2 * QUESTIONS) < QUESTIONS, count)
    for _ in range(sets):
        own = np.sqrt(0.2) * random.normal(size=count)[owners]
        noise = np.sqrt(0.8) * random.normal(size=(2, len(owners)))
        new = random.random(len(owners)) < case.anew
        theirs = own + noise[1] + shift * yes
        ours = np.where(new, own + noise[0] + more * yes, theirs)
        arm, baseline = (clustered_area(side, yes, owners, count) for side in (ours, theirs))
        ours_all.append(arm)
        theirs_all.append(baseline)
        found.append(len(np.unique(owners[ours != theirs])))
        if case is not CASES[0]:
            continue
        low, high = area_interval(baseline)
        held_alone += low - 1e-9 <= truths[1] <= high + 1e-9
    values = np.array([[area.value for area in side] for side in (ours_all, theirs_all)])
    if case is CASES[0]:
        alone, best = 100 * held_alone / sets, lowest_coverage(values[1])
        yield Row("POPE", "auc", rate, "", count, alone, QUESTIONS * count * rate, best)
    yield _paired(
        Row("POPE", "auc", rate, case.label, count, 0.0, 0.0, 0.0),
        area_test(ours_all, theirs_all, found), values[0] - values[1],
        np.array(found, dtype=np.float64), truths[0] - truths[1], not case.mended,
        np.array([one.moved - other.moved
                  for one, other in zip(ours_all, theirs_all, strict=True)]),
    )  # fmt: skip


def main() -> None:
    """Simulate, keep every cell, and write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=500, help="data sets in each cell")
    parser.add_argument("--cells", type=Path, default=CELLS, help="the CSV that is written")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables are written")
    arguments = parser.parse_args()
    # All first: an interrupted simulation leaves the file as it is.
    rows = list(simulate(arguments.sets))
    write_rows(rows, arguments.cells)
    # As they were written: another digit could round a figure of the page otherwise.
    write_page(read_rows(arguments.cells), arguments.page)


if __name__ == "__main__":
    main()
