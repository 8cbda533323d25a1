"""A copy of a set with everything fixed that can be fixed without knowing the images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.data.images import resolve_image_path
from veridical.data.messages import assistant_message, text_of
from veridical.data.pixels import ImageError
from veridical.data.record_kinds import Kind
from veridical.data.record_spans import after_strip
from veridical.data.record_types import Branch, CheckedRow, ImageCell
from veridical.data.records import write_records
from veridical.inspection.checks.formats import END_MARKS
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row, read_rows
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.unchanged import FileState, unchanged

ANSWERS: tuple[Branch, ...] = ("chosen", "rejected")


@dataclass(frozen=True)
class RowChange:
    """What was done to a row.

    Attributes:
        row: its number in the file.
        id: its id there.
        check: whose finding it was.
        done: in words.
    """

    row: int
    id: str
    check: str
    done: str


def write_repaired(
    path: Path,
    kind: Kind,
    root: Path,
    findings: Sequence[Finding],
    out: Path,
    since: dict[Path, FileState] | None = None,
) -> tuple[int, list[RowChange]]:
    """Write the rows that can be used, as records, and beside them what was changed.

    Rows with a finding to drop, and rows that no command could use, are left out. A repeated id
    gets "-2", "-3" and so on. White space and end marks go from the ends of answers, in both
    branches, where they tell the branches apart. Columns that nothing is read from are kept in
    `source` where a row has none.

    Args:
        path: the file that was checked.
        kind: of its rows.
        root: the folder of its images.
        findings: of that file.
        out: the file to write, .parquet or .jsonl; the changes are in `OUT.changes.jsonl`.
        since: the file's state when it was checked; now if None.

    Returns:
        How many rows were written, and the changes.

    Raises:
        UserError: no row is left, or the file is not the one that was checked any more.
    """
    changes: list[RowChange] = []
    written = 0

    def repaired() -> Iterator[Mapping[str, object]]:
        nonlocal written
        with unchanged(path, since=since):
            for record in _repaired(path, kind, root, findings, changes):
                written += 1
                yield record
        if not written:
            raise UserError(f"{path}: no row is left to write; {len(changes)} would be left out.")

    write_records(repaired(), out, kind)
    listed = [vars(change) for change in changes]
    write_jsonl(changes_file(out), listed)
    return written, changes


def changes_file(out: Path) -> Path:
    """Where the changes of a repaired file are listed."""
    return out.with_name(f"{out.name}.changes.jsonl")


def _repaired(
    path: Path, kind: Kind, root: Path, findings: Sequence[Finding], changes: list[RowChange]
) -> Iterator[CheckedRow]:
    drops: dict[int, Finding] = {}
    faults: dict[int, Finding] = {}
    for found in sorted(findings, key=lambda found: found.level != "error"):
        if found.repair == "drop" and found.row:
            drops.setdefault(found.row, found)
        if found.level == "error":
            faults.setdefault(found.row, found)
    renamed = {found.row for found in findings if found.repair == "rename"}
    strips = any(found.repair == "strip" for found in findings)
    used: set[str] = set()
    for row in read_rows(path, kind):
        drop = drops.get(row.number)
        if drop is not None or row.record is None:
            found_fault = drop or faults.get(row.number)
            check, why = (
                ("form", str(row.refusal))
                if found_fault is None
                else (found_fault.check, found_fault.what)
            )
            changes.append(RowChange(row.number, row.id, check, f"left out: {why}"))
            continue
        images = [_found(image, root) for image in row.record["images"]]
        record: CheckedRow = {**row.record, "images": images}
        if row.others and record.get("source") is None:
            record["source"] = json.dumps(row.others, ensure_ascii=False, default=str)
        if row.number in renamed or record["id"] in used:
            record["id"] = _free(record["id"], used)
            done = f"the id {row.id!r} was changed to {record['id']!r}"
            changes.append(RowChange(row.number, row.id, "ids", done))
        used |= {record["id"]} - {""}
        if strips:
            record |= _stripped(row, record, changes)
        yield record


def _found(image: ImageCell, root: Path) -> ImageCell:
    """An image as it can be read from anywhere."""
    if image["bytes"]:
        return image
    try:
        return {"bytes": None, "path": str(resolve_image_path(str(image["path"]), root))}
    except ImageError as problem:
        raise UserError(
            f"The image {image['path']} is gone since it was checked: {problem}."
        ) from None


def _free(id: str, used: set[str]) -> str:
    number = 2
    while f"{id}-{number}" in used:
        number += 1
    return f"{id}-{number}"


def _stripped(row: Row, record: CheckedRow, changes: list[RowChange]) -> CheckedRow:
    new: CheckedRow = {}
    spans = record.get("span_weights")
    for name in ANSWERS:
        text = text_of(record[name])
        bare = END_MARKS.sub("", text).strip()
        if bare != text and bare:
            new[name] = [assistant_message(bare)]
            if spans:
                spans = new["span_weights"] = after_strip(spans, name, text, bare)
    if new:
        changed = " and ".join(name for name in ANSWERS if name in new)
        done = f"white space or an end mark removed from {changed}"
        changes.append(RowChange(row.number, row.id, "format", done))
    return new
