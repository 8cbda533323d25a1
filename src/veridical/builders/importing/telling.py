"""What an import says: what the set was taken for, its columns, records, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from veridical.builders.importing.columns import columns_read, winner_in_words
from veridical.builders.importing.conversion import Conversion
from veridical.data.column_names import squeezed
from veridical.data.importers.convert import FACTORS
from veridical.data.importers.recognize import AS_ASKED
from veridical.data.importers.sets import SETS
from veridical.data.messages import text_of
from veridical.data.record_types import CheckedRow, ImageCell
from veridical.runtime.kinds import by_kind
from veridical.runtime.progress import counted, part_of
from veridical.runtime.run_files import SkippedRow

FEW = 5
"""Reasons that a message of one line names."""


def reasons_of(listed: Sequence[SkippedRow], source: str) -> list[str]:
    """Why rows were left out, the commonest kind of reason first, with the first row of each.

    Args:
        listed: the rows.
        source: what was imported; a file is named where it is another one.
    """
    return [
        f"{len(rows)} x {rows[0]['field']}: {rows[0]['reason']} (first: {_place(rows[0], source)})"
        for rows in by_kind(listed, lambda row: (row["field"], row["reason"]))
    ]


def _place(row: SkippedRow, source: str) -> str:
    return f"{row['file']}, row {row['row']}" if row["file"] != source else f"row {row['row']}"


def few_reasons(listed: Sequence[SkippedRow], source: str) -> str:
    """The commonest reasons, for a message of one line."""
    told = reasons_of(listed, source)
    return "; ".join(told[:FEW]) + (f"; and {len(told) - FEW} more" * (len(told) > FEW))


def told_before(work: Conversion, first: Sequence[object]) -> Iterator[str]:
    """What a set is read as, why, and from which columns its records are made.

    Args:
        work: that will convert it.
        first: its first rows.
    """
    one, reason = work.found.taken_for, work.found.reason
    about = "" if reason == AS_ASKED else f": {reason}"
    yield f"Read as {one.name} (shape {one.shape}){about}. It becomes {work.kind} records."
    if one.name in SETS and reason != AS_ASKED:
        yield (
            f"If it is not {one.name}, set --as {one.shape}: its records and its license would be "
            f"noted as those of {one.name}."
        )
    for note in filter(None, (one.note, winner_in_words(work, first))):
        yield f"Note: {note}."
    read = columns_read(work, first)
    if read:
        told = [f"{ours} from {', '.join(theirs)}" for ours, theirs in read.items() if ours]
        told += [f"and {', '.join(read[''])}"] if read.get("") else []
        yield f"Read: {'; '.join(told)}."


def told_after(work: Conversion, first: Sequence[object]) -> Iterator[str]:
    """How many records came out, and all reasons why others did not."""
    report, read = work.report, columns_read(work, first)
    yield f"{counted(work.read, 'rows')} gave {counted(report.made, 'records')}."
    unread = _columns(first) - {name for theirs in read.values() for name in theirs}
    factors = {squeezed(name) for names in FACTORS.values() for name in names}
    noted = {name for name in unread if squeezed(name) in factors}
    if noted and read:
        yield f"Noted in `source`: {', '.join(sorted(noted))}."
    if unread - noted and read:
        yield f"Not used: {', '.join(sorted(unread - noted))}."
    if report.by_rule:
        yield f"{counted(len(report.by_rule), 'rows')} left out by the set's own rule:"
        yield from _indented(report.by_rule, work.source.name)
    if report.skipped:
        whole = report.made + len(report.skipped)
        yield f"{part_of(len(report.skipped), whole, 'records', 'is', 'are')} left out:"
        yield from _indented(report.skipped, work.source.name)
    if report.parts:
        yield f"Records are made without {len(report.parts)} of their responses or ratings:"
        yield from _indented(report.parts, work.source.name)
    if report.silent:
        places = part_of(len(report.silent), report.made, "records", "has", "have")
        yield f"{places} no text in the last question (first: row {report.silent[0]['row']})."


def shown(records: Sequence[CheckedRow]) -> Iterator[str]:
    """Some records, each on a line."""
    for record in records:
        told: dict[str, object] = {"id": record["id"]}
        told["images"] = [_image(one) for one in record["images"]]
        told |= {
            name: text_of(record[name])[:200]
            for name in ("prompt", "messages", "chosen", "rejected", "completion")
            if name in record
        }
        told |= {"label": record["label"]} if "label" in record else {}
        if "responses" in record:
            told["responses"] = [text_of(one)[:100] for one in record["responses"]]
        yield json.dumps(told, ensure_ascii=False)


def is_refused(work: Conversion, most: float) -> bool:
    """Whether no record, or too small a share of the records, could be made."""
    bad, made = len(work.report.skipped), work.report.made
    return not made or bad > most * (made + bad)


def too_many(work: Conversion, most: float, kept: Path | None) -> str:
    """Why a set is refused of which too many records can't be made."""
    report, name = work.report, work.source.name
    left = [*report.skipped, *report.by_rule, *report.parts]
    missing = any("is not a file under" in row["reason"] for row in left)
    pictures = (
        "\nName the folder of the images with --images-root, or leave them out with --images drop."
        if missing
        else ""
    )
    if any("neither bytes nor a path" in row["reason"] for row in left):
        pictures += "\nIf an object has the path by another name, set --columns images=COLUMN.NAME."
    if not report.made:
        return f"{work.source.name}: no row can be used. {few_reasons(left, name)}.{pictures}"
    whole = report.made + len(report.skipped)
    again = f" What was converted is kept in {kept}, so that goes fast." if kept else ""
    return (
        f"{work.source.name}: {part_of(len(report.skipped), whole, 'records')} can't be made, more "
        f"than --max-bad-fraction {most:g} allows: {few_reasons(report.skipped, name)}.\n"
        f"Fix them, or set --max-bad-fraction higher.{again}{pictures}"
    )


def _columns(first: Sequence[object]) -> set[str]:
    return {str(name) for row in first if isinstance(row, Mapping) for name in row}


def _indented(listed: Sequence[SkippedRow], source: str) -> Iterator[str]:
    return (f"  {reason}" for reason in reasons_of(listed, source))


def _image(image: ImageCell) -> str:
    held = image["bytes"]
    return str(image["path"]) if not held else f"{len(held)} bytes"
