"""Lengths, and how often the longer answer, or the first, is the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veridical.inspection.differences import AnswerDifference
from veridical.inspection.facts import Fact, quantiles, share
from veridical.inspection.fields import count_values
from veridical.inspection.pairs import Pairs

SECTION = "Lengths and positions"
MOST_FIELDS, MOST_VALUES = 8, 12
"""Fields and values that are listed; what is left is summed up (our choice)."""


@dataclass(frozen=True)
class FieldValue:
    """The rows with one value of a field.

    Attributes:
        field: its name.
        value: of it.
        pairs: how many.
        longer: share in which the chosen answer has more words.
        equal: share in which both have as many.
        first: share in which the chosen answer stands first; None where there is no order.
    """

    field: str
    value: str
    pairs: int
    longer: float
    equal: float
    first: float | None


def describe_lengths(pairs: Pairs, groups: Sequence[int]) -> list[Fact]:
    """Lengths in words, the accuracy of choosing the longer answer, and of choosing the first."""
    found = pairs.differences
    longer = [_longer(pair) for pair in found]
    facts = [
        quantiles(SECTION, f"Words of the {branch} answer, median",
                  [getattr(pair, f"{branch}_words") for pair in found], "words")
        for branch in ("chosen", "rejected")
    ]  # fmt: skip
    facts += [
        share(SECTION, "The chosen answer is longer", [float(v == 1) for v in longer], groups),
        share(SECTION, "Both are equally long", [float(v == 0.5) for v in longer], groups),
        share(SECTION, "Right by choosing the longer", longer, groups, "equal lengths count half"),
        share(SECTION, "Right by choosing the shorter", [1 - v for v in longer], groups,
              "equal lengths count half"),
    ]  # fmt: skip
    order = [
        (place, first) for place, first in enumerate(pairs.first_is_chosen) if first is not None
    ]
    if order:
        hits, places = [float(first) for _, first in order], [place for place, _ in order]
        facts.append(
            share(SECTION, "Right by choosing the first", hits, [groups[place] for place in places])
        )
    return facts


def _longer(pair: AnswerDifference) -> float:
    return 0.5 + 0.5 * float(np.sign(pair.chosen_words - pair.rejected_words))


def parts_of(pairs: Pairs) -> list[FieldValue]:
    """Lengths and positions by every field that divides the rows into kinds."""
    parts: list[FieldValue] = []
    for name, column in list(pairs.fields.categories().items())[:MOST_FIELDS]:
        values = list(count_values(column, len(pairs)))
        rest = [place for _, places in values[MOST_VALUES:] for place in places]
        shown = values[:MOST_VALUES]
        if rest:
            shown.append((f"({len(values) - MOST_VALUES} more)", rest))
        parts += [_part(pairs, name, value, places) for value, places in shown]
    return parts


def _part(pairs: Pairs, name: str, value: str, places: Sequence[int]) -> FieldValue:
    longer = np.array([_longer(pairs.differences[place]) for place in places])
    order = [pairs.first_is_chosen[place] for place in places]
    known = [first for first in order if first is not None]
    return FieldValue(
        name, value, len(places), float((longer == 1).mean()), float((longer == 0.5).mean()),
        float(np.mean(known)) if known else None,
    )  # fmt: skip
