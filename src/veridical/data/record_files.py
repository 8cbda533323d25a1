"""Rows as they lie in files: Parquet, JSON Lines, a JSON list."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Image, LargeList, List
from datasets.table import InMemoryTable

from veridical.data.record_kinds import RowError
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import (
    JSON_ERRORS,
    check_file,
    error_in_words,
    parse_json,
    read_json,
    reading,
)
from veridical.runtime.unchanged import FileState, state_of, unchanged

Item = TypeVar("Item")

BOM = b"\xef\xbb\xbf"
ROWS_AT_A_TIME = 64
DEEPEST_JSON = 1000  # levels, about as many as Python's own parser takes
BYTES_AT_A_TIME = 64 * 2**20
"""Of images, which are copied a few times on their way: 64 rows of 32 photographs are gigabytes,
and more than Arrow converts in one go."""
BUFFER = 2**20
"""Bytes of Parquet that are read at once."""


def raw_rows(path: Path) -> tuple[int, Iterator[tuple[int, object]]]:
    """How many rows there are, and each with its number, counted from 1.

    A line that is not JSON comes as a `RowError`.

    Raises:
        UserError: the file is missing, of no known kind or not readable as what it claims to be.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a .parquet, .jsonl or .json file in it.")
    check_file(path)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".jsonl", ".ndjson"):
        before = {path: state_of(path)}
        total = _parquet_length(path) if suffix == ".parquet" else _count_lines(path)
        return total, _all_of(_stream(path, suffix), path, before)
    if suffix == ".json":
        with unchanged(path):
            rows = read_json(path, any_text=True)
        if isinstance(rows, list):
            return len(rows), enumerate(rows, start=1)
        raise UserError(f"{path} must hold a JSON list; rows line by line are .jsonl.")
    raise _other_form(path)


def count_rows(path: Path) -> int | None:
    """How many rows `stream_rows` will give; None where only reading them would say.

    Raises:
        UserError: the file can't be read.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_length(path)
    return _count_lines(path) if suffix in (".jsonl", ".ndjson") else None


def _count_lines(path: Path) -> int:
    with reading(path), path.open(encoding="utf-8-sig", newline="\n") as file:
        return sum(1 for line in file if line.strip())


def stream_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Each row with its number, counted from 1; never the whole file at once.

    A JSON object instead of a list is read as rows by id: its keys become `id`.

    Raises:
        UserError: as `raw_rows`, but where it comes to what is wrong; the file was written to
            meanwhile.
    """
    check_file(path)
    yield from _all_of(_stream(path, path.suffix.lower()), path)


def _stream(path: Path, suffix: str) -> Iterator[tuple[int, object]]:
    if suffix == ".parquet":
        return enumerate(_parquet_rows(path), start=1)
    if suffix in (".jsonl", ".ndjson"):
        return stream_json_lines(path)
    if suffix == ".json":
        return enumerate(_json_items(path), start=1)
    raise _other_form(path)


def _other_form(path: Path) -> UserError:
    told = f"{path} must end in .parquet, .jsonl, .ndjson or .json."
    if path.suffix.lower() in (".csv", ".tsv"):
        told += f" `veridical data import {path} --out FILE.jsonl` reads it."
    return UserError(told)


def _all_of(
    items: Iterator[Item], path: Path, since: dict[Path, FileState] | None = None
) -> Iterator[Item]:
    """Items read from a file that stays as it is; see `unchanged`."""
    with unchanged(path, since=since):
        yield from items


def stream_json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """Each line that is not empty with its number, whatever the file's name ends in.

    A line that is not JSON comes as a `RowError`.

    Raises:
        UserError: the file can't be read, or is not UTF-8 text.
    """
    # Only "\n" ends a line: JSON texts may hold line separators of Unicode as they are.
    with reading(path), path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line)


def stream_json_list(path: Path, key: str) -> Iterator[object]:
    """Each element of a JSON list, or of the list that an object has under a key, a few at a time.

    Nothing comes of an object that has no list there.

    Raises:
        UserError: the file can't be read, or is not JSON, or was written to meanwhile.
    """
    with unchanged(path), _events(path) as events:
        first = next(events)
        if first[0] == "start_array":
            yield from _elements(chain([first], events), path)
            return
        while first[0] == "start_map" and (event := next(events))[0] == "map_key":
            value = _one_value(events)
            begin = next(value)
            if event[1] == key and begin[0] == "start_array":
                yield from _elements(chain([begin], value), path)
            for _ in value:
                pass


@contextlib.contextmanager
def _events(path: Path) -> Iterator[Iterator[tuple[str, object]]]:
    """What a JSON file holds, as ijson's events.

    Raises:
        UserError: it can't be read, or is not JSON.
    """
    with reading(path), path.open("rb") as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        try:
            yield ijson.basic_parse(file, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            said = " ".join(reason_of(error).split())
            advice = "Is it a whole copy?"
            if "trailing garbage" in said:
                advice = "If each line is a row, name it .jsonl."
            raise UserError(f"{path} is not JSON: {said}. {advice}") from error


def _one_value(events: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """The events of the next value alone."""
    level = 0
    for event, value in events:
        level += event.startswith("start_") - event.startswith("end_")
        yield event, value
        if level == 0:
            return


def _json_items(path: Path) -> Iterator[object]:
    with _events(path) as events:
        yield from _elements(events, path)


def _elements(events: Iterator[tuple[str, object]], path: Path) -> Iterator[object]:
    """Elements of a JSON list, or of an object with their keys as ids.

    ijson's own `items` remembers where it is as one text for each level, which takes gigabytes for
    a hundred kilobytes of opening brackets.
    """
    outer, key, level, builder = next(events)[0], None, 0, _Builder()
    if outer not in ("start_array", "start_map"):
        raise UserError(f"{path} must hold a JSON list or an object of rows by id.")
    for event, value in events:
        if level == 0 and event in ("map_key", "end_array", "end_map"):
            key = value
            continue
        builder.event(event, value)
        level += event.startswith("start_") - event.startswith("end_")
        if level > DEEPEST_JSON:
            raise UserError(f"{path} is not JSON of rows: it is nested too deeply.")
        if level == 0:
            row, builder = builder.row, _Builder()
            yield row if outer == "start_array" else _with_id(key, row)


class _Builder:
    """Puts a value together, and finds a key that an object has twice: readers take one value."""

    def __init__(self) -> None:
        self._builder = ijson.ObjectBuilder()
        self._keys: list[set[object]] = []
        self._twice: object = None

    def event(self, event: str, value: object) -> None:
        """Take an event of ijson's."""
        self._builder.event(event, value)
        if event == "map_key":
            if value in self._keys[-1]:
                self._twice = value
            self._keys[-1].add(value)
        elif event == "start_map":
            self._keys.append(set())
        elif event == "end_map":
            self._keys.pop()

    @property
    def row(self) -> object:
        """The value, or what is wrong with it."""
        if self._twice is not None:
            return RowError("row", f"is not JSON (an object has the key {self._twice!r} twice)")
        return self._builder.value


def _with_id(key: object, row: object) -> object:
    if isinstance(row, RowError):
        return row
    if isinstance(row, Mapping):
        return {"id": key, **row}
    return RowError("row", f"{str(key)[:60]!r} has {_in_json(row)}, not an object with columns")


def _in_json(value: object) -> str:
    """What a value is called in JSON."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _parsed(line: str) -> object:
    try:
        return parse_json(line)
    except JSON_ERRORS as error:
        return RowError("row", f"is not JSON ({error_in_words(error)})")


def _parquet_length(path: Path) -> int:
    with _whole(path):
        rows: int = pq.read_metadata(path).num_rows
    return rows


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Name the file in what is said of its damage, which can lead to anything.

    Raises:
        UserError: the file can't be read.
    """
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:
        raise UserError(f"{path} can't be read as Parquet: {reason_of(error)}") from error


def parquet_columns(path: Path, columns: list[str]) -> Iterator[Mapping[str, object]]:
    """Some columns of Parquet's rows; never the whole file at once.

    Raises:
        UserError: the file can't be read, or was written to meanwhile.
    """
    yield from _all_of(_parquet_rows(path, columns), path)


def _parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[Mapping[str, object]]:
    # Not mapped into memory: where a mapped file is cut while it is read, the process ends with a
    # bus error. Buffered ahead, every row group that was read would stay in memory to the end.
    with _whole(path), pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            size, missing = _rows_at_a_time(group), group.num_rows
            for batch in file.iter_batches(size, row_groups=[number], columns=columns):
                missing -= len(batch)
                yield from plain_rows(pa.Table.from_batches([batch]))
            if missing:  # a buffer that meets the end of a file says nothing
                raise UserError(f"{path} can't be read as Parquet: it ends early.")


def _rows_at_a_time(group: pq.RowGroupMetaData) -> int:
    each = max(1, int(group.total_byte_size) // max(1, int(group.num_rows)))
    return max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // each))


def bytes_in(value: object) -> int:
    """How many bytes of files a row's values hold."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(bytes_in, value.values()))
    return sum(map(bytes_in, value)) if isinstance(value, list | tuple) else 0


def plain_rows(table: pa.Table) -> Iterator[Mapping[str, object]]:
    """Rows as Python values: Datasets' own types decoded, except images."""
    # Without a fingerprint Datasets would hash every byte.
    features = Dataset(InMemoryTable(table), fingerprint="of no account").features
    for name, feature in features.items():
        features[name] = _undecoded(feature)
    info = DatasetInfo(features=features)
    yield from Dataset(InMemoryTable(table), info=info, fingerprint="of no account")


def _undecoded(feature: object) -> object:
    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List):
        return List(_undecoded(feature.feature), length=feature.length)
    if isinstance(feature, LargeList):
        return LargeList(_undecoded(feature.feature))
    return feature


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items some at a time; Arrow takes at most 2 GiB of image bytes in one go."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += bytes_in(item)
        if len(chunk) >= ROWS_AT_A_TIME or held >= BYTES_AT_A_TIME:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
