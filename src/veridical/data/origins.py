"""Where a row is from: its file, its number there, and the files of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from veridical.data.record_types import IMAGE_FIELDS
from veridical.data.records import RecordSet
from veridical.runtime.kinds import by_kind
from veridical.runtime.progress import counted
from veridical.runtime.run_files import SkippedRow

LINES = (".jsonl", ".ndjson")
MOST_KINDS = 20
"""Kinds of reasons that are shown at most (our choice: a screen)."""


@dataclass(frozen=True)
class Origin:
    """Where a row is from. Ids may be hashes of content, by which nobody finds a row.

    Attributes:
        file: the file that was read.
        row: its number there, counted from 1; of JSON Lines the number of the line.
        pictures: the file's usable rows, with the column `images` alone; None for a row that
            could not be read.
        index: of the row in `pictures`.
    """

    file: Path
    row: int
    pictures: Dataset | None = None
    index: int = 0

    def image_files(self) -> list[str]:
        """Names of the images' files, as far as the row has them; nothing is decoded."""
        if self.pictures is None:
            return []
        cells = self.pictures.with_format("arrow")[self.index].to_pylist()[0]["images"]
        return [str(cell["path"]) for cell in cells if cell["path"]]

    def left_out(self, id: str, field: str, reason: str) -> SkippedRow:
        """The row of `skipped.jsonl`: id, file, row, image_files (where known), field, reason."""
        found: SkippedRow = {"id": id, "file": str(self.file), "row": self.row}
        files = self.image_files()
        if files:
            found["image_files"] = files
        return {**found, "field": field, "reason": reason}


def image_paths(rows: Dataset) -> Callable[[int], list[Path]]:
    """Gives, for a row's index, the files that its images are in; nothing is read from them."""
    columns = [name for name in IMAGE_FIELDS if name in rows.column_names]
    cells = rows.select_columns(columns).with_format("arrow")

    def paths(index: int) -> list[Path]:
        row = cells[index]
        lists = [row.column(name)[0] for name in columns]
        found = [one.values for one in lists if one.is_valid]
        inside = [
            path
            for one in found
            for path, held in zip(
                one.field("path").to_pylist(), one.field("bytes").is_valid().to_pylist(),
                strict=True,
            )
            if path and not held
        ]  # fmt: skip
        return [Path(path) for path in inside]

    return paths


def row_origins(records: RecordSet) -> list[Origin]:
    """Where each usable row is from, in order."""
    pictures = records.rows.select_columns(["images"])
    return [
        Origin(records.file, number, pictures, index)
        for index, number in enumerate(records.numbers)
    ]


def unread_rows(records: RecordSet) -> list[SkippedRow]:
    """The rows of `skipped.jsonl` for what could not be read."""
    return [
        Origin(records.file, bad.row).left_out(bad.id, bad.field, bad.reason)
        for bad in records.problems
    ]


def flagged_rows(records: RecordSet) -> list[SkippedRow]:
    """The rows of `skipped.jsonl` for what was asked to be left out."""
    return [
        Origin(records.file, row.row).left_out(row.id, row.field, row.reason)
        for row in records.flagged
    ]


def with_origins(records: RecordSet, listed: Iterable[SkippedRow]) -> list[SkippedRow]:
    """Put file, row and the images' files into rows of `skipped.jsonl` that have an id alone.

    Args:
        records: where the rows are from.
        listed: id, field and reason of each row that could not be used; other ids stay as they are.
    """
    listed = list(listed)
    if not listed:
        return []
    known = dict(zip(records.ids, row_origins(records), strict=True))
    return [
        known[row["id"]].left_out(row["id"], row["field"], row["reason"])
        if row["id"] in known
        else row
        for row in listed
    ]


def place_in_words(listed: SkippedRow) -> str:
    """A row of `skipped.jsonl` as `pairs.jsonl line 3 (its id, image a.jpg)`; else its id."""
    if "file" not in listed:
        return str(listed["id"])
    file = Path(listed["file"])
    unit = "line" if file.suffix.lower() in LINES else "row"
    images = listed.get("image_files", [])
    named = [f"image{'s' if len(images) > 1 else ''} {', '.join(images)}"] if images else []
    about = ", ".join([str(listed["id"])] * bool(listed["id"]) + named)
    return f"{file} {unit} {listed['row']}" + (f" ({about})" if about else "")


def kinds_in_words(listed: Sequence[SkippedRow]) -> list[str]:
    """A line for each kind of reason: how many rows have it, and the first of them.

    Reasons that differ in their numbers, files and in what they quote are one kind.
    """
    lines = [
        f"  {counted(len(rows), 'rows')}, {rows[0]['field']}: {rows[0]['reason']}. The first is "
        f"{place_in_words(rows[0])}."
        for rows in by_kind(listed, lambda row: (row["field"], row["reason"]))
    ]
    more = len(lines) - MOST_KINDS
    return lines if more <= 0 else [*lines[:MOST_KINDS], f"  And {more} more kinds of reasons."]
