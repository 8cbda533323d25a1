"""What a set is taken for, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veridical.data.column_names import squeezed
from veridical.data.importers import tables
from veridical.data.importers.convert import renamed
from veridical.data.importers.rules import Rules
from veridical.data.importers.sets import SETS, NamedSet
from veridical.data.importers.shapes import SHAPES
from veridical.data.importers.winners import COLUMNS
from veridical.data.record_kinds import Kind, RowError
from veridical.data.record_rows import known_fields
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted

FIRST_ROWS = 20
AUTO = "auto"
AS_ASKED = "as asked"
TOOLS = ("trl", "llamafactory", "ms-swift")
"""Tools whose files have one of several shapes and kinds."""


@dataclass(frozen=True)
class Recognized:
    """A set or a shape, and the reason for it."""

    taken_for: NamedSet
    reason: str


def recognize(
    rows: Sequence[object], sets: bool = True, columns: Mapping[str, str] | None = None
) -> Recognized | None:
    """What the first rows of a file are, by their columns and by what these hold.

    Args:
        rows: as they lie in the file; those that are not objects don't count.
        sets: whether they may be of a published set; else they are only of a shape.
        columns: ours to theirs, as the user gives them; a shape is of rows named so.

    Returns:
        None where they are of no known shape.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    if not objects:
        return None
    shared = set.intersection(*({str(name) for name in row} for row in objects))
    for one in SETS.values() if sets else ():
        if one.columns and one.columns <= shared and _fits(one, objects[0]):
            return Recognized(one, f"its rows have {', '.join(sorted(one.columns))}")
    named = _named(objects, columns)
    # The shape of most rows: a pair without its rejected answer looks like a conversation.
    shape = max(SHAPES, key=lambda name: sum(SHAPES[name].fits(row) is not None for row in named))
    return _of_shape(shape, named, objects)


def _named(rows: Sequence[object], columns: Mapping[str, str] | None) -> list[Mapping[str, object]]:
    """Rows under the names that the user gives; as they are where they lack a column."""
    named: list[Mapping[str, object]] = []
    for row in rows:
        if isinstance(row, Mapping):
            try:
                named.append(renamed(row, columns or {}))
            except RowError:
                named.append(row)
    return named


def _fits(one: NamedSet, row: Mapping[str, object]) -> bool:
    """Whether a row that has a set's columns holds what they should."""
    if one.together or one.rules.columns:
        return True  # only converted are they of the shape
    return SHAPES[one.shape].fits(row) is not None


def _of_shape(
    name: str, rows: Sequence[Mapping[str, object]], raw: Sequence[object]
) -> Recognized | None:
    """What rows are, of a shape.

    Args:
        name: of the shape.
        rows: under our names.
        raw: as they lie in the file.
    """
    fits = [fit for row in rows if (fit := SHAPES[name].fits(row))]
    # Where only some rows have answers, those that have none are not prompts.
    fit = next((one for one in fits if one.kind != "prompt"), fits[0] if fits else None)
    if fit is None:
        return None
    rules = _as_spelled(SHAPES[name].rules_of(rows), rows, raw)
    return Recognized(NamedSet(name, name, fit.kind, rules=rules), fit.reason)


def _as_spelled(rules: Rules, rows: Sequence[Mapping[str, object]], raw: Sequence[object]) -> Rules:
    """The rules with columns of two answers and a winner as the file writes them (`Winner`)."""
    read = {name: (rules.columns or {}).get(name, name) for name in COLUMNS}
    # A row may lack its winner, as where it is a tie.
    if not all(any(name in row for row in rows) for name in read.values()):
        return rules
    written = [str(name) for row in raw if isinstance(row, Mapping) for name in row]
    theirs = {squeezed(name): name for name in written}
    spelled = {
        ours: theirs[squeezed(name)]
        for ours, name in read.items()
        if name not in written and squeezed(name) in theirs
    }
    return replace(rules, columns={**(rules.columns or {}), **spelled}) if spelled else rules


def find_set(
    name: str, rows: Sequence[object], source: str, columns: Mapping[str, str] | None = None
) -> Recognized:
    """The set or shape of a name; for `auto` what the rows are.

    Args:
        name: a set, a shape or `auto`.
        rows: the first rows.
        source: where they are from, for messages.
        columns: as in `recognize`.

    Raises:
        UserError: there is none of that name, or the rows are of no known shape.
    """
    if name in SETS:
        return Recognized(SETS[name], AS_ASKED)
    if name in TOOLS:
        one = recognize(rows, sets=False, columns=columns)
        if one is not None:
            return Recognized(replace(one.taken_for, name=name), one.reason)
        raise _unknown(rows, source)
    if name in SHAPES:
        found = _of_shape(name, _named(rows, columns), rows)
        return found or Recognized(NamedSet(name, name, "preference"), AS_ASKED)
    if name != AUTO:
        known = ", ".join([AUTO, *SETS, *TOOLS, *SHAPES])
        raise UserError(f"--as {name} is not a known set or shape; choose of {known}.")
    found = recognize(rows, columns=columns)
    if found is None:
        raise _unknown(rows, source)
    return found


def _unknown(rows: Sequence[object], source: str) -> UserError:
    first = next((row for row in rows if isinstance(row, Mapping)), None)
    if first is None:
        reason = next((f" ({row.reason})" for row in rows if isinstance(row, RowError)), "")
        return UserError(
            f"{source}: none of its first {counted(len(rows), 'rows')} is an object{reason}. A "
            "file holds a row a line, a list of rows, or an object of rows by id."
        )
    columns = ", ".join(map(str, first)) or "none"
    is_table = Path(source).suffix.lower() in tables.SUFFIXES
    header = " The first line of a table has to name them." if is_table else ""
    return UserError(
        f"The rows of {source} are of no known shape. Their columns: {columns}. Name them with "
        "--columns, such as --columns prompt=ASKED chosen=BETTER rejected=WORSE, and "
        f"--as flat.{header}"
    )


def mapping(
    row: Mapping[str, object],
    kind: Kind,
    made_of: Callable[[Mapping[str, object]], Sequence[Mapping[str, object] | RowError]],
) -> dict[str, list[str]]:
    """Which columns of a foreign row each field of ours is read from.

    A field is read from a column if it is another one with other texts in the column, or, where
    these change nothing, without it. Under "" are columns without which there is no record.

    Args:
        row: as it lies in the file; it can be converted.
        kind: of the record.
        made_of: converts it.
    """

    def fields(changed: Mapping[str, object]) -> dict[str, object]:
        first = next((one for one in made_of(changed) if not isinstance(one, RowError)), {})
        read = known_fields(kind) - {"source"}  # which repeats whatever there is
        return {name: value for name, value in first.items() if name in read and value is not None}

    whole = fields(row)
    found: dict[str, list[str]] = {}
    for column, value in row.items():
        other = fields({**row, column: _otherwise(value)})
        if not other or other == whole:
            other = fields({name: value for name, value in row.items() if name != column})
        changed = [ours for ours in whole if whole[ours] != other.get(ours)] if other else [""]
        for ours in changed:
            found.setdefault(ours, []).append(column)
    return dict(sorted(found.items()))


def _otherwise(value: object, key: str = "value") -> object:
    """The value with every text in it changed, but for those that say what a turn or block is."""
    if isinstance(value, str) and key in ("value", "content", "text", "response", "path"):
        return f"{value} "[::-1]
    if isinstance(value, Mapping):
        return {name: _otherwise(one, str(name)) for name, one in value.items()}
    return [_otherwise(one, key) for one in value] if isinstance(value, list) else value
