"""What a set is taken for, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.data.importers.sets import SETS, NamedSet
from veridical.data.importers.shapes import SHAPES
from veridical.runtime.errors import UserError

FIRST_ROWS = 20
AUTO = "auto"


@dataclass(frozen=True)
class Recognized:
    """A set or a shape, and the reason for it."""

    taken_for: NamedSet
    reason: str


def recognize(rows: Sequence[Any]) -> Recognized | None:
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
        if one.columns and one.columns <= columns and SHAPES[one.shape].fits(objects[0]):
            return Recognized(one, f"its rows have {', '.join(sorted(one.columns))}")
    for shape in SHAPES.values():
        reason = next((told for row in objects if (told := shape.fits(row))), None)
        if reason is not None:
            return Recognized(NamedSet(shape.name, shape.name, "preference"), reason)
    return None


def find_set(name: str, rows: Sequence[Any]) -> Recognized:
    """The set or shape of a name; for `auto` what the rows are.

    Raises:
        UserError: there is none of that name, or the rows are of no known shape.
    """
    if name in SETS:
        return Recognized(SETS[name], "as asked")
    if name in SHAPES:
        return Recognized(NamedSet(name, name, "preference"), "as asked")
    if name != AUTO:
        known = ", ".join([AUTO, *SETS, *SHAPES])
        raise UserError(f"--as {name} is no known set or shape; choose of {known}.")
    found = recognize(rows)
    if found is None:
        first = next((row for row in rows if isinstance(row, Mapping)), {})
        columns = ", ".join(map(str, first)) or "none: its rows are no objects"
        raise UserError(
            f"The rows are of no known shape. Their columns: {columns}. Name them with --columns, "
            "such as --columns prompt=QUESTION chosen=BETTER rejected=WORSE, and --as flat."
        )
    return found
