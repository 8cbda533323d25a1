"""Rows of a data set as the checks see them: also those that no command could use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from veridical.data.column_names import colliding
from veridical.data.importers.recognize import recognize
from veridical.data.messages import Message, text_of
from veridical.data.record_files import count_rows, stream_rows
from veridical.data.record_flags import own_id
from veridical.data.record_kinds import Kind, RowError, response_name
from veridical.data.record_names import KNOWN, with_own_names
from veridical.data.record_rows import known_fields, normalize
from veridical.data.record_types import CheckedRow
from veridical.inspection.pictures import Picture
from veridical.inspection.rankings import with_ranking
from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS
from veridical.runtime.progress import track

TRIED = 50
"""Rows by which the kind of a file is recognized."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: counted from 1, in JSON Lines the number of the line.
        kind: what it was read as.
        named: its columns under the names of the kind; empty where it is not a JSON object.
        others: the columns that nothing is read from.
        record: as commands read it; None where they would leave it out.
        refusal: the reason, where `record` is None.
        pictures: what is known of its images; empty where they were not looked at.
        first_is_chosen: where the file has two responses and a ranking: whether the first is the
            better one.
        used: the columns that something is read from, by the file's names.
    """

    number: int
    kind: Kind
    named: Mapping[str, object]
    others: Mapping[str, Any]
    record: CheckedRow | None
    refusal: RowError | None
    pictures: tuple[Picture, ...] = ()
    first_is_chosen: bool | None = None
    used: frozenset[str] = frozenset()

    @cached_property
    def id(self) -> str:
        """Its id as text, "" if it has none."""
        return own_id(self.named)

    @cached_property
    def prompt(self) -> str:
        """The text of what is asked."""
        if self.kind == "conversation":
            messages = self._field("messages")
            return plain_text(messages[:-1]) or "" if isinstance(messages, list) else ""
        return plain_text(self._field("prompt")) or ""

    @cached_property
    def answers(self) -> dict[str, str]:
        """Texts by name: `chosen` and `rejected`, `responses/0` ..., or a conversation's `answer`.

        They have the white space at their ends. Fields that hold no text are left out.
        """
        texts = {name: plain_text(value) for name, value in self._answers()}
        return {name: text for name, text in texts.items() if text is not None}

    def _answers(self) -> Iterator[tuple[str, object]]:
        if self.kind == "preference":
            yield from ((name, self._field(name)) for name in ("chosen", "rejected"))
        elif self.kind == "sample":
            several = self._field("responses")
            for place, answer in enumerate(several if isinstance(several, list) else []):
                yield response_name(place), answer
        elif self.kind == "unpaired":
            yield "completion", self._field("completion")
        elif self.kind == "conversation":
            messages = self._field("messages")
            yield "answer", messages[-1:] if isinstance(messages, list) else None

    def _field(self, name: str) -> object:
        return self.named.get(name) if self.record is None else self.record.get(name)


def plain_text(value: object) -> str | None:
    """The text of a string or of messages; None for what holds none."""
    if isinstance(value, str):
        return value
    try:
        whole = cast("Sequence[Message]", value)
        return text_of(whole) if isinstance(value, Mapping | list) and value else None
    except (TypeError, KeyError, AttributeError):
        return None


def recognize_kind(path: Path) -> Kind:
    """The kind of record that most of a file's first rows can be read as.

    Raises:
        UserError: the file can't be read, has no rows, or is of no kind.
    """
    first = [row for _, row in islice(stream_rows(path), TRIED)]
    if not first:
        raise UserError(f"{path} holds no rows.")
    kinds: tuple[Kind, ...] = get_args(Kind)
    fits = {kind: sum(_fit(row, kind) for row in first) for kind in kinds}
    best = max(kinds, key=lambda kind: fits[kind])
    known = recognize(first) if best == "prompt" or fits[best] <= len(first) / 2 else None
    foreign = known is not None and (
        known.taken_for.shape != "flat" or bool(known.taken_for.rules.columns)
    )
    if not fits[best] or foreign:
        raise UserError(f"{path}: {_of_no_kind(path, first)}")
    return best


def _of_no_kind(path: Path, rows: Sequence[object]) -> str:
    """What rows are that no command reads, and what to do with them."""
    if (twice := colliding(rows, KNOWN)) is not None:
        return f"{twice}."
    known = recognize(rows)
    if known is not None:
        name = known.taken_for.name
        return (
            f"the rows look like {name} ({known.reason}), which commands don't read.\n"
            f"Bring them in first: veridical data import {path} --as {name} --out FILE.jsonl"
        )
    columns = next((", ".join(map(str, row)) for row in rows if isinstance(row, Mapping)), None)
    if columns is None:
        reason = next((f" ({row.reason})" for row in rows if isinstance(row, RowError)), "")
        return f"none of the first {len(rows)} rows is an object{reason}."
    return (
        f"no row of the first {len(rows)} has the columns of a record (there are: {columns}).\n"
        "Name yours with `veridical data import FILE --as flat --columns prompt=ASKED ...`."
    )


def _fit(row: object, kind: Kind) -> float:
    """1 for a row that can be used, a half for one that has the columns and something else."""
    if not isinstance(row, Mapping):
        return 0.0
    read = read_row(0, row, kind)
    if read.refusal is None:
        # Every pair is a prompt, too.
        return 1.0 if kind != "prompt" else 0.4
    return 0.0 if kind == "prompt" or _lacks_columns(read, kind) else 0.5


def _lacks_columns(row: Row, kind: Kind) -> bool:
    needed = {"preference": ("chosen", "rejected"), "sample": ("responses",)}
    needed["unpaired"] = ("completion", "label")
    return any(row.named.get(name) is None for name in needed.get(kind, ("messages",)))


def read_row(number: int, raw: object, kind: Kind) -> Row:
    """One row of a file; its images are not opened."""
    if isinstance(raw, RowError):
        return Row(number, kind, {}, {}, None, raw)
    if not isinstance(raw, Mapping):
        return Row(number, kind, {}, {}, None, RowError("row", "is not a JSON object"))
    first, given = None, {name for name, value in raw.items() if value is not None}
    if kind == "preference":
        raw, first = with_ranking(raw)
    try:
        named, used = with_own_names(raw, kind)
    except RowError as refusal:
        return Row(number, kind, raw, {}, None, refusal, (), first)
    unread = raw.keys() - known_fields(kind) - used
    read = frozenset(given - unread)
    others = {name: raw[name] for name in raw if name in unread and raw[name] is not None}
    try:
        record = normalize(named, kind)
    except RowError as refusal:
        return Row(number, kind, named, others, None, refusal, (), first, read)
    return Row(number, kind, named, others, record, None, (), first, read)


def read_rows(path: Path, kind: Kind) -> Iterator[Row]:
    """Each row of a file; only a few are in memory at a time.

    Raises:
        UserError: the file can't be read, or holds no rows.
    """
    row = None
    for number, raw in track(stream_rows(path), f"reading {path.name}", count_rows(path)):
        row = read_row(number, raw, kind)
        yield row
    if row is None:
        raise UserError(f"{path} holds no rows.")


def source_fields(row: Row) -> dict[str, object]:
    """What a row says of where it is from: its `source`, and columns that nothing is read from.

    Objects within are flattened: `{"judge": {"name": "x"}}` has the field `judge.name`.
    """
    source = row.named.get("source")
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except JSON_ERRORS:
            source = {"source": source}
    found = dict(_flat("", source)) if isinstance(source, Mapping) else {}
    return found | dict(_flat("", row.others))


def _flat(stem: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{stem}{name}.", value)
        else:
            yield f"{stem}{name}", value
