"""The order in which responses are shown: shuffled, or turned round, so that it cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from veridical.judges.judging import Case, Cost, Judge, PairwiseJudge, PairwiseVerdict, Verdict
from veridical.runtime.randomness import generator

Tie = Literal["", "judge", "order"]


@dataclass(frozen=True)
class Comparison:
    """What came of looking at two responses in one order, or in both.

    Attributes:
        better: 0 or 1; None for a tie, and where there is a problem.
        tie: why there is no better one: `judge` saw none, or the verdict turned with the `order`.
        agreed: whether both orders gave the same verdict; None with one order or a problem.
        first_won: for each look with a winner, whether that was the response shown first.
        margin: how much better the first is, the order's own effect taken out; None where the
            judge has no number.
        reasons: of each look.
        cost: of all looks.
        problem: why they could not be compared; "" if they were.
    """

    better: int | None = None
    tie: Tie = ""
    agreed: bool | None = None
    first_won: tuple[bool, ...] = ()
    margin: float | None = None
    reasons: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)
    problem: str = ""


def compare_pairs(
    look: PairwiseJudge, cases: Sequence[Case], swap: bool = True, least_margin: float = 0.0
) -> list[Comparison]:
    """Compare the two responses of each case.

    With both orders, words have to agree, else it is a tie; numbers are averaged: if the place
    adds b to the margin m, the looks give m + b and -m + b, and half their difference is m.

    Args:
        look: who compares.
        cases: each with two responses.
        swap: look in both orders.
        least_margin: numbers that are not above it are ties.
    """
    turned = [replace(case, responses=tuple(reversed(case.responses))) for case in cases]
    looks = look([*cases, *turned] if swap else cases)
    if not swap:
        return [_by_one(one, least_margin) for one in looks]
    halves = zip(looks[: len(cases)], looks[len(cases) :], strict=True)
    return [_by_both(one, other, least_margin) for one, other in halves]


def _by_one(look: PairwiseVerdict, least_margin: float) -> Comparison:
    small = look.margin is not None and abs(look.margin) <= least_margin
    better = None if small else look.better
    return Comparison(
        better=better,
        tie="" if better is not None or look.problem else "judge",
        first_won=_first_won(look),
        margin=look.margin,
        reasons=(look.reason,),
        cost=look.cost,
        problem=look.problem,
    )


def _by_both(one: PairwiseVerdict, other: PairwiseVerdict, least_margin: float) -> Comparison:
    cost, reasons = one.cost + other.cost, (one.reason, other.reason)
    if one.problem or other.problem:
        return Comparison(reasons=reasons, cost=cost, problem=one.problem or other.problem)
    second = None if other.better is None else 1 - other.better
    agreed = one.better == second
    margin: float | None = None
    if one.margin is not None and other.margin is not None:
        margin = (one.margin - other.margin) / 2
        better = None if abs(margin) <= least_margin else int(margin < 0)
        tie: Tie = "judge" if better is None else ""
    else:
        better = one.better if agreed else None
        tie = "" if better is not None else "judge" if agreed else "order"
    return Comparison(
        better=better,
        tie=tie,
        agreed=agreed,
        first_won=(*_first_won(one), *_first_won(other)),
        margin=margin,
        reasons=reasons,
        cost=cost,
    )


def _first_won(look: PairwiseVerdict) -> tuple[bool, ...]:
    return () if look.better is None else (look.better == 0,)


@dataclass(frozen=True)
class Marked:
    """A verdict that has been freed from the order.

    Attributes:
        verdict: its ratings in the record's order; its reasons as the judge gave them, one for
            each order.
        orders: for each look, the numbers of the responses as they were shown.
        equal: how many marks were equal in both orders, and of how many; (0, 0) with one order.
    """

    verdict: Verdict
    orders: tuple[tuple[int, ...], ...]
    equal: tuple[int, int] = (0, 0)


def mark(judge: Judge, cases: Sequence[Case], seed: int, swap: bool = False) -> list[Marked]:
    """Have all responses of each case marked together, in an order drawn by seed.

    Args:
        judge: who marks.
        cases: with the responses in the record's order.
        seed: of the order.
        swap: ask in the reversed order too, and take the mean of both marks.
    """
    orders = [_drawn_order(case, seed) for case in cases]
    shown = [_in_order(case, order) for case, order in zip(cases, orders, strict=True)]
    reverse = [order[::-1] for order in orders]
    if not swap:
        verdicts = judge(shown)
        return [
            Marked(_in_record_order(verdict, order), (order,))
            for verdict, order in zip(verdicts, orders, strict=True)
        ]
    turned = [_in_order(case, order) for case, order in zip(cases, reverse, strict=True)]
    verdicts = judge([*shown, *turned])
    return [
        _mean(_in_record_order(one, order), _in_record_order(other, back), (order, back))
        for one, other, order, back in zip(
            verdicts[: len(cases)], verdicts[len(cases) :], orders, reverse, strict=True
        )
    ]


def _drawn_order(case: Case, seed: int) -> tuple[int, ...]:
    drawn = generator(seed, "order", case.prompt.id).permutation(len(case.responses))
    return tuple(int(number) for number in drawn)


def _in_order(case: Case, order: Sequence[int]) -> Case:
    return replace(case, responses=tuple(case.responses[number] for number in order))


def _in_record_order(verdict: Verdict, order: Sequence[int]) -> Verdict:
    if verdict.problem:
        return verdict
    by_number = dict(zip(order, verdict.ratings, strict=True))
    return replace(verdict, ratings=tuple(by_number[number] for number in sorted(by_number)))


def _mean(one: Verdict, other: Verdict, orders: tuple[tuple[int, ...], tuple[int, ...]]) -> Marked:
    cost = one.cost + other.cost
    if one.problem or other.problem:
        return Marked(Verdict(cost=cost, problem=one.problem or other.problem), orders)
    pairs = [
        (first[aspect], second[aspect])
        for first, second in zip(one.ratings, other.ratings, strict=True)
        for aspect in first
    ]
    ratings = tuple(
        {aspect: fmean((first[aspect], second[aspect])) for aspect in first}
        for first, second in zip(one.ratings, other.ratings, strict=True)
    )
    equal = sum(first == second for first, second in pairs)
    return Marked(
        Verdict(ratings, (*one.reasons, *other.reasons), cost), orders, (equal, len(pairs))
    )
