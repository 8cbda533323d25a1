"""Converting a set's rows to records; rows of one response each are grouped by prompt."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from veridical.data.importers.convert import convert, renamed
from veridical.data.importers.rules import Rules
from veridical.data.importers.sets import NamedSet
from veridical.data.importers.sources import Place
from veridical.data.record_kinds import Kind, RowError


def imported(
    rows: Iterable[tuple[Place, object]], one: NamedSet, rules: Rules, kind: Kind
) -> Iterator[tuple[Place, dict[str, object] | RowError]]:
    """Rows for the reader of records, each with its place, or why there is none.

    Args:
        rows: as they lie in the files.
        one: what the set was taken for.
        rules: to convert by, with those of `one` in them.
        kind: of the records.
    """
    yield from converted(whole_rows(rows, one, rules), one, rules, kind)


def whole_rows(
    rows: Iterable[tuple[Place, object]], one: NamedSet, rules: Rules
) -> Iterator[tuple[Place, object]]:
    """Rows of one prompt each: of a set with a response a row, some put together."""
    yield from gathered(rows, one, rules.columns or {}) if one.together else rows


def converted(
    rows: Iterable[tuple[Place, object]], one: NamedSet, rules: Rules, kind: Kind
) -> Iterator[tuple[Place, dict[str, object] | RowError]]:
    """What `whole_rows` gave as rows for the reader of records, each by itself."""
    if one.together:
        rules = dataclasses.replace(rules, columns={})  # they are renamed by now
    for place, row in rows:
        for made in convert(row, place, one, rules, kind):
            yield place, made


def gathered(
    rows: Iterable[tuple[Place, object]], one: NamedSet, columns: Mapping[str, str]
) -> Iterator[tuple[Place, object]]:
    """One row for each prompt, with `completions`, in the order of their first responses.

    Rows of a prompt need not stand together: they wait in a temporary file, not in memory.

    Args:
        rows: of one response each; what is not an object comes out as it is.
        one: says which columns rows of a prompt share, and which hold ratings.
        columns: ours to theirs, as in `convert.renamed`.
    """
    with tempfile.TemporaryDirectory(prefix="veridical-import-") as folder:
        base = sqlite3.connect(Path(folder) / "rows")
        with contextlib.closing(base):
            base.execute("pragma journal_mode = off")  # the file is gone with the process
            base.execute("pragma synchronous = off")
            base.execute("create table rows (key text, number integer, place text, row text)")
            base.execute("create table first (key text primary key, number integer)")
            for number, (place, row) in enumerate(rows):
                made = _keyed(row, one, columns)
                if isinstance(made, RowError):
                    yield place, made
                    continue
                key, text = made
                where = json.dumps([place.file, place.row])
                base.execute("insert into rows values (?, ?, ?, ?)", (key, number, where, text))
                base.execute("insert or ignore into first values (?, ?)", (key, number))
            base.execute("create index by_key on rows (key, number)")
            yield from _groups(base, one)


def _keyed(row: object, one: NamedSet, columns: Mapping[str, str]) -> tuple[str, str] | RowError:
    if isinstance(row, RowError):
        return row
    if not isinstance(row, Mapping):
        return RowError("row", f"not a JSON object but {type(row).__name__}")
    try:
        named = renamed(row, columns)
        return json.dumps([named.get(name) for name in one.together]), json.dumps(named)
    except RowError as error:
        return error
    except (TypeError, ValueError) as error:
        return RowError("row", f"can't be put together with others ({error})")


def _groups(base: sqlite3.Connection, one: NamedSet) -> Iterator[tuple[Place, object]]:
    for (key,) in base.execute("select key from first order by number"):
        found = base.execute("select place, row from rows where key = ? order by number", (key,))
        group = [(Place(*json.loads(place)), json.loads(text)) for place, text in found]
        place, first = group[0]
        own = {"response", *one.ratings}
        shared = {name: value for name, value in first.items() if name not in own}
        yield place, shared | {"completions": [_completion(row, one) for _, row in group]}


def _completion(row: Mapping[str, object], one: NamedSet) -> dict[str, object]:
    rated = {aspect: row[column] for column, (_, aspect) in one.ratings.items() if column in row}
    return {"response": row.get("response"), "annotations": rated}
