"""How often the intervals of the benchmarks' own metrics hold the truth, in simulated evaluations.

    python benchmarks/benchmark_coverage.py            (some minutes on an idle core)
    python benchmarks/benchmark_coverage.py --only label_free

`coverage.py` has POPE, CHAIR, AMBER and rewards, in every detail. This has what the other
benchmarks score: ratings, marks, short answers, whole questions and figures, preferences, with 50,
200 and 1,000 clusters. Two models answer the same questions, which are as hard for both; the second
is either as good or better. Writes docs/statistics/benchmarks.csv, and prints the table of
docs/statistics.md. Nothing depends on the machine.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from veridical.eval.alpaca_eval import BENCHMARK as ALPACA_EVAL
from veridical.eval.dash_b import BENCHMARK as DASH_B
from veridical.eval.hallusion_metrics import FORMULAS as HALLUSION
from veridical.eval.label_free import BENCHMARK as LABEL_FREE
from veridical.eval.llava_bench import BENCHMARK as LLAVA_BENCH
from veridical.eval.mmbench import BENCHMARK as MMBENCH
from veridical.eval.mmhal import BENCHMARK as MMHAL
from veridical.eval.mmvet import BENCHMARK as MMVET
from veridical.eval.mt_bench import BENCHMARK as MT_BENCH
from veridical.eval.object_halbench import BENCHMARK as OBJECT_HALBENCH
from veridical.eval.short_answers import FORMULAS as SHORT
from veridical.eval.text_pairs import BENCHMARK as TEXT_PAIRS
from veridical.eval.vl_rewardbench import BENCHMARK as VL_REWARDBENCH
from veridical.eval.vl_rewardbench import GROUPS
from veridical.runtime.randomness import generator
from veridical.scoring.statistics import FloatArray, Metric
from veridical.scoring.statistics.paired import DIGITS, ENUMERATED, paired_test, signed_ranks
from veridical.scoring.statistics.single import interval
from veridical.scoring.statistics.sums import totals

CLUSTERS = (50, 200, 1000)
SETS = 1000
TRUTH = 400_000
"""One data set this large stands for the truth."""
ANEW, GAIN = 0.5, 0.4
"""The share of clusters that the second model answers anew, and how much better it is (in
logits, or standard deviations of a rating)."""
FILE = Path(__file__).parents[1] / "docs" / "statistics" / "benchmarks.csv"
Shape: TypeAlias = tuple[int, int]
Columns: TypeAlias = dict[str, FloatArray]
Answers: TypeAlias = Callable[[float], Mapping[str, NDArray[Any]]]
World: TypeAlias = Callable[[np.random.Generator, Shape], Answers]


@dataclass(frozen=True)
class Cell:
    """What was measured of one metric, in percent of the data sets.

    Attributes:
        benchmark: whose.
        metric: which.
        clusters: how many images or questions.
        covered: intervals of a model's value that hold the truth.
        difference: intervals of the difference from a better model that do.
        equal: intervals of the difference from an equally good model that do.
        rejected: p below 0.05 for equally good models.
        wilcoxon: Wilcoxon's p below 0.05 for these; None where the metric is not a rating.
    """

    benchmark: str
    metric: str
    clusters: int
    covered: float
    difference: float
    equal: float
    rejected: float
    wilcoxon: float | None


def _some(random: np.random.Generator, shape: tuple[int, ...], share: float) -> FloatArray:
    return (random.random(shape) < share).astype(np.float64)


def _rating(random: np.random.Generator, shape: Shape) -> Answers:
    """MMHal: one rating from 0 to 6 an image; one in fifty can't be read."""
    ease = random.normal(3.3, 1.4, shape)

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        rating = np.clip(np.round(ease + gain + random.normal(0, 1.2, shape)), 0, 6)
        rated = _some(random, shape, 0.98)
        return {
            "rows": np.ones(shape), "unread": 1 - rated, "rated": rated, "rating": rated * rating,
            "hallucinated": rated * (rating < 3),
            "informative": rated * np.where(rating >= 3, rating - 3, rating) / 3,
        }  # fmt: skip

    return answers


def _turns(random: np.random.Generator, shape: Shape) -> Answers:
    """MT-Bench: two ratings from 1 to 10 a question."""
    ease = random.normal(6.5, 1.5, (*shape, 1))

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        rating = np.clip(np.round(ease + gain + random.normal(0, 1.5, (*shape, 2))), 1, 10)
        rated = _some(random, (*shape, 2), 0.98)
        return {
            "answers": np.full(shape, 2.0), "rated": rated.sum(-1),
            "rating": (rated * rating).sum(-1), "unread": (1 - rated).sum(-1),
        }  # fmt: skip

    return answers


def _marks(random: np.random.Generator, shape: Shape) -> Answers:
    """MM-Vet: a mark from 0 to 1 in tenths, often 0 or 1."""
    ease = random.normal(0, 1.5, shape)

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        mark = np.round(expit(1.5 * (ease + gain + random.normal(0, 1, shape))), 1)
        marked = _some(random, shape, 0.98)
        return {"rows": np.ones(shape), "marked": marked, "mark": marked * mark,
                "unread": 1 - marked}  # fmt: skip

    return answers


def _short(random: np.random.Generator, shape: Shape) -> Answers:
    """TextVQA, VQAv2, GQA: one to six questions an image, partly right."""
    asked = 1 + random.integers(0, 6, shape)
    there = np.arange(6) < asked[..., None]
    ease = random.normal(0.5, 0.8, (*shape, 1)) + random.normal(0, 1, (*shape, 6))

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        sure = expit(2 * (ease + gain + random.normal(0, 0.7, (*shape, 6))))
        right = np.select([sure < 0.3, sure < 0.4, sure < 0.5, sure < 0.6], [0, 0.3, 0.6, 0.9], 1.0)
        empty = random.random((*shape, 6)) < 0.02
        return {"questions": 1.0 * asked, "right": (there * right * ~empty).sum(-1),
                "empty": (1.0 * there * empty).sum(-1)}  # fmt: skip

    return answers


def _circular(random: np.random.Generator, shape: Shape) -> Answers:
    """MMBench: four rotations a question, which are easy or hard together."""
    ease = random.normal(1.2, 2, (*shape, 1))

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        right = random.random((*shape, 4)) < expit(ease + gain)
        unparsed = ~right & (random.random((*shape, 4)) < 0.1)
        return {
            "answers": np.full(shape, 4.0), "unparsed": 1.0 * unparsed.sum(-1),
            "right_answers": 1.0 * right.sum(-1), "questions": np.ones(shape),
            "right": 1.0 * right.all(-1), "vanilla": 1.0 * right[..., 0],
        }  # fmt: skip

    return answers


def _figures(random: np.random.Generator, shape: Shape) -> Answers:
    """HallusionBench: sets of two questions on an easy figure and on an edited one."""
    ease = random.normal(0.6, 0.8, (*shape, 1, 1)) + random.normal(0, 0.6, (*shape, 2, 2))
    yes = random.random((*shape, 2, 2)) < 0.43

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        right = random.random((*shape, 2, 2)) < expit(ease + gain)  # figures, questions
        unclear = ~right & (random.random(right.shape) < 0.1)
        both, two = (1.0 * right.all(axis).sum(-1) for axis in (-2, -1))
        said = np.where(right, yes, ~yes)
        four, pair = np.full(shape, 4.0), np.full(shape, 2.0)
        return {
            "answers": four, "rows": four, "unread": 0 * four,
            "right": 1.0 * right.sum((-2, -1)), "unclear": 1.0 * unclear.sum((-2, -1)),
            "said_yes": 1.0 * said.sum((-2, -1)), "is_yes": 1.0 * yes.sum((-2, -1)),
            "wrong": 1.0 * (~right).sum((-2, -1)), "wrong_yes": 1.0 * (~right & said).sum((-2, -1)),
            "pairs": pair, "right_pairs": both, "figures": pair, "right_figures": two,
            "easy": pair, "right_easy": 1.0 * right[..., 0, :].sum(-1),
            "hard": pair, "right_hard": 1.0 * right[..., 1, :].sum(-1),
        }  # fmt: skip

    return answers


def _scores(random: np.random.Generator, shape: Shape) -> Answers:
    """LLaVA-Bench: two or three questions an image, both answers scored from 1 to 10."""
    asked = 2 + random.integers(0, 2, shape)
    there = np.arange(3) < asked[..., None]
    ease = random.normal(0, 1, (*shape, 1)) + random.normal(0, 1, (*shape, 3))

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        def halves(mean: float) -> FloatArray:
            own = mean + 0.8 * ease + random.normal(0, 1, ease.shape)
            return np.round(2 * np.clip(own, 1, 10)) / 2

        candidate, reference = halves(6.5 + gain), halves(8)
        later = np.round(random.normal(0.3, 1, ease.shape))
        one, unread = np.ones(ease.shape), random.random(ease.shape) < 0.02
        counts = {"judged": one, "candidate": candidate, "reference": reference,
                  "win": candidate > reference, "tie": candidate == reference,
                  "loss": candidate < reference, "both": one, "gain": later,
                  "asked": 2 * one, "unread": unread}  # fmt: skip
        return {name: (there * column).sum(-1) for name, column in counts.items()}

    return answers


def _preferences(random: np.random.Generator, shape: Shape) -> Answers:
    """AlpacaEval: each instruction in both orders, with a liking for the first answer."""
    ease = random.normal(-1.5, 1.5, (*shape, 1))

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        won = (random.random((*shape, 2)) < expit(ease + gain + np.array([0.3, -0.3]))).mean(-1)
        judged = _some(random, shape, 0.98)
        return {
            "judged": judged, "won": judged * won,
            "discrete": judged * np.select([won > 0.5, won == 0.5], [1, 0.5], 0.0),
            "length": np.round(random.lognormal(5, 0.8, shape)),
            "baseline_length": np.round(random.lognormal(5.5, 0.6, shape)),
            "rows": np.ones(shape), "unread": 1 - judged,
        }  # fmt: skip

    return answers


def _judge(random: np.random.Generator, shape: Shape) -> Answers:
    """VL-RewardBench: pairs of three parts, each in both orders; the first answer is liked."""
    part = random.choice(3, shape, p=[0.6, 0.25, 0.15])
    ease = random.normal(0.6, 1.5, (*shape, 1)) - 0.3 * part[..., None]
    longer = random.random(shape) < 0.45

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        right = random.random((*shape, 2)) < expit(ease + gain + np.array([0.4, -0.4]))
        read = random.random((*shape, 2)) < 0.97
        looks = 1.0 * read.sum(-1)
        judged = 1.0 * (looks > 0)
        worth = np.where(looks > 0, (right & read).sum(-1) / np.maximum(looks, 1), 0.0)
        first = (np.array([True, False]) == right) & read
        liked = (right == longer[..., None]) & read
        own = {
            "pairs": np.ones(shape), "judged": judged, "right": worth,
            "both": 1.0 * read.all(-1), "consistent": 1.0 * (right & read).all(-1),
            "looks": np.full(shape, 2.0), "unread": 2 - looks, "decided": looks,
            "first": 1.0 * first.sum(-1), "unequal": looks, "longer": 1.0 * liked.sum(-1),
            "shorter_right": 1.0 * ~longer, "first_right": np.ones(shape), "left_out": 1 - judged,
        }  # fmt: skip
        for n, group in enumerate(GROUPS):
            own |= {f"{name}/{group}": own[name] * (part == n) for name in ("right", "judged")}
        return own

    return answers


def _objects(random: np.random.Generator, shape: Shape) -> Answers:
    """DASH-B: one question an image, half of them about what is not there."""
    ease = random.normal(0.8, 1.2, shape)
    absent = random.random(shape) < 0.5

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        right = random.random(shape) < expit(ease + gain - 0.6 * absent)
        unparsed = ~right & (random.random(shape) < 0.1)
        return {
            "questions": np.ones(shape), "right": 1.0 * right, "present": 1.0 * ~absent,
            "true_yes": 1.0 * (right & ~absent), "absent": 1.0 * absent,
            "true_no": 1.0 * (right & absent), "unparsed": 1.0 * unparsed,
        }  # fmt: skip

    return answers


def _texts(random: np.random.Generator, shape: Shape) -> Answers:
    """Text pairs: right or wrong, and nats of 10 to 60 tokens."""
    ease = random.normal(2, 1.5, shape)
    tokens = 1.0 * random.integers(10, 61, shape)

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        each = np.exp(random.normal(-0.6 - 0.1 * gain, 0.25, shape) - 0.1 * ease)
        return {"pairs": np.ones(shape), "right": _chance(random, expit(ease + gain)),
                "nats": tokens * each, "tokens": tokens}  # fmt: skip

    return answers


def _descriptions(random: np.random.Generator, shape: Shape) -> Answers:
    """Object HalBench: a description an image; a poor one invents several things."""
    objects = 1 + random.binomial(11, 0.35, shape)
    ease = random.normal(1.5, 1, shape)

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        read = _some(random, shape, 0.98)
        recalled = random.binomial(objects, expit(ease + 0.3 * gain - 1))
        again = random.poisson(0.5 * recalled)
        invented = read * random.poisson(1.2 * expit(-(ease + gain)))
        named = read * (recalled + again) + invented
        return {
            "rows": np.ones(shape), "unread": 1 - read, "answers": read,
            "words": np.round(random.lognormal(4.3, 0.3, shape)),
            "with_objects": 1.0 * (named > 0), "without_objects": read * (named == 0),
            "wrong": 1.0 * (invented > 0), "named": named, "hallucinated": invented,
            "recalled": read * recalled, "objects": read * objects,
        }  # fmt: skip

    return answers


def _held_out(random: np.random.Generator, shape: Shape) -> Answers:
    """The label-free check: one to three pairs an image, with log-probabilities in nats."""
    asked = 1 + random.integers(0, 3, shape)
    there = np.arange(3) < asked[..., None]
    ease = random.normal(0, 2, (*shape, 1)) + random.normal(0, 3, (*shape, 3))
    tokens = 1.0 * random.integers(8, 41, ease.shape)

    def answers(gain: float) -> Mapping[str, NDArray[Any]]:
        lead = 1 + 3 * gain + ease + random.normal(0, 1.5, ease.shape)
        blind = 0.5 * ease + random.normal(0, 2, ease.shape)
        words = np.round(random.lognormal(2.5 + 0.1 * gain, 0.4, ease.shape))
        words *= random.random(ease.shape) < 0.99
        counts = {
            "pairs": np.ones(ease.shape), "preferred": lead > 0, "blind_preferred": blind > 0,
            "lead": lead, "from_image": lead - blind,
            "nats": tokens * random.gamma(4, 0.2 - 0.1 * gain, ease.shape), "tokens": tokens,
            "text_nats": tokens * random.gamma(4, 0.3 - 0.1 * gain, ease.shape),
            "text_tokens": tokens, "words": words, "empty": words == 0,
            "refusals": random.random(ease.shape) < 0.04 * expit(-gain),
        }  # fmt: skip
        return {name: (there * column).sum(-1) for name, column in counts.items()}

    return answers


def _chance(random: np.random.Generator, share: FloatArray) -> FloatArray:
    return (random.random(share.shape) < share).astype(np.float64)


WORLDS: Mapping[str, tuple[World, Sequence[Metric]]] = {
    "mmhal": (_rating, MMHAL.formulas),
    "mt_bench": (_turns, MT_BENCH.formulas),
    "mmvet": (_marks, MMVET.formulas),
    "textvqa, vqav2, gqa": (_short, SHORT),
    "mmbench": (_circular, MMBENCH.formulas),
    "hallusionbench": (_figures, [one for one in HALLUSION if one.name != "unread"]),
    "llava_bench": (_scores, LLAVA_BENCH.formulas),
    "alpaca_eval": (_preferences, ALPACA_EVAL.formulas),
    "vl_rewardbench": (
        # The baselines are of the pairs alone, the same for every judge.
        _judge, [one for one in VL_REWARDBENCH.formulas if not one.name.endswith("_right")],
    ),
    "dash_b": (_objects, DASH_B.formulas),
    "text_pairs": (_texts, TEXT_PAIRS.formulas),
    "object_halbench": (_descriptions, OBJECT_HALBENCH.formulas),
    "label_free": (_held_out, LABEL_FREE.formulas),
}  # fmt: skip


def simulate(
    sets: int = SETS,
    clusters: Sequence[int] = CLUSTERS,
    seed: int = 0,
    large: int = TRUTH,
    only: Sequence[str] = (),
) -> Iterator[Cell]:
    """Every cell, benchmark by benchmark; the cells of one do not depend on the others."""
    for name in only or WORLDS:
        world, metrics = WORLDS[name]
        known = _sides(world, generator(seed, "truth", name), (1, large))
        truth = {
            metric.name: [float(metric.formula(totals(side))[0]) for side in known]
            for metric in metrics
        }
        for count in clusters:
            sides = _sides(world, generator(seed, name, count), (sets, count))
            for metric in metrics:
                yield _cell(name, metric, count, sides, truth[metric.name])


def _sides(world: World, random: np.random.Generator, shape: Shape) -> list[Columns]:
    """The columns of a model, of one that is as good, and of one that is better."""
    answers = world(random, shape)
    first = {name: np.asarray(own, np.float64) for name, own in answers(0.0).items()}
    drawn = random.random(shape) < ANEW
    found = [first]
    for gain in (0.0, GAIN):
        second = answers(gain)
        found.append({name: np.where(drawn, second[name], first[name]) for name in first})
    return found


def _cell(
    name: str, metric: Metric, count: int, sides: Sequence[Columns], truth: Sequence[float]
) -> Cell:
    first, same, better = sides
    low, high = interval(metric, first)
    equal, gained = paired_test(metric, same, first), paired_test(metric, better, first)
    ranks = None
    if metric.scale is not None:
        changes = np.round(metric.formula(same) - metric.formula(first), DIGITS)
        approximate = stats.wilcoxon(changes, method="approx", axis=-1, nan_policy="omit")
        p = np.array(approximate.pvalue)
        for n in map(int, np.flatnonzero(np.count_nonzero(changes, axis=-1) <= ENUMERATED)):
            exact = signed_ranks(metric, _of(same, n), _of(first, n))
            p[n] = 1.0 if exact is None else exact
        ranks = _per_cent(np.less(p, 0.05))
    rounded = [round(value, 12) for value in truth]
    return Cell(
        name, metric.name, count,
        _covered(low, high, (rounded[0] + rounded[1]) / 2),
        _covered(gained.low, gained.high, rounded[2] - (rounded[0] + rounded[1]) / 2),
        _covered(equal.low, equal.high, 0.0),
        _per_cent(equal.p < 0.05), ranks,
    )  # fmt: skip


def _of(columns: Columns, number: int) -> Columns:
    return {name: column[number] for name, column in columns.items()}


def _covered(low: FloatArray, high: FloatArray, truth: float) -> float:
    """An interval without ends holds the truth."""
    return _per_cent(np.logical_not((low > truth) | (high < truth)))


def _per_cent(holds: NDArray[Any]) -> float:
    return round(100 * float(np.mean(holds)), 1)


FIELDS = {"covered": (93, 97), "difference": (93, 97), "equal": (93, 97), "rejected": (3, 7),
          "wilcoxon": (3, 7)}  # fmt: skip
"""What is measured, and its target."""


def table(cells: Sequence[Cell]) -> list[str]:
    """Lines of Markdown: for each benchmark and count the lowest and highest of its metrics."""
    head = ["benchmark", "clusters", "a model's value", "difference", "difference of equals",
            "p below 0.05", "Wilcoxon's"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, count in dict.fromkeys((cell.benchmark, cell.clusters) for cell in cells):
        own = [cell for cell in cells if (cell.benchmark, cell.clusters) == (name, count)]
        ranges = [_range([getattr(cell, field) for cell in own]) for field in FIELDS]
        lines.append(f"| {name} | {count:,} | {' | '.join(ranges)} |")
    return lines


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"


def outside(cells: Sequence[Cell]) -> list[str]:
    """The metrics that miss the target somewhere, with what they have there."""
    lines = []
    for cell in cells:
        missed = [
            f"{field} {value}"
            for field, (low, high) in FIELDS.items()
            if (value := getattr(cell, field)) is not None and not low <= value <= high
        ]
        if missed:
            lines.append(f"{cell.benchmark} {cell.metric}, {cell.clusters}: {', '.join(missed)}")
    return lines


def _known() -> list[Cell]:
    """What the file has."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return [
            Cell(
                row["benchmark"], row["metric"], int(row["clusters"]), float(row["covered"]),
                float(row["difference"]), float(row["equal"]), float(row["rejected"]),
                float(row["wilcoxon"]) if row["wilcoxon"] else None,
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def main() -> None:
    """Simulate, write the file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(WORLDS), default=[], help="benchmarks")
    only = parser.parse_args().only
    cells = [cell for cell in _known() if only and cell.benchmark not in only]
    for cell in simulate(only=only):
        cells.append(cell)
        print(cell, flush=True)
    places = list(WORLDS)
    cells.sort(key=lambda cell: places.index(cell.benchmark))
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(cells[0])))
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)
    print("\n".join([*table(cells), *outside(cells)]))


if __name__ == "__main__":
    main()
