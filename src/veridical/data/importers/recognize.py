"""What a set is taken for, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veridical.data.importers.sets import SETS, NamedSet
from veridical.data.importers.shapes import SHAPES
from veridical.runtime.errors import UserError

FIRST_ROWS = 20
AUTO = "auto"
AS_ASKED = "as asked"


@dataclass(frozen=True)
class Recognized:
    """A set or a shape, and the reason for it."""

    taken_for: NamedSet
    reason: str


def recognize(rows: Sequence[object]) -> Recognized | None:
    """What the first rows of a file are, by their columns and by what these hold.

    Args:
        rows: as they lie in the file; those that are no objects don't count.

    Returns:
        None where they are of no known shape.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    if not objects:
        return None
    columns = set.intersection(*({str(name) for name in row} for row in objects))
    for one in SETS.values():
        if one.columns and one.columns <= columns and _fits(one, objects[0]):
            return Recognized(one, f"its rows have {', '.join(sorted(one.columns))}")
    return next(filter(None, (_of_shape(name, objects) for name in SHAPES)), None)


def _fits(one: NamedSet, row: Mapping[str, object]) -> bool:
    """Whether a row that has a set's columns holds what they should."""
    if one.together or one.rules.columns:
        return True  # only converted are they of the shape
    return SHAPES[one.shape].fits(row) is not None


def _of_shape(name: str, rows: Sequence[Mapping[str, object]]) -> Recognized | None:
    fit = next((fit for row in rows if (fit := SHAPES[name].fits(row))), None)
    return None if fit is None else Recognized(NamedSet(name, name, fit.kind), fit.reason)


def find_set(name: str, rows: Sequence[object], source: str) -> Recognized:
    """The set or shape of a name; for `auto` what the rows are.

    Args:
        name: a set, a shape or `auto`.
        rows: the first rows.
        source: where they are from, for messages.

    Raises:
        UserError: there is none of that name, or the rows are of no known shape.
    """
    if name in SETS:
        return Recognized(SETS[name], AS_ASKED)
    if name in SHAPES:
        objects = [row for row in rows if isinstance(row, Mapping)]
        found = _of_shape(name, objects)
        return found or Recognized(NamedSet(name, name, "preference"), AS_ASKED)
    if name != AUTO:
        known = ", ".join([AUTO, *SETS, *SHAPES])
        raise UserError(f"--as {name} is no known set or shape; choose of {known}.")
    found = recognize(rows)
    if found is None:
        first = next((row for row in rows if isinstance(row, Mapping)), {})
        columns = ", ".join(map(str, first)) or "none: its rows are no objects"
        raise UserError(
            f"The rows of {source} are of no known shape. Their columns: {columns}. Name them with "
            "--columns, such as --columns prompt=QUESTION chosen=BETTER rejected=WORSE, and "
            "--as flat."
        )
    return found


def mapping(row: Mapping[str, object], made: Mapping[str, object]) -> dict[str, str]:
    """Which column of a foreign row each field of ours holds, as far as it holds one as it is.

    Args:
        row: as it lies in the file.
        made: what it was converted to.
    """
    found = {}
    for ours, value in made.items():
        bare = _bare(value)
        theirs = [name for name, other in row.items() if other in (value, bare) and bare]
        if theirs and ours != "source":
            found[ours] = ours if ours in theirs else theirs[0]
    return found


def _bare(value: object) -> object:
    """A value that was put into a list or into a message."""
    if isinstance(value, list) and len(value) == 1:
        one = value[0]
        return one.get("content", one) if isinstance(one, Mapping) else one
    return value
