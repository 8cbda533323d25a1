"""A file's rows, read once, checked one after another and then together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from veridical.data.record_kinds import Kind
from veridical.inspection.checks.formats import format_bits
from veridical.inspection.findings import Finding
from veridical.inspection.pictures import Album, named_picture
from veridical.inspection.rows import Row, read_rows
from veridical.inspection.table import ROW_CHECKS, SET_CHECKS, RowCheck, check_row
from veridical.inspection.traces import Traces

CHUNK = 32
"""Rows whose images are decoded at a time."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a file.

    Attributes:
        kind: of its records.
        rows: how many it has.
        columns: in how many rows each column is read, then those that nothing is read from.
        unread: see `columns`.
        findings: everything that is wrong, row by row, then of the set.
    """

    kind: Kind
    rows: int
    columns: Counter[str]
    unread: Counter[str]
    findings: list[Finding]

    @property
    def bad_rows(self) -> int:
        """Rows with at least one error."""
        return len({found.row for found in self.findings if found.level == "error"})


def inspect_file(
    path: Path, kind: Kind, root: Path, decode: bool = True, more: tuple[RowCheck, ...] = ()
) -> Inspection:
    """Run every check.

    Args:
        path: the file.
        kind: of its rows.
        root: the folder that image paths are relative to.
        decode: open every image; else images are told apart by their names.
        more: checks beside those of the table.

    Raises:
        UserError: the file can't be read, or has no rows.
    """
    traces = Traces(kind, format_bits)
    columns, unread = Counter[str](), Counter[str]()
    findings: list[Finding] = []
    album = Album(root) if decode else None
    for row in with_pictures(read_rows(path, kind), album):
        findings += check_row(row, (*ROW_CHECKS, *more))
        traces.add(row)
        unread.update(row.others.keys())
        columns.update(row.used)
    for check in SET_CHECKS:
        findings += check(traces)
    return Inspection(kind, traces.rows, columns, unread, findings)


def with_pictures(rows: Iterable[Row], album: Album | None) -> Iterator[Row]:
    """Rows with what is known of their images, which two threads decode."""

    def look(row: Row) -> Row:
        if row.record is None:
            return row
        known = named_picture if album is None else album.look
        return replace(row, pictures=tuple(known(image) for image in row.record["images"]))

    with ThreadPoolExecutor(2) as pool:
        waiting = iter(rows)
        while chunk := list(islice(waiting, CHUNK)):
            yield from pool.map(look, chunk)
