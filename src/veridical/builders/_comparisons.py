"""Responses to one prompt, compared two at a time, and the pairs that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from veridical.builders._judged import JudgedSample
from veridical.builders._rows import Pair, Skipped
from veridical.builders.options import Rule
from veridical.judges.judging import Cost, PairwiseJudge
from veridical.judges.orders import Comparison, Tie, compare_pairs
from veridical.runtime.json_types import JsonObject


@dataclass(frozen=True)
class ComparedTwo:
    """What came of two responses; the fields are those of `Comparison`, by response number.

    Attributes:
        responses: their numbers.
        same: whether they are the same text, so that nobody was asked.
        better: the number of the better one.
    """

    responses: tuple[int, int]
    same: bool
    tie: Tie
    agreed: bool | None
    first_won: list[bool]
    margin: float | None
    reasons: list[str]
    problem: str
    better: int | None
    cost: Cost

    @property
    def pair(self) -> tuple[int, int] | None:
        """The chosen and the rejected number; None where nothing was decided."""
        if self.better is None:
            return None
        return self.better, sum(self.responses) - self.better


@dataclass(frozen=True)
class Compared:
    """Every two responses of one record."""

    id: str
    comparisons: list[ComparedTwo]

    def as_rows(self) -> Iterator[JsonObject]:
        """The rows of `comparisons.jsonl`."""
        return ({"id": self.id, **asdict(row)} for row in self.comparisons)


@dataclass(frozen=True)
class DecidedPair:
    """Two responses of a record, of which one is better.

    Attributes:
        item: the record.
        better: number of the chosen response.
        worse: number of the rejected one.
        several: whether the record may give several pairs.
        made: how it was made, for `source`.
    """

    item: JudgedSample
    better: int
    worse: int
    several: bool
    made: Mapping[str, Any]

    def pair(self) -> Pair:
        """The row; its images are read now."""
        return self.item.sample.pair(self.better, self.worse, self.several, self.made)


def compare_chunk(
    look: PairwiseJudge, items: Sequence[JudgedSample], swap: bool, margin: float
) -> list[Compared]:
    """Compare every two responses of some records; equal texts are ties that nobody is asked."""
    every = [
        (number, pair)
        for number, item in enumerate(items)
        for pair in combinations(range(len(item.sample.texts)), 2)
    ]
    asked = [
        (number, pair)
        for number, pair in every
        if items[number].sample.texts[pair[0]] != items[number].sample.texts[pair[1]]
    ]
    cases = [
        replace(
            items[number].case,
            responses=tuple(items[number].sample.texts[index] for index in pair),
        )
        for number, pair in asked
    ]
    found = dict(zip(asked, compare_pairs(look, cases, swap, margin), strict=True))
    results = [Compared(item.id, []) for item in items]
    for number, pair in every:
        results[number].comparisons.append(_compared_two(pair, found.get((number, pair))))
    return results


def _compared_two(pair: tuple[int, int], comparison: Comparison | None) -> ComparedTwo:
    one = Comparison(tie="judge") if comparison is None else comparison
    return ComparedTwo(
        responses=pair,
        same=comparison is None,
        tie=one.tie,
        agreed=one.agreed,
        first_won=list(one.first_won),
        margin=one.margin,
        reasons=list(one.reasons),
        problem=one.problem,
        better=None if one.better is None else pair[one.better],
        cost=one.cost,
    )


def decided_pairs(compared: Compared, rule: Rule) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of response numbers.

    Under `extremes` the response with the most wins less losses (the first of equals) against the
    one with the fewest (the last of equals), if that very comparison was decided so: verdicts may
    go round in a circle.
    """
    pairs = [row.pair for row in compared.comparisons if row.pair is not None]
    if rule == "all" or not pairs:
        return pairs
    numbers = sorted({number for row in compared.comparisons for number in row.responses})
    balance = dict.fromkeys(numbers, 0)
    for better, worse in pairs:
        balance[better] += 1
        balance[worse] -= 1
    best = max(numbers, key=lambda number: balance[number])
    worst = min(reversed(numbers), key=lambda number: balance[number])
    return [pair for pair in pairs if pair == (best, worst)]


def pairs_or_skipped(
    item: JudgedSample, compared: Compared, rule: Rule, made: Mapping[str, Any]
) -> Iterator[DecidedPair | Skipped]:
    """The pairs of one record, the comparisons that could not be made, or why there is no pair.

    Args:
        item: the record.
        compared: its comparisons.
        rule: which decided comparisons become a pair.
        made: for `source`, beside what is said of the pair's own comparison.
    """
    problems = [row for row in compared.comparisons if row.problem]
    for row in problems:
        one, other = row.responses
        yield Skipped(compared.id, f"responses/{one} and responses/{other}", row.problem)
    pairs = decided_pairs(compared, rule)
    if not pairs and not problems:
        reason = "no pair is decided" if compared.comparisons else "there is only one response"
        yield Skipped(compared.id, "responses", reason)
    said = {row.pair: row for row in compared.comparisons}
    for better, worse in pairs:
        row = said[better, worse]
        about = {
            "responses": [better, worse],
            "agreed": row.agreed,
            "margin": None if row.margin is None else abs(row.margin),
            "reasons": row.reasons,
        }
        yield DecidedPair(item, better, worse, rule == "all", {**made, "rule": rule, **about})


def judges_agreement(rows: Sequence[ComparedTwo]) -> JsonObject:
    """How the comparisons ended, and how far the verdicts depend on the order.

    Each comparison is counted once: decided, the same text, a tie of the judge's, a verdict that
    turned with the order, or unscored. `agreed` is the share of those looked at in both orders
    whose verdict was the same; `first_won` the share of verdicts for the response shown first (one
    half without bias).
    """
    both = [row.agreed for row in rows if row.agreed is not None]
    first = [won for row in rows for won in row.first_won]
    return {
        "comparisons": len(rows),
        "decided": sum(row.better is not None for row in rows),
        "same_text": sum(row.same for row in rows),
        "ties": sum(row.tie == "judge" and not row.same for row in rows),
        "turned_with_order": sum(row.tie == "order" for row in rows),
        "unscored": sum(bool(row.problem) for row in rows),
        "agreed": round(sum(both) / len(both), 4) if both else None,
        "first_won": round(sum(first) / len(first), 4) if first else None,
    }
