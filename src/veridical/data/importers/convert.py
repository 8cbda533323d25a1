"""A row of a foreign set to rows that the reader of records checks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Rules
from veridical.data.importers.sets import NamedSet
from veridical.data.importers.shapes import SHAPES
from veridical.data.importers.sources import Place
from veridical.data.record_names import image_column, with_own_names
from veridical.data.record_rows import TAG, Kind, RowError, known_fields

SHORT = 2000
"""Characters of a text that is kept in `source`."""


def convert(
    row: Any, place: Place, one: NamedSet, rules: Rules, kind: Kind
) -> Iterator[dict[str, Any] | RowError]:
    """The rows of ours that a foreign row stands for, or why there is none.

    Args:
        row: as it lies in the file, or what was wrong with reading it.
        place: where it is.
        one: what the set was taken for.
        rules: to convert by, with those of `one` in them.
        kind: of the records.
    """
    if isinstance(row, RowError):
        yield row
        return
    if not isinstance(row, Mapping):
        yield RowError("row", f"not a JSON object but {type(row).__name__}")
        return
    if one.leave_out is not None and row.get(one.leave_out[0]):
        yield RowError(*one.leave_out)
        return
    try:
        for made in SHAPES[one.shape].rows(renamed(row, rules.columns or {}), rules):
            yield made if isinstance(made, RowError) else finished(made, place, one, rules, kind)
    except RowError as error:
        yield error


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row with columns under our names.

    Args:
        row: as it lies in the file.
        columns: ours to theirs; a theirs of `a.b` is `b` within the object `a`.

    Raises:
        RowError: it has no such column.
    """
    found = dict(row)
    for ours, theirs in columns.items():
        value: Any = row
        for part in [theirs] if theirs in row else theirs.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise RowError(ours, f"the row has no column {theirs}")
            value = value[part]
        found.pop(theirs, None)
        found[ours] = value
    return found


def finished(
    made: dict[str, Any], place: Place, one: NamedSet, rules: Rules, kind: Kind
) -> dict[str, Any]:
    """A row of ours with the rules applied, and a `source` where it has none.

    Raises:
        RowError: a rule can't be applied to it.
    """
    named, used = with_own_names(made, kind)
    row = {name: value for name, value in named.items() if name not in used}
    images = _located(row, rules)
    if images and rules.placeholder == "after":
        _place_after(row, len(images))
    if row.get("source") is None:
        extra = {
            name: value
            for name, value in row.items()
            if name not in known_fields(kind) and _is_short(value) and not image_column(name, value)
        }
        row = {name: value for name, value in row.items() if name not in extra}
        told: dict[str, Any] = {"set": one.name, "file": place.file, "row": place.row}
        row["source"] = json.dumps(
            told | ({"columns": extra} if extra else {}), ensure_ascii=False, sort_keys=True
        )
    return row


def _located(row: dict[str, Any], rules: Rules) -> list[Any]:
    field = "images" if row.get("images") is not None else "image"
    value = row.pop(field, None)
    row.pop("image", None)
    values = value if isinstance(value, list) else [] if value in (None, "") else [value]
    row["images"] = [rules.locate(item) for item in values]
    return list(row["images"])


def _place_after(row: dict[str, Any], images: int) -> None:
    """Put the tags of images behind the first question, where none has any."""
    for field in ("prompt", "messages", "conversations"):
        messages = row.get(field)
        if not isinstance(messages, list):
            continue
        users = [
            message
            for message in messages
            if isinstance(message, Mapping) and message.get("role") == "user"
        ]
        if not users or any(TAG in str(message.get("content")) for message in users):
            return
        if isinstance(users[0].get("content"), str):
            tagged = {**users[0], "content": users[0]["content"] + "\n" + TAG * images}
            row[field] = [tagged if message is users[0] else message for message in messages]
        return


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= SHORT
    return isinstance(value, bool | int | float)
