"""What another tool's format has no column for, in one column of JSON beside its own."""

from __future__ import annotations

import json
from collections.abc import Mapping

from veridical.data.record_kinds import RowError
from veridical.runtime.files import JSON_ERRORS, error_in_words, parse_json

COLUMN = "veridical"


def packed(values: Mapping[str, object]) -> dict[str, str]:
    """The column with the values that there are; other tools pass over it."""
    there = {name: value for name, value in values.items() if value is not None}
    return {COLUMN: json.dumps(there, ensure_ascii=False, sort_keys=True, allow_nan=False)}


def unpacked(row: Mapping[str, object]) -> dict[str, object] | None:
    """What the column of a row holds; None where there is no such column.

    Raises:
        RowError: the column is not what `packed` writes.
    """
    held = row.get(COLUMN)
    if held is None:
        return None
    try:
        values = parse_json(held) if isinstance(held, str) else None
    except JSON_ERRORS as error:
        raise RowError(COLUMN, f"is not JSON ({error_in_words(error)})") from error
    if not isinstance(values, dict):
        raise RowError(COLUMN, "must hold an object as JSON")
    return values
