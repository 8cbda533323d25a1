"""ShareGPT's turns up to a question, with `chosen` and `rejected` as one turn each.

LLaMA-Factory's form of preferences; turns are of `from` and `value`, or of `role` and `content`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import Kind, RowError

SUMMARY = "turns that end with a question, with `chosen` and `rejected` as one turn each"
_TURNS = ("conversations", "messages")

READS: tuple[str, ...] = (*_TURNS, "system")
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    turns = _turns(row)
    if turns is None or not isinstance(row[turns], list):
        return None
    if isinstance(row.get("chosen"), Mapping) and isinstance(row.get("rejected"), Mapping):
        return Fit(f"it has {turns}, and chosen and rejected are one turn each", "preference")
    return None


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """One record; a `system` column is its first turn."""
    del rules, kind
    turns = _turns(row)
    if turns is None or not isinstance(row[turns], list):
        raise RowError("conversations", "is missing")
    rest = {name: value for name, value in row.items() if name not in (turns, "system")}
    system = row.get("system")
    first = [{"from": "system", "value": system}] if isinstance(system, str) and system else []
    yield rest | {"prompt": [*first, *row[turns]]}


def _turns(row: Mapping[str, object]) -> str | None:
    return next((name for name in _TURNS if row.get(name) is not None), None)
