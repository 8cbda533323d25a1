"""Records: the rows that the stages hand each other, read, checked and written.

Five kinds, each a table with the columns below; content of messages is always a list of typed
blocks (`veridical.data.messages`).

- `preference`: `id`, `images`, `prompt`, `chosen`, `rejected` (TRL's vision preference format),
  and if any row has them `rejected_images`, `contrast_images`, `contrast_chosen`,
  `rejected_masked`, `contrast_masked`, `more_rejected`, `ratings`, `facts`, `expected_answer`,
  `beta_factor`, `answer_prefix`, `span_weights`, `source`.
- `unpaired` (TRL's unpaired preference format): `id`, `images`, `prompt`, `completion`, `label`
  (true: a good answer), and `facts`, `expected_answer`, `source`.
- `conversation` (what SFT trains on): `id`, `images`, `messages`, and `source`.
- `prompt`: `id`, `images`, `prompt`, and `facts`, `expected_answer`, `source`.
- `sample` (what a policy said): `id`, `images`, `prompt`, `responses`, and `ratings`, `facts`,
  `expected_answer`, `source`.

On reading, these are understood too: one `image` instead of `images`, plain strings instead of
blocks, a prompt that only `chosen` and `rejected` begin with, LLaVA's `conversations`, and the
names in `_record_names`. A column that nothing is read from is printed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable, Table
from PIL import Image as PillowImage

from veridical.data.images import open_image
from veridical.data.messages import (
    Message,
    assistant_message,
    clean_messages,
    count_images,
    text_of,
    user_message,
)
from veridical.data.record_checks import NONE_FLAGGED, RowChecker, RowProblem
from veridical.data.record_columns import arrow_features
from veridical.data.record_files import chunks, raw_rows
from veridical.data.record_flags import FlaggedRows
from veridical.data.record_kinds import MESSAGE_FIELDS, OPTIONAL_FIELDS, Kind, response_name
from veridical.data.record_refusals import lost_images, refuse_bad_share
from veridical.data.record_store import (
    CheckedRows,
    RowsWriter,
    known_rows,
    one_at_a_time,
    store_key,
    store_rows,
)
from veridical.data.record_types import (
    IMAGE_FIELDS,
    CheckedRow,
    ConversationRow,
    ImageCell,
    PreferenceRow,
    PromptRow,
    Rating,
    SampleRow,
    UnpairedRow,
)
from veridical.data.record_writing import write_records
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import track

__all__ = [
    "ConversationRow",
    "Kind",
    "Message",
    "PreferenceRow",
    "PromptRow",
    "Rating",
    "RecordSet",
    "RowProblem",
    "SampleRow",
    "UnpairedRow",
    "assistant_message",
    "clean_messages",
    "count_images",
    "arrow_features",
    "open_image",
    "read_records",
    "response_name",
    "text_of",
    "user_message",
    "write_records",
]

SHOW_PROGRESS_FROM = 2000  # rows
IN_MEMORY = 64 * 2**20
"""Bytes of JSON Lines from which their rows do not stay in memory (our choice)."""


@dataclass(frozen=True)
class _Asked:
    """What is read, as what."""

    path: Path
    kind: Kind
    root: Path
    flagged: FlaggedRows


@dataclass(frozen=True)
class RecordSet:
    """What a file held.

    Attributes:
        rows: the usable rows. On access messages are clean (no key that Arrow filled with None)
            and images are decoded, to upright RGB; nothing is decoded before. All of a row is
            read on access: take `rows.select_columns(["id"])` first for what needs no images.
        problems: the rows that can't be used, in order.
        total: rows in the file, usable or not.
        ignored: columns of the file that its kind has no use for.
        numbers: of the usable rows in the file, counted from 1; of JSON Lines those of the lines.
        file: what was read.
        flagged: the rows that were asked to be left out, in order.
    """

    rows: Dataset
    problems: list[RowProblem]
    total: int
    ignored: tuple[str, ...] = ()
    numbers: Sequence[int] = ()
    file: Path = Path()
    flagged: Sequence[RowProblem] = ()

    @property
    def ids(self) -> list[str]:
        """The usable rows' ids; no image is decoded, as `rows["id"]` would."""
        return [str(id) for id in self.rows.with_format("arrow")["id"].to_pylist()]


def read_records(
    path: Path | str,
    kind: Kind,
    images_root: Path | str | None = None,
    max_bad_fraction: float = 0.01,
    tells: bool = True,
    flagged: FlaggedRows = NONE_FLAGGED,
    has_option: bool = True,
) -> RecordSet:
    """Read and check Parquet (`.parquet`), JSON Lines (`.jsonl`) or a JSON list (`.json`).

    Every image is decoded once, so that a truncated one is found now and not in the middle of a
    run. A row without an id gets one from its content. Ids must be unique, except where they name
    images rather than rows (LLaVA's conversations) or come from content: there repeats get "-2",
    "-3" and so on. Rows of Parquet, and of JSON Lines of 64 MiB and more, are converted to an Arrow
    file that is memory-mapped (`record_store`); those of shorter files stay in memory.

    Args:
        path: the file.
        kind: what its rows are.
        images_root: the folder that image paths are relative to and must stay under; the file's
            own folder by default.
        max_bad_fraction: the share of unusable rows, in [0, 1], above which reading fails.
        tells: whether columns that are not used are printed; not where the file is read again.
        flagged: rows to leave out, whatever they hold; they count neither as bad nor as rows.
        has_option: whether the command has an option for `max_bad_fraction`, for the message.

    Raises:
        UserError: the file cannot be read, no row is usable, or too many are not.
    """
    path = Path(path)
    if kind not in MESSAGE_FIELDS:
        raise UserError(f"No kind of record is called {kind!r}; choose of {list(MESSAGE_FIELDS)}.")
    root = Path(images_root) if images_root is not None else path.parent
    asked = _Asked(path, kind, root, flagged)
    checked = _read_parquet(asked) if path.suffix.lower() == ".parquet" else None
    checked = checked or _read_long_lines(asked) or _in_memory(asked)
    problems = [problem for problem in checked.problems if not problem.flagged]
    left_out = [problem for problem in checked.problems if problem.flagged]
    if not checked.total or len(left_out) < checked.total:
        read = checked.total - len(left_out)
        refuse_bad_share(path, kind, problems, read, max_bad_fraction, has_option)
    ignored = tuple(checked.ignored)
    tells = tells and processes.is_first()
    if ignored and tells:
        print(f"{path}: not used, as a {kind} has no such column: {', '.join(ignored)}.")
    if checked.lost and tells:
        print(
            f"{path}: some rows have no image and are used without, though the column "
            f"{checked.lost[0]!r} seems to hold theirs; other rows have images of their own."
        )
    rows = _as_dataset(checked.table, kind, path)
    return RecordSet(
        rows, problems, checked.total, ignored, _numbers(checked), path, tuple(left_out)
    )


def _numbers(checked: CheckedRows) -> Sequence[int]:
    if checked.numbers is not None:
        return checked.numbers
    if not checked.problems:
        return range(1, checked.total + 1)
    bad = {problem.row for problem in checked.problems}
    return [number for number in range(1, checked.total + 1) if number not in bad]


def _read_parquet(asked: _Asked) -> CheckedRows | None:
    if not asked.path.is_file():
        return None  # who reads it next says what is wrong
    schema = arrow_features(asked.kind).arrow_schema
    key = store_key(asked.path, asked.kind, asked.root, schema, asked.flagged.key)
    with one_at_a_time(key):
        known = known_rows(key)
        if known is not None:
            return known

        return store_rows(key, schema, lambda writer: _fill(writer, asked))


def _read_long_lines(asked: _Asked) -> CheckedRows | None:
    path = asked.path
    if path.suffix.lower() not in (".jsonl", ".ndjson") or not path.is_file():
        return None
    if path.stat().st_size < IN_MEMORY:
        return None

    def fill(writer: RowsWriter) -> None:
        writer.numbers = _fill(writer, asked)

    return store_rows(None, arrow_features(asked.kind).arrow_schema, fill)


def _fill(writer: RowsWriter, asked: _Asked) -> list[int]:
    """Check a file's rows into a store; gives the numbers of the usable ones."""
    checker, total, chunks = _checking(asked)
    for chunk in chunks:
        writer.write(chunk)
    writer.problems, writer.total = _in_order(checker.problems), total
    writer.ignored, writer.reads_files = sorted(checker.seen.ignored), checker.reads_files
    writer.lost = lost_images(asked.path, checker, total)
    return checker.numbers


def _in_memory(asked: _Asked) -> CheckedRows:
    schema = arrow_features(asked.kind).arrow_schema
    checker, total, chunks = _checking(asked)
    tables = [pa.Table.from_pylist(chunk, schema=schema) for chunk in chunks]
    table = InMemoryTable(pa.concat_tables([schema.empty_table(), *tables]))
    lost = lost_images(asked.path, checker, total)
    return CheckedRows(
        table,
        _in_order(checker.problems),
        total,
        sorted(checker.seen.ignored),
        lost,
        checker.numbers,
    )


def _checking(asked: _Asked) -> tuple[RowChecker, int, Iterator[list[CheckedRow]]]:
    """Who checks a file's rows, their number, and the usable ones, some at a time."""
    checker = RowChecker(asked.kind, asked.root, flagged=asked.flagged)
    total, rows = raw_rows(asked.path)
    if total >= SHOW_PROGRESS_FROM:
        rows = track(rows, f"checking {asked.path.name}", total)
    return checker, total, (checker.usable(chunk) for chunk in chunks(rows))


def _in_order(problems: list[RowProblem]) -> list[RowProblem]:
    return sorted(problems, key=lambda problem: problem.row)


def _as_dataset(table: Table, kind: Kind, path: Path) -> Dataset:
    unused = [
        field for field in OPTIONAL_FIELDS[kind] if table.column(field).null_count == table.num_rows
    ]
    # `_on_access` decodes: Datasets' own way decodes the first image of each row twice, and leaves
    # CMYK, gray and transparent ones as they are.
    features = arrow_features(kind, decode_images=False)
    for field in unused:
        del features[field]
    table = table.drop(unused).replace_schema_metadata(features.arrow_schema.metadata)
    # Datasets would hash every byte in memory for its own.
    stamp = f"{path.resolve()} {path.stat().st_mtime_ns} {path.stat().st_size} {kind}"
    fingerprint = hashlib.sha256(stamp.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    rows = Dataset(table, fingerprint=fingerprint)
    return rows.with_transform(_on_access)


def _on_access(batch: dict[str, list[object]]) -> dict[str, list[object]]:
    return {
        name: [None if value is None else _on_reading(name)(value) for value in batch[name]]
        for name in batch
    }


def _on_reading(column: str) -> Callable[..., object]:
    """What is made of a column's values, which Arrow gives as they were checked."""
    if column in ("prompt", "chosen", "rejected", "messages", "completion", "contrast_chosen"):
        return clean_messages
    if column in ("more_rejected", "responses"):
        return _clean_answers
    return _opened if column in IMAGE_FIELDS else _as_it_is


def _clean_answers(answers: Iterable[list[Message]]) -> list[list[Message]]:
    return [clean_messages(messages) for messages in answers]


def _opened(images: Iterable[ImageCell]) -> list[PillowImage.Image]:
    return [open_image(image["bytes"] or image["path"] or "") for image in images]


def _as_it_is(value: object) -> object:
    return value
