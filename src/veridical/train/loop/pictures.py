"""The pictures that rows name by file, compared by content when a run is resumed.

A file of rows is compared whole, and with it the pictures that it holds. Pictures that it only
names may change while the file stays the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset

from veridical.data.images import ImageLike, RowImage, image_bytes_key
from veridical.data.origins import place_in_words, unread_rows
from veridical.data.record_files import chunks
from veridical.data.record_types import IMAGE_FIELDS
from veridical.data.records import RecordSet
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_jsonl
from veridical.runtime.progress import track
from veridical.runtime.run_files import PICTURES, PictureRow, SkippedRow

RECORDED = "pictures.jsonl"


@dataclass(frozen=True, slots=True)
class RowPictures:
    """The pictures that a row names by file.

    Attributes:
        place: the number of its data file, from 0, and its number there (`Origin.row`).
        data: the data file.
        id: of the row.
        files: where the pictures are: in the order of `IMAGE_FIELDS`.
    """

    place: tuple[int, int]
    data: Path
    id: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Pictures:
    """The pictures that a run's rows name by file.

    Attributes:
        rows: those that name any.
        hashes: SHA-256 of each file's content, in hex.
        unread: rows that could not be read, by place, as `skipped.jsonl` lists them.
    """

    rows: Sequence[RowPictures]
    hashes: Mapping[str, str]
    unread: Mapping[tuple[int, int], SkippedRow] = field(default_factory=dict)

    def key(self, image: ImageLike) -> str:
        """What `image_bytes_key` gives; a file that was hashed is not read again."""
        source = image.source() if isinstance(image, RowImage) else image
        known = self.hashes.get(str(source)) if isinstance(source, Path) else None
        return known or image_bytes_key(image)

    def recorded(self) -> Iterator[PictureRow]:
        """The rows of `pictures.jsonl`."""
        for row in self.rows:
            number, line = row.place
            yield {"data": number, "row": line, "sha256": self.hashes_of(row)}

    def hashes_of(self, row: RowPictures) -> list[str]:
        """A row's hashes, in the order of its files."""
        return [self.hashes[file] for file in row.files]


NO_PICTURES = Pictures((), {})


def named_pictures(files: Sequence[RecordSet]) -> Pictures:
    """Hash each file that the usable rows name, once however many rows show it.

    Raises:
        UserError: one can't be read any more.
    """
    rows = [row for number, records in enumerate(files) for row in _named(records, number)]
    names = list(dict.fromkeys(name for row in rows for name in row.files))
    hashes = dict(track(_hashed(names), "hashing images", len(names))) if names else {}
    unread = {
        (number, listed["row"]): listed
        for number, records in enumerate(files)
        for listed in unread_rows(records)
    }
    return Pictures(rows, hashes, unread)


def _hashed(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each file with its hash, some at a time: each takes memory while it waits."""
    with ThreadPoolExecutor() as pool:
        for part in chunks(names):
            yield from zip(part, pool.map(hash_file, map(Path, part)), strict=True)


def recognize_pictures(out: Path, found: Pictures) -> None:
    """Record the pictures of a new run; compare those of a resumed one with the record.

    All processes have to take part.

    Args:
        out: the run's folder.
        found: today's pictures.

    Raises:
        UserError: a row's picture is another one, or can be used only then or only now; or the
            processes read different ones.
    """
    processes.from_first(lambda: _record_or_compare(out, found))
    digest = hashlib.sha256()
    for row in found.recorded():
        digest.update(repr(row).encode())
    every = processes.gather(digest.digest())
    different = [n for n, own in enumerate(every) if own != digest.digest()]
    if different:
        raise UserError(
            f"Processes {processes.rank()} and {different[0]} read different images under the same "
            "names. Give every machine the same files."
        )


def _record_or_compare(out: Path, found: Pictures) -> None:
    path = out / RECORDED
    if not any((out / "checkpoints").glob("checkpoint-*")):
        if found.rows:
            write_jsonl(path, found.recorded())
        else:
            path.unlink(missing_ok=True)
    elif path.is_file():
        _compare(out, PICTURES.read(out), found)
    elif found.rows:
        print(f"{path} is missing, so the images can't be compared with those of the start.")


def _compare(out: Path, recorded: Sequence[PictureRow], found: Pictures) -> None:
    before = {(row["data"], row["row"]): row["sha256"] for row in recorded}
    now = {row.place: row for row in found.rows}
    differ = [place for place in now if before.get(place) != found.hashes_of(now[place])]
    differ += [place for place in before if place not in now]
    if not differ:
        return
    first = differ[0]
    if first not in now:
        what = f"{_unread(found, first)}, which it was started with"
    elif first not in before:
        what = (
            f"{_in_words(now[first])} can be used and is not in {out / RECORDED}; it could not be "
            "used when the run was started, or that file has lost lines"
        )
    else:
        what = f"{_in_words(now[first])} has other images than when it was started"
    several = len(differ) > 1
    if several:
        what = f"the images of {len(differ)} rows are not those of its start. The first: {what}"
    raise UserError(
        f"{out} can't be resumed: {what}. Put the files of {'all of them' if several else 'it'} "
        "back as they were, or choose another --out."
    )


def _in_words(row: RowPictures) -> str:
    files = [*row.files]
    return place_in_words(
        {"id": row.id, "file": str(row.data), "row": row.place[1], "image_files": files}
    )


def _unread(found: Pictures, place: tuple[int, int]) -> str:
    listed = found.unread.get(place)
    if listed is None:
        return f"row {place[1]} names no image file now"
    return f"{place_in_words(listed)} can't be used ({listed['reason']})"


def _named(records: RecordSet, number: int) -> Iterator[RowPictures]:
    """One data file's rows with pictures that are files of their own."""
    columns = [n for n in IMAGE_FIELDS if n in records.rows.column_names]
    by_column = [_files(records.rows, column) for column in columns]
    ids = records.rows.data.column("id").to_pylist()
    for line, id, *lists in zip(records.numbers, ids, *by_column, strict=True):
        files = tuple(file for own in lists for file in own)
        if files:
            yield RowPictures((number, line), records.file, id, files)


def _files(rows: Dataset, column: str) -> Iterator[list[str]]:
    """Each row's pictures that are files, read from the table without the bytes of others."""
    for chunk in rows.data.column(column).chunks:
        cells = chunk.flatten()
        paths = pc.struct_field(cells, "path").to_pylist()
        held = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        names = iter([None if inside else path for path, inside in zip(paths, held, strict=True)])
        for length in chunk.value_lengths().to_pylist():
            yield [name for name in islice(names, length or 0) if name]
