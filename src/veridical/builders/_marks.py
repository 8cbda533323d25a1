"""Samples with marks for every response, whoever gave them: `build rate` and `build annotate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from veridical.builders._judged import JudgedSample
from veridical.builders._rows import Skipped
from veridical.judges.judging import Cost, Verdict


@dataclass(frozen=True)
class Marks:
    """What a judge says of one record's responses.

    Attributes:
        ratings: for each response, aspect to value; empty where there is a problem.
        reasons: as the judge gave them.
        problem: why there are none; "" if there are.
        orders: for each look, the numbers of the responses as they were shown.
        equal: how many marks were equal in both orders, and of how many.
        cost: of this record.
    """

    ratings: list[dict[str, float]]
    reasons: list[str]
    problem: str
    orders: list[list[int]]
    equal: tuple[int, int]
    cost: Cost


@dataclass(frozen=True)
class MarkedSample:
    """A record with its marks."""

    item: JudgedSample
    marks: Marks


def stored_marks(
    verdict: Verdict, orders: Sequence[Sequence[int]] = (), equal: tuple[int, int] = (0, 0)
) -> Marks:
    """A verdict as it is kept."""
    return Marks(
        [dict(ratings) for ratings in verdict.ratings], list(verdict.reasons), verdict.problem,
        [list(order) for order in orders], equal, verdict.cost,
    )  # fmt: skip


def marked_or_skipped(item: JudgedSample, marks: Marks, field: str) -> MarkedSample | Skipped:
    """A record with its marks; one that has none is skipped for its `field`."""
    return Skipped(item.id, field, marks.problem) if marks.problem else MarkedSample(item, marks)


def means(kept: Sequence[MarkedSample]) -> dict[str, float]:
    """The mean of each aspect over all responses."""
    ratings = [rating for one in kept for rating in one.marks.ratings]
    return {name: round(fmean(row[name] for row in ratings), 4) for name in ratings[0]}


def equal_share(kept: Sequence[MarkedSample]) -> float | None:
    """The share of marks that were equal in both orders; None with one order."""
    pairs = [one.marks.equal for one in kept]
    compared = sum(of for _, of in pairs)
    return round(sum(equal for equal, _ in pairs) / compared, 4) if compared else None
