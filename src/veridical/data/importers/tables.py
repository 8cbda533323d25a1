"""CSV and TSV files: the first line names the columns, every other one is a row of texts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from veridical.data.record_kinds import RowError
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, reading
from veridical.runtime.progress import counted
from veridical.runtime.unchanged import unchanged

if TYPE_CHECKING:
    from _csv import Reader

SUFFIXES = (".csv", ".tsv")
LONGEST = 16 * 2**20
"""Characters of a cell: a quote that is never closed must not fill the memory (our choice)."""


def table_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Each row with its number, counted from 1 below the header; an empty cell is None.

    Blank lines are not rows. A row with more or fewer cells than the header comes as a `RowError`.

    Raises:
        UserError: the file can't be read, has no header or one with a name twice, is not UTF-8, has
            quotes that don't fit together, or was written to meanwhile.
    """
    check_file(path)
    csv.field_size_limit(LONGEST)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(path)
    with unchanged(path), reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        # Strict: else a quote that is never closed takes the rest of the file into one cell.
        yield from _rows(path, _cells(path, csv.reader(file, delimiter=delimiter, strict=True)))


def _delimiter(path: Path) -> str:
    """What stands between the names of columns: a comma, or where there is none ; or a tab."""
    with reading(path), path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _cells(path: Path, lines: Reader) -> Iterator[list[str]]:
    """The cells of each line that is not blank."""
    while True:
        first = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path} can't be read as a table: the row that begins in line {first}: {error}. "
                "Put each text with a comma, a line break or a quote in it in quotes, and double "
                'the quotes within ("").'
            ) from error
        if cells:
            yield cells


def _rows(path: Path, lines: Iterator[list[str]]) -> Iterator[tuple[int, object]]:
    names = [name.strip() for name in next(lines, ())]
    if not names:
        raise UserError(f"{path} can't be read as a table: it is empty.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice == "":
        raise UserError(
            f"{path} has {names.count('')} columns without a name. Name them in the first line, or "
            "take them out."
        )
    if twice is not None:
        raise UserError(f"{path} has two columns named {twice!r}. Rename one of them.")
    for number, cells in enumerate(lines, start=1):
        if len(cells) == len(names):
            yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        else:
            found = f"has {counted(len(cells), 'cells')}, and the header {len(names)}"
            yield number, RowError("row", found)
