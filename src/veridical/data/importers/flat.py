"""A question and two answers in columns of their own, under whatever names.

The answers are the chosen and the rejected one, or two and a column that says which is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from veridical.data.importers.labels import is_verdict
from veridical.data.importers.rules import Fit, Rules
from veridical.data.importers.winners import AUTHORS, COLUMNS, by_winner, find_two_answers
from veridical.data.record_kinds import Kind, RowError
from veridical.data.record_names import with_own_names

SUMMARY = "question, chosen and rejected answer in columns of their own"

READS: tuple[str, ...] = (*COLUMNS, *AUTHORS)
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    if _has_answers(row, "responses"):
        return Fit("it has a prompt and a list `responses`", "sample")
    labeled, used = with_own_names(row, "unpaired", exact=True)
    good = is_verdict(labeled.get("label")) and labeled.get("prompt") is not None
    if good and _is_answer(labeled.get("completion")):
        theirs = sorted(used | {name for name in ("completion", "label") if name in row})
        return Fit(f"it has {', '.join(theirs)}, and no other answer", "unpaired")
    two = None if _is_pair(row) else find_two_answers([row])
    if two is not None:
        a, b, winner = (two.columns[name] for name in COLUMNS)
        return Fit(f"it has {a} and {b}, and {winner} says which is better", "preference")
    for kind, wanted in (("preference", ("chosen", "rejected")), ("conversation", ("messages",))):
        named, used = with_own_names(row, kind, exact=True)
        if all(_is_answer(named.get(name)) for name in wanted):
            theirs = sorted(used | {name for name in wanted if row.get(name) is not None})
            return Fit(f"it has {', '.join(theirs)}", _kind(kind))
    named, _ = with_own_names(row, "preference", exact=True)
    if all(named.get(name) for name in ("prompt", "chosen", "rejected")):
        return Fit("it has chosen, rejected", "preference")  # though not in a form that is read
    if with_own_names(row, "prompt", exact=True)[0].get("prompt") is not None:
        return Fit("it has a question and no answer", "prompt")
    return None


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """The row as it is: the reader of records understands such columns."""
    two = {*COLUMNS} <= row.keys() or ({"a", "b"} <= row.keys() and rules.winner_values is not None)
    if kind == "preference" and two and not _is_pair(row):
        yield by_winner(row, rules.winner_values or ())
    else:
        yield dict(row)


def rules_of(found: Sequence[Mapping[str, object]]) -> Rules:
    """What else the first rows say of how they are to be read."""
    two = None if any(map(_is_pair, found)) else find_two_answers(found)
    if two is None:
        return Rules()
    columns = {ours: theirs for ours, theirs in two.columns.items() if ours != theirs}
    return Rules(columns=columns or None, winner_values=list(two.values) or None)


def _is_pair(row: Mapping[str, object]) -> bool:
    named, _ = with_own_names(row, "preference", exact=True)
    return all(_is_answer(named.get(name)) for name in ("chosen", "rejected"))


def _is_answer(value: object) -> bool:
    """A text, a message or messages; a list of texts is several answers."""
    return bool(value) and not (isinstance(value, list) and isinstance(value[0], str))


def _has_answers(row: Mapping[str, object], name: str) -> bool:
    return isinstance(row.get(name), list) and row.get("prompt") is not None


def _kind(name: str) -> Kind:
    return "preference" if name == "preference" else "conversation"
