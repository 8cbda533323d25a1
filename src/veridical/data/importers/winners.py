"""Two answers `a` and `b`, and a column that says which of them is better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from veridical.data.importers.labels import may_judge, names_worse
from veridical.data.record_kinds import LeftOutError, RowError

COLUMNS = ("a", "b", "winner")
AUTHORS = ("a_by", "b_by")
"""Who wrote the two answers."""
TIES = frozenset({
    "", "tie", "ties", "tied", "draw", "equal", "same", "both", "neither", "none", "unsure",
    "tie (bothbad)", "bothbad", "both bad", "both_bad", "both good", "both_good", "no preference",
})  # fmt: skip
_STEMS = (
    "response", "answer", "output", "completion", "caption", "reply", "generation", "description",
    "text", "conversation", "messages", "",
)  # fmt: skip
"""What columns of answers are called before the letter or number, the plainest first."""
_NUMBERED = re.compile(r"(.*?)[ _-]?([ab012])", re.I)
_SEVERAL = re.compile(r"(.*?)[ _-]?([a-h0-9])", re.I)
_BETTER = re.compile(r"(?:[a-z]+[ _-])?([ab012])|(first|second)", re.I)
_CHOICES = ("choice", "chosen", "selected")
_ORDERS = (("a", "b"), ("1", "2"), ("0", "1"))


@dataclass(frozen=True)
class TwoAnswers:
    """Where a set has its two answers, and what says which is better.

    Attributes:
        columns: `a`, `b`, `winner`, and where known `a_by` and `b_by`, to the set's own names.
        values: what stands in `winner` where `a` is better, and where `b` is; none where the first
            rows don't tell.
    """

    columns: Mapping[str, str]
    values: tuple[str, ...]


def find_two_answers(rows: Sequence[Mapping[str, object]]) -> TwoAnswers | None:
    """The two answers of rows under whatever names; None where they have none.

    A column that most rows have counts: of a tie the winner may be left out.
    """
    shared = _of_most(rows)
    columns = {name: name for name in COLUMNS} if shared >= {*COLUMNS} else _named(rows, shared)
    if columns is None:
        return None
    said = {plain_value(row.get(columns["winner"])) for row in rows}
    return TwoAnswers(columns, _meanings(said - TIES, columns))


def _of_most(rows: Sequence[Mapping[str, object]]) -> set[str]:
    """Columns that more than half of the rows have."""
    counts = Counter(str(name) for row in rows for name in row)
    return {name for name, count in counts.items() if 2 * count > len(rows)}


def further_answers(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Columns with three answers or more, by their names: `response_a` to `response_c`.

    None where there are two, or one.
    """
    names = {str(name) for row in rows for name in row if row[name] is not None}
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        match = _SEVERAL.fullmatch(name)
        if match is not None and (stem := match.group(1).lower()) in _STEMS:
            found.setdefault(stem, {})[match.group(2).lower()] = name
    for marks in found.values():
        for order in ("abcdefgh", "123456789", "0123456789"):
            run = [marks[mark] for mark in takewhile(marks.__contains__, order)]
            if len(run) > len(COLUMNS[:2]):
                return run
    return []


def _named(rows: Sequence[Mapping[str, object]], shared: set[str]) -> dict[str, str] | None:
    pairs = {stem: two for stem in (*_STEMS, "model") if (two := _pair(shared, stem)) is not None}
    answers = next((pairs[stem] for stem in _STEMS if stem in pairs), None)
    winner = _winner(rows, shared - {*(answers or ())})
    if answers is None or winner is None:
        return None
    named = dict(zip(COLUMNS, (*answers, winner), strict=True))
    return named | dict(zip(AUTHORS, pairs.get("model", ()), strict=False))


def _pair(names: set[str], stem: str) -> tuple[str, str] | None:
    """The columns of a stem with A and B behind it, or 1 and 2, or 0 and 1."""
    found = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None and match.group(1).lower() == stem:
            found[match.group(2).lower()] = name
    order = next((two for two in _ORDERS if found.keys() == set(two)), None)
    return None if order is None else (found[order[0]], found[order[1]])


def _winner(rows: Sequence[Mapping[str, object]], names: set[str]) -> str | None:
    """The column that by its name and most of its values says which answer is better."""
    able = [
        name
        for name in sorted(names, key=lambda name: (name != "winner", name))
        if (may_judge(name) or name in _CHOICES)
        and not names_worse(name)
        and 2 * sum(_says_which(row.get(name)) for row in rows) > len(rows)
        and any(_BETTER.fullmatch(plain_value(row.get(name))) for row in rows)
    ]
    return able[0] if able and (len(able) == 1 or able[0] == "winner") else None


def _says_which(value: object) -> bool:
    said = plain_value(value)
    return said in TIES or _BETTER.fullmatch(said) is not None


def _meanings(said: set[str], columns: Mapping[str, str]) -> tuple[str, ...]:
    """What `a` and `b` are called in `winner`: letters always tell, numbers if both are seen.

    0 and 1 tell only if the answers are numbered so: a `label` of 1 may stand for the first one.
    """
    marks = {match.group(1) or match.group(2) for one in said if (match := _BETTER.fullmatch(one))}
    if not marks or len(marks) > 2 or not all(_BETTER.fullmatch(one) for one in said):
        return ()
    numbered = _NUMBERED.fullmatch(columns["a"])
    own = numbered.group(2) if numbered is not None else ""
    for one, other in (*_ORDERS, ("first", "second")):
        sure = one in ("a", "first") or own == one or (one == "1" and "2" in marks)
        if marks <= {one, other} and sure:
            return one, other
    return ()


def plain_value(value: object) -> str:
    """A value of `winner` as text: in small letters, whole numbers without a point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().casefold()


def by_winner(row: Mapping[str, Any], values: Sequence[str]) -> dict[str, object]:
    """A row with `chosen` and `rejected` in place of `a`, `b` and `winner`.

    Args:
        row: with these columns; without `winner` neither answer is better.
        values: what `winner` says of `a` and of `b`; whatever follows says of neither.

    Raises:
        LeftOutError: neither answer is better.
        RowError: it says something else, or an answer is missing.
    """
    missing = next((name for name in COLUMNS[:2] if row.get(name) is None), None)
    if missing is not None:
        raise RowError(missing, "is missing")
    said = plain_value(row.get("winner"))
    known = [plain_value(value) for value in values or ("a", "b")]
    if said in known[2:] or (said in TIES and said not in known):
        told = f"is {str(row['winner'])[:40]!r}" if said else "is empty"
        raise LeftOutError("winner", f"{told}: neither answer is the better one")
    match = _BETTER.fullmatch(said)
    mark = said if said in known or match is None else match.group(1) or match.group(2)
    if mark not in known[:2]:
        two = " nor ".join(repr(str(value)) for value in values[:2])
        told = f"neither {two}" if two else "which may mean the first or the second answer"
        raise RowError(
            "winner",
            f"is {str(row['winner'])[:40]!r}, {told}; set --winner-values to what it says where a "
            "is better, where b is, and where neither is, such as --winner-values 1 2 0",
        )
    better, worse = ("a", "b") if mark == known[0] else ("b", "a")
    rest = {name: value for name, value in row.items() if name not in (*COLUMNS, *AUTHORS)}
    names = {"chosen_by": row.get(f"{better}_by"), "rejected_by": row.get(f"{worse}_by")}
    rest |= {name: value for name, value in names.items() if value is not None}
    return rest | {"chosen": row[better], "rejected": row[worse]}
