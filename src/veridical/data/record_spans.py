"""What a pair says of parts of its answers: a beginning without loss, and weights of spans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypedDict


class SpanWeight(TypedDict):
    """What the log-probabilities of a part of an answer are multiplied by.

    `answer` is "chosen", "rejected" or "more_rejected/0", ...; `start` and `end` count characters
    of its text as the record has it, the end excluded. None stands for the text's own start or end.
    """

    answer: str
    start: int | None
    end: int | None
    weight: float


def read_prefix(value: object) -> str | None:
    """The beginning that all answers of a pair share, without white space at its ends.

    The answers hold that white space too, so that nothing is lost: a token of a word often has the
    space before it, and counts with what follows the prefix.

    Returns:
        None where there is none.

    Raises:
        ValueError: it is not text.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not {type(value).__name__}")
    return value.strip() or None


def check_prefix(prefix: str, answers: Mapping[str, str]) -> None:
    """Refuse answers, by name, that do not begin with the prefix.

    Raises:
        ValueError: names the first one.
    """
    for name, text in answers.items():
        if not text.lstrip().startswith(prefix):
            raise ValueError(
                f"{name} does not begin with it; write each answer whole, its prefix included"
            )


def read_span(value: object) -> SpanWeight:
    """One weight as somebody wrote it.

    Raises:
        ValueError: it has no answer or weight, or one that makes no sense.
    """
    if not isinstance(value, Mapping) or not {"answer", "weight"} <= _given(value):
        raise ValueError("an entry must have an answer and a weight, and may have start and end")
    try:
        weight = float(value["weight"])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the weight {value['weight']!r} is not a number") from None
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight {value['weight']!r} is not finite and 0 or more")
    start, end = _place(value, "start"), _place(value, "end")
    return {"answer": str(value["answer"]), "start": start, "end": end, "weight": weight}


def _given(value: Mapping[object, object]) -> set[object]:
    return {name for name, one in value.items() if one is not None}


def _place(value: Mapping[str, object], name: str) -> int | None:
    place = value.get(name)
    if isinstance(place, float) and place.is_integer():
        return int(place)  # a column of numbers with gaps
    if place is None or (isinstance(place, int) and not isinstance(place, bool)):
        return place
    raise ValueError(f"{name} {place!r} is not a whole number of characters")


def check_spans(spans: Sequence[SpanWeight], answers: Mapping[str, str]) -> None:
    """Refuse spans of no answer, outside its text, or on top of each other.

    Args:
        spans: of all answers of a pair.
        answers: their texts by name.

    Raises:
        ValueError: says which span.
    """
    for span in spans:
        if span["answer"] not in answers:
            known = ", ".join(sorted(answers))
            raise ValueError(f"weighs {span['answer']!r}, but there is {known}")
    for name, text in answers.items():
        placed = sorted(places_of(spans, name, len(text)))
        for start, end, _ in placed:
            if not 0 <= start < end <= len(text):
                raise ValueError(f"{name} has {len(text)} characters, no part {start} to {end}")
        for (start, end, _), (later, until, _) in pairwise(placed):
            if later < end:
                raise ValueError(
                    f"parts {start} to {end} and {later} to {until} of {name} overlap; give each "
                    "character one weight"
                )


def places_of(
    spans: Sequence[SpanWeight], answer: str, length: int
) -> list[tuple[int, int, float]]:
    """Start, end and weight of each span of an answer whose text has so many characters."""
    return [
        (
            0 if span["start"] is None else span["start"],
            length if span["end"] is None else span["end"],
            span["weight"],
        )
        for span in spans
        if span["answer"] == answer
    ]


def spans_of(
    spans: Sequence[SpanWeight], answer: str
) -> list[tuple[int | None, int | None, float]]:
    """Start, end and weight of each span of an answer, as the record has them."""
    return [
        (span["start"], span["end"], span["weight"]) for span in spans if span["answer"] == answer
    ]


def after_strip(
    spans: Sequence[SpanWeight], answer: str, before: str, after: str
) -> list[SpanWeight]:
    """The spans of all answers once one has lost some text at its ends.

    Args:
        spans: of all answers.
        answer: the one that was stripped.
        before: its text as it was.
        after: its text now, which stands in it.
    """
    lead = before.index(after)
    found: list[SpanWeight] = []
    for span in spans:
        if span["answer"] != answer:
            found.append(span)
            continue
        start = None if span["start"] is None else max(0, span["start"] - lead)
        end = None if span["end"] is None else min(len(after), span["end"] - lead)
        if (0 if start is None else start) < (len(after) if end is None else end):
            moved: SpanWeight = {**span, "start": start, "end": end}
            found.append(moved)
    return found
