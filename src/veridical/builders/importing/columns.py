"""From which columns of a foreign set the fields of its records are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from veridical.builders.importing.conversion import Conversion
from veridical.data.importers.recognize import mapping
from veridical.data.importers.winners import COLUMNS


def columns_read(work: Conversion, first: Sequence[object]) -> dict[str, list[str]]:
    """Each field of ours with the columns that it changes with, by the first row that converts."""
    for row in first:
        if isinstance(row, Mapping) and any(isinstance(one, dict) for one in work.made_of(row)):
            found = mapping(row, work.kind, work.made_of)
            return _compared(found, work) if work.found.taken_for.shape == "flat" else found
    return {}


def winner_in_words(work: Conversion, first: Sequence[object]) -> str:
    """Which answer is chosen where, of rows with two answers and a winner; "" for others."""
    named = [(work.rules.columns or {}).get(name, name) for name in COLUMNS]
    read = columns_read(work, first)
    if work.rules.winner_values is None or read.get("chosen") != named:
        return ""
    (a, b, winner), (one, other) = named, work.rules.winner_values[:2]
    return (
        f"{a} is chosen where {winner} says {one!r}, {b} where it says {other!r}; ties are left out"
    )


def _compared(found: dict[str, list[str]], work: Conversion) -> dict[str, list[str]]:
    """Where a column says which answer is better, both are from all three."""
    named = [(work.rules.columns or {}).get(name, name) for name in COLUMNS]
    read = {name for theirs in found.values() for name in theirs}
    if not {*named} <= read or work.kind != "preference":
        return found
    rest = [name for name in found.get("", []) if name not in named]
    told = dict.fromkeys(("chosen", "rejected"), named)
    return {**found, **told} | ({"": rest} if "" in found else {})
