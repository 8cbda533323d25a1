"""Rows that an unfinished build or import has made, some in each file, so that it goes on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from veridical.builders._parts import CHUNK, KEY, key_of, refuse_other_build
from veridical.data.record_checks import Ids
from veridical.data.record_columns import arrow_features
from veridical.data.record_files import chunks
from veridical.data.record_kinds import Kind
from veridical.data.record_output import embedded, write_parquet_tables
from veridical.data.record_types import CheckedRow
from veridical.data.record_writing import checked_rows, plain_record
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, whole_file, write_json
from veridical.runtime.progress import track
from veridical.runtime.shards import CLAIM, Shard, leave_to_others

Item = TypeVar("Item")
REFUSED = "refused"
_OWN = re.compile(r"\d{8}\.(?:arrow|json)")


class RowParts:
    """Finished parts of a set: files of rows, and beside each what is known of it."""

    def __init__(self, folder: Path, identity: Mapping[str, object], kind: Kind) -> None:
        """Open the folder.

        Args:
            folder: of the parts.
            identity: everything that decides the rows, in JSON's types.
            kind: of the rows.

        Raises:
            UserError: it holds parts of something with another identity.
        """
        self.folder, self.kind = folder, kind
        self.key = key_of(identity)
        self.schema = arrow_features(kind).arrow_schema
        if (folder / REFUSED).is_file() and read_json(folder / KEY) != self.key:
            self.forget()  # its rows were too bad to use, and by now something was changed
        refuse_other_build(folder, self.key)

    def known(self, number: int) -> dict[str, object] | None:
        """What was written beside a part's rows; None where the part is not there as a whole."""
        about, rows = self._files(number)
        if not about.is_file() or not rows.is_file():
            return None
        with contextlib.suppress(UserError, KeyError, TypeError):
            known = read_json(about)
            if known["sha256"] == hash_file(rows):
                found: dict[str, object] = known["about"]
                return found
        if rows.is_file():  # else another shard has put the result together
            print(f"{rows} was damaged or changed: its rows are worked through again.")
        return None

    def write(self, number: int, rows: Iterable[CheckedRow], about: Mapping[str, object]) -> None:
        """Keep a finished part."""
        beside, file = self._files(number)
        if not (self.folder / KEY).is_file():
            write_json(self.folder / KEY, self.key)
        with whole_file(file) as opened, pa.ipc.new_stream(opened, self.schema) as stream:
            for some in chunks(rows):
                stream.write_table(pa.Table.from_pylist(list(some), schema=self.schema))
        write_json(beside, {"sha256": hash_file(file), "about": about})

    def tables(self, numbers: Iterable[int], ids: Callable[[str, int], str]) -> Iterator[pa.Table]:
        """The rows of some parts, each with the id that `ids` gives it for its own and its place.

        Raises:
            UserError: a file can't be read.
        """
        place = 0
        for number in numbers:
            _, file = self._files(number)
            try:
                with file.open("rb") as opened, pa.ipc.open_stream(opened) as stream:
                    batches = list(stream)
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(
                    f"{file} can't be read: {error}. Give the command again."
                ) from error
            for batch in batches:
                table = pa.Table.from_batches([batch])
                own = table["id"].to_pylist()
                named = [ids(id, place + index) for index, id in enumerate(own)]
                place += len(own)
                yield table.set_column(0, table.schema.field("id"), pa.array(named, pa.string()))

    def rows(self, numbers: Iterable[int], ids: Callable[[str, int], str]) -> Iterator[CheckedRow]:
        """The same as `tables`, a row at a time."""
        for table in self.tables(numbers, ids):
            for row in table.to_pylist():
                record: CheckedRow = plain_record(row)  # type: ignore[assignment]
                yield record

    def write_set(self, path: Path, numbers: Iterable[int], ids: Callable[[str, int], str]) -> None:
        """Write the rows of some parts as Parquet."""
        write_parquet_tables(self.tables(numbers, ids), path, self.schema, self.folder)

    def refuse(self) -> None:
        """Note that too many rows were bad: they wait for the same command with another limit."""
        if self.folder.is_dir():
            (self.folder / REFUSED).touch()

    def forget(self) -> None:
        """Remove the parts, once the set is written; what else is in their folder stays."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if (
                path.name in (KEY, CLAIM, REFUSED)
                or _OWN.fullmatch(path.name)
                or path.name[0] == "."
            ):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:08d}.json", self.folder / f"{number:08d}.arrow"


def build_set(
    parts: RowParts,
    path: Path,
    items: Sequence[Item],
    rows_of: Callable[[Sequence[Item]], Iterable[Mapping[str, object]]],
    files_of: Callable[[Item], Iterable[Path]],
    label: str,
    shard: Shard,
) -> bool:
    """Make a set's rows, as far as they are not made yet; whoever makes the last part writes it.

    A part is the same whoever makes it, so the result does not depend on the shards.

    Args:
        parts: of the set.
        path: the set's file.
        items: what rows are made of, one of each.
        rows_of: makes them.
        files_of: files of images that an item's row will hold; one that changes is read again.
        label: names the progress line.
        shard: which parts are this process's.

    Returns:
        Whether this process has written the set; else another one puts it together, or has.

    Raises:
        UserError: a row can't be written, or two have the same id.
    """
    if shard.is_late(parts.folder.parent):
        return False
    starts = range(0, len(items), CHUNK)

    def is_made(start: int) -> bool:
        return parts.known(start) == _state(items[start : start + CHUNK], files_of)

    mine = [start for number, start in enumerate(starts) if shard.has(number)]
    for start in track(mine, f"{label}, {CHUNK} a step"):
        if not is_made(start):
            some = items[start : start + CHUNK]
            about = _state(some, files_of)
            rows = checked_rows(rows_of(some), parts.kind, start + 1)
            parts.write(start, (embedded(row) for row in rows), about)  # type: ignore[misc]
    done = [start for start in starts if is_made(start)]
    if len(done) < len(starts) or not shard.claim(parts.folder):
        leave_to_others(shard, parts.folder.parent, len(done), len(starts))
        return False
    taken = Ids()

    def checked(id: str, place: int) -> str:
        if not taken.take(id, place):
            raise UserError(f"{path} can't be written: two rows have the id {id}.")
        return id

    parts.write_set(path, starts, checked)
    return True


def _state(items: Sequence[Item], files_of: Callable[[Item], Iterable[Path]]) -> dict[str, object]:
    """How many items a part has, and the state of their images' files."""
    files = sorted({str(file) for item in items for file in files_of(item)})
    return {"rows": len(items), "files": {file: file_state(file) for file in files}}


def file_state(file: str) -> list[int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
