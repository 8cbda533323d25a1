"""What rows say of where they are from: which fields are about one of the two answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.inspection.rows import Row, source_fields

MOST_VALUES = 50
"""A field of more values names rows or holds texts, and is not a category (our choice)."""
ID_STEM = "id begins with"
LONGEST = 80  # letters of a category
NONE = ""
_BRANCH = re.compile(
    r"(?:^|(?<=[._\- ]))(chosen|rejected|y_?w(?:in)?|y_?l(?:ose)?|win(?:ner)?|los(?:e|er)|better"
    r"|worse|preferred|dispreferred)(?=$|[._\- ])",
    re.I,
)
_CHOSEN = re.compile(r"chosen|y_?w|win|better|^preferred", re.I)
_STEM = re.compile(r"([A-Za-z]{3,})[\d\W_]")
_HEX = re.compile(r"[0-9a-f]{12,}(?:-\d+)?")
_SOURCES = ("set", "builder", "prompts", "judge", "part", "file")
"""Entries of `source` that name where a row is from, as importers and builders write them."""
ROWS_A_VALUE = 2
"""Rows that a value has on average; below, a field names rows (our choice)."""


@dataclass
class Column:
    """A field's values row by row, as numbers; given up where it has too many."""

    names: dict[str, int] = field(default_factory=lambda: {NONE: 0})
    codes: list[int] = field(default_factory=list)
    full: bool = False

    def add(self, value: str, row: int) -> None:
        """Note a row's value; the rows before that had none get `NONE`."""
        if self.full:
            return
        if len(value) > LONGEST or (value not in self.names and len(self.names) > MOST_VALUES):
            self.full = True
            self.codes.clear()
            return
        self.codes += [0] * (row - len(self.codes))
        self.codes.append(self.names.setdefault(value, len(self.names)))

    @property
    def is_category(self) -> bool:
        """Whether it has several values, shared by rows; hashes name rows."""
        shown = self.names.keys() - {NONE}
        told = sum(code != 0 for code in self.codes)
        enough = not self.full and len(shown) > 1 and told >= ROWS_A_VALUE * len(shown)
        return enough and not all(map(_HEX.fullmatch, shown))

    def values(self, rows: int) -> list[int]:
        """The codes of all rows."""
        return self.codes + [0] * (rows - len(self.codes))


@dataclass
class Fields:
    """The fields of a set: of a row as a whole, and of each of its two answers.

    Attributes:
        whole: categories of rows, by field.
        branches: categories of the chosen and of the rejected answer, by field.
        scores: numbers for the chosen and the rejected answer, by field and row.
    """

    whole: dict[str, Column] = field(default_factory=dict)
    branches: dict[str, tuple[Column, Column]] = field(default_factory=dict)
    scores: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)

    def add(self, row: Row, place: int) -> None:
        """Note the fields of the row at `place`, counted from 0."""
        found = source_fields(row)
        if not _HEX.fullmatch(row.id) and (stem := _STEM.match(row.id)):
            found[ID_STEM] = stem.group(1)
        for name, two in branch_values(found).items():
            if all(isinstance(value, str) for value in two):
                columns = self.branches.setdefault(name, (Column(), Column()))
                for column, value in zip(columns, two, strict=True):
                    column.add(value, place)
            elif all(isinstance(value, int | float) for value in two):
                self.scores.setdefault(name, {})[place] = float(two[0]), float(two[1])
        for name, value in found.items():
            if isinstance(value, str | bool) and not _BRANCH.search(name):
                self.whole.setdefault(name, Column()).add(str(value), place)

    def categories(self) -> dict[str, Column]:
        """Fields of rows that have between two and `MOST_VALUES` values, the sources first.

        Fields that name rows are left out: hashes, and values that hardly any two rows share.
        """
        names = sorted(self.whole, key=_place)
        return {name: self.whole[name] for name in names if self.whole[name].is_category}

    def authors(self) -> dict[str, tuple[Column, Column]]:
        """Fields of answers that are categories of at least two values."""
        return {
            name: two
            for name, two in self.branches.items()
            if not any(column.full for column in two)
            and len((two[0].names.keys() | two[1].names.keys()) - {NONE}) > 1
        }


def _place(name: str) -> tuple[int, int]:
    """Sources in their order, then other fields, then what ids begin with."""
    known = _SOURCES.index(name) if name in _SOURCES else len(_SOURCES)
    return int(name == ID_STEM), known


def branch_values(found: Mapping[str, object]) -> dict[str, tuple[Any, Any]]:
    """Fields that say something of each answer: `*_model` of `chosen_model` and `rejected_model`.

    A list of two is of the chosen and of the rejected answer, as `with_ranking` orders it.
    """
    two: dict[str, dict[bool, Any]] = {}
    for name, value in found.items():
        if isinstance(value, list) and len(value) == 2:
            two[name] = {True: value[0], False: value[1]}
        elif (match := _BRANCH.search(name)) is not None:
            key = name[: match.start()] + "*" + name[match.end() :]
            two.setdefault(key, {})[bool(_CHOSEN.match(match.group()))] = value
    return {name: (both[True], both[False]) for name, both in two.items() if len(both) == 2}


def coded_alike(two: tuple[Column, Column], rows: int) -> tuple[list[int], list[int], int]:
    """Codes of the chosen and the rejected answers in one numbering, and how many there are."""
    names = dict.fromkeys((*two[0].names, *two[1].names))
    number = {name: place for place, name in enumerate(names)}
    found = [_renumbered(column, number, rows) for column in two]
    return found[0], found[1], len(number)


def _renumbered(column: Column, number: Mapping[str, int], rows: int) -> list[int]:
    table = [number[name] for name in column.names]
    return [table[code] for code in column.values(rows)]


def count_values(column: Column, rows: int) -> Iterable[tuple[str, list[int]]]:
    """Each value with the places of its rows, the most frequent first."""
    places: dict[int, list[int]] = {}
    for place, code in enumerate(column.values(rows)):
        places.setdefault(code, []).append(place)
    names = list(column.names)
    ordered = sorted(places.items(), key=lambda item: -len(item[1]))
    return [(names[code] or "(none)", rows_of) for code, rows_of in ordered]
