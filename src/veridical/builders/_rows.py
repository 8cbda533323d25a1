"""What builders hand over: rows of the set that is written, and records that gave nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from veridical.data.messages import Message
from veridical.data.origins import unread_rows, with_origins
from veridical.data.record_kinds import Kind
from veridical.data.record_types import Rating
from veridical.data.records import RecordSet, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.progress import counted
from veridical.runtime.run_files import SkippedRow

Made = TypeVar("Made")
FILES: Mapping[Kind, str] = {
    "preference": "pairs.parquet",
    "sample": "samples.parquet",
    "conversation": "conversations.parquet",
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row of kind `preference`.

    Attributes:
        id: the record's, or `<record>/<chosen>-<rejected>` where it gives several pairs.
        images: as they lie in Arrow: bytes or paths, not decoded.
        prompt: everything before the answer.
        chosen: the better answer.
        rejected: the worse one.
        source: JSON: the builder, its settings, and what it did to this pair.
        ratings: {"answer", "aspect", "value"} of both answers.
        facts: what is known about the images.
        expected_answer: what the right answer is.
    """

    id: str
    images: Sequence[Any]
    prompt: Sequence[Message]
    chosen: Sequence[Message]
    rejected: Sequence[Message]
    source: str
    ratings: Sequence[Rating] | None = None
    facts: Sequence[str] | None = None
    expected_answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row of kind `sample`; what is not listed is as in a `Pair`.

    Attributes:
        responses: each a conversation of one message.
        ratings: {"answer", "aspect", "value"} of the responses.
    """

    id: str
    images: Sequence[Any]
    prompt: Sequence[Message]
    responses: Sequence[Sequence[Message]]
    source: str
    ratings: Sequence[Rating] | None = None
    facts: Sequence[str] | None = None
    expected_answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row of kind `conversation`; `messages` end with the answer."""

    id: str
    images: Sequence[Any]
    messages: Sequence[Message]
    source: str


@dataclass(frozen=True)
class Skipped:
    """A record, or a part of one, that gave nothing.

    Attributes:
        id: the record's.
        field: what of it was the reason.
        reason: why, in words.
    """

    id: str
    field: str
    reason: str


@dataclass(frozen=True)
class SortedRecords(Generic[Made]):
    """What became of all records.

    Attributes:
        kept: what was made, in order.
        skipped: the records that gave nothing.
    """

    kept: list[Made]
    skipped: list[Skipped]


def sort_out(made: Iterable[Made | Skipped]) -> SortedRecords[Made]:
    """Part what was made from the records that gave nothing."""
    kept: list[Made] = []
    skipped: list[Skipped] = []
    for one in made:
        if isinstance(one, Skipped):
            skipped.append(one)
        else:
            kept.append(one)
    return SortedRecords(kept, skipped)


def write_set(
    path: Path,
    kind: Kind,
    rows: Iterable[Mapping[str, Any]],
    outcome: SortedRecords[Any],
    records: RecordSet,
    what: str,
    nothing: str = "",
) -> int:
    """Write the set, and `skipped.jsonl` beside it.

    Args:
        path: the set's file.
        kind: what its rows are.
        rows: of what was kept; they are read only if there are any.
        outcome: what was kept, and what was not.
        records: what was read, with the rows that could not be.
        what: what a skipped record did not give, for the line on the screen.
        nothing: what is said if nothing was kept; that it did not come out, and why, if not given.

    Returns:
        How many rows `skipped.jsonl` has.

    Raises:
        UserError: nothing was kept.
    """
    skipped = write_skipped(path.parent, records, outcome.skipped, what)
    require_any(outcome, path.parent, what, nothing)
    write_records(rows, path, kind)
    return skipped


def require_any(outcome: SortedRecords[Any], out: Path, what: str, nothing: str = "") -> None:
    """Refuse a set without rows; `skipped.jsonl` is there by then.

    Raises:
        UserError: nothing was kept; the message is `nothing`, if given.
    """
    if not outcome.kept:
        number = counted(len({one.id for one in outcome.skipped}), "records")
        plain = f"Not one {what} came out of {number}{usual_reason(outcome.skipped, out)}"
        raise UserError(nothing or plain)


def usual_reason(skipped: Sequence[Skipped], out: Path) -> str:
    """The rest of a sentence: why most records gave nothing, and which file lists them all."""
    listed = f"{out / 'skipped.jsonl'} says why."
    if not skipped:
        return f"; {listed}"
    reason, count = Counter(one.reason for one in skipped).most_common(1)[0]
    most = f"{count} of {len(skipped)} times" if count < len(skipped) else "every time"
    return f": {reason.rstrip('.')} ({most}); {listed}"


def write_skipped(out: Path, records: RecordSet, left_out: Iterable[Skipped], what: str) -> int:
    """Write `skipped.jsonl`: records that could not be read, then those that gave nothing.

    Each has its id, its file and row there, its images' files where known, field and reason.

    Args:
        out: the run's folder.
        records: with their problems.
        left_out: the records that gave nothing.
        what: what they did not give, for the line on the screen.

    Returns:
        How many there are.
    """
    skipped = [*unread_rows(records), *with_origins(records, map(as_row, left_out))]
    write_jsonl(out / "skipped.jsonl", skipped)
    if skipped:
        print(
            f"{counted(len(skipped), 'records')} gave no {what}; {out / 'skipped.jsonl'} says why."
        )
    return len(skipped)


def as_row(left_out: Skipped) -> SkippedRow:
    """Its row of `skipped.jsonl`, without where the record is from."""
    return {"id": left_out.id, "field": left_out.field, "reason": left_out.reason}
