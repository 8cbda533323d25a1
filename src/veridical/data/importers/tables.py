"""CSV and TSV files: the first line names the columns, every other one is a row of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from veridical.data.record_kinds import RowError
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import check_file, reading
from veridical.runtime.progress import counted
from veridical.runtime.unchanged import unchanged

SUFFIXES = (".csv", ".tsv")
BLOCK = 16 * 2**20
"""Bytes that are read at once; no row may be longer (our choice)."""


def table_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Each row with its number, counted from 1 below the header; an empty cell is None.

    A row with more or fewer cells than the header comes as a `RowError`.

    Raises:
        UserError: the file can't be read, has no header or one with a name twice, is not UTF-8, or
            was written to meanwhile.
    """
    check_file(path)
    with unchanged(path):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(path)
        try:
            yield from _rows(path, delimiter)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} can't be read as a table: {_in_words(error)}") from error


def _delimiter(path: Path) -> str:
    """What stands between the names of columns: a comma, or where there is none ; or a tab."""
    with reading(path), path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, object]]:
    wrong: list[pc.InvalidRow] = []

    def note(row: pc.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    # One thread: only so is a wrong row's number known.
    read = pc.ReadOptions(use_threads=False, block_size=BLOCK)
    parse = pc.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note)
    names = _header(path, read, delimiter)
    # Texts stay texts: "NA" may be an answer, and 007 an image's name.
    convert = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    number = 0
    with pc.open_csv(path, read, parse, convert) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                while wrong and wrong[0].number is not None and wrong[0].number - 1 == number:
                    yield number, _refusal(wrong.pop(0))
                    number += 1
                yield number, {name.strip(): value or None for name, value in row.items()}
    for one in wrong:
        number += 1
        yield number, _refusal(one)


def _header(path: Path, read: pc.ReadOptions, delimiter: str) -> list[str]:
    parse = pc.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda _: "skip"
    )
    with pc.open_csv(path, read, parse) as batches:
        names: list[str] = batches.schema.names
    plain = [name.strip() for name in names]
    twice = next((name for name in plain if plain.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns named {twice!r}. Rename one of them.")
    return names


def _refusal(row: pc.InvalidRow) -> RowError:
    return RowError(
        "row", f"has {counted(row.actual_columns, 'cells')}, and the header {row.expected_columns}"
    )


def _in_words(error: Exception) -> str:
    said = reason_of(error)
    if "Empty CSV" in said:
        return "it is empty"
    if "UTF8" in said or "utf-8" in said.lower():
        return f"{said}. Save it as UTF-8."
    return f"{said}. Is each text with a comma, a line's end or quotes in it in quotes?"
