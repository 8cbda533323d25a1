"""What the options of an import ask for that its rows can't give, found in the first rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from veridical.builders.importing.columns import columns_read
from veridical.builders.importing.conversion import Conversion
from veridical.data.importers.convert import FACTORS, MARGINS, looked_up
from veridical.data.importers.labels import may_judge
from veridical.data.importers.shapes import SHAPES
from veridical.data.record_kinds import RowError
from veridical.data.record_names import OTHERS
from veridical.data.record_rows import known_fields
from veridical.runtime.errors import UserError

OWN = frozenset({"context", "severity", "margin", "image_id", *FACTORS})
"""Columns that importers read, beside those of the kinds and of the shapes."""


def check_asked(work: Conversion, first: Sequence[object]) -> None:
    """Refuse columns that nothing is read from or no row has, and a kind that no row gives.

    Args:
        work: with the options.
        first: the first rows.

    Raises:
        UserError: names the option.
    """
    rows = [row for row in first if isinstance(row, Mapping)]
    for ours, theirs in (work.given.columns or {}).items():
        _check_column(work, rows, ours, theirs)
    margins = {*MARGINS, (work.given.columns or {}).get("margin")}
    if work.given.margin_weight is not None and work.kind != "preference":
        raise UserError(f"--margin-weight goes with preference records, not with {work.kind} ones.")
    if work.given.margin_weight is not None and not any(margins & row.keys() for row in rows):
        raise UserError(
            f"--margin-weight: none of the first {len(rows)} rows has a column "
            f"{' or '.join(MARGINS)}. Name it with --columns margin=THEIRS."
        )
    _check_kind(work, rows)
    _check_verdicts(work, rows)


def _check_column(
    work: Conversion, rows: Sequence[Mapping[str, object]], ours: str, theirs: str
) -> None:
    one, option = work.found.taken_for, f"--columns {ours}={theirs}"
    known = known_fields(work.kind) | OWN | OTHERS | {*SHAPES[one.shape].reads}
    known |= {*one.ratings, *one.together, *(one.rules.columns or {}), *one.columns, *one.printed}
    if ours not in known:
        near = difflib.get_close_matches(ours, sorted(known), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        usual = ", ".join(sorted(known_fields(work.kind)))
        raise UserError(
            f"{option}: nothing is read from a column {ours!r}.{hint} {work.kind} records of shape "
            f"{one.shape} are read from {usual}."
        )
    if rows and not any(_has(row, ours, theirs) for row in rows):
        there = ", ".join(map(str, rows[0]))
        raise UserError(
            f"{option}: none of the first {len(rows)} rows has a column {theirs!r}. They have "
            f"{there}."
        )


def _has(row: Mapping[str, object], ours: str, theirs: str) -> bool:
    try:
        looked_up(row, ours, theirs)
    except RowError:
        return False
    return True


def _check_verdicts(work: Conversion, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows of an unknown set may say which answers are good in a column that nothing reads."""
    if work.wanted is not None or work.found.taken_for.name not in SHAPES:
        return
    read = {name for theirs in columns_read(work, rows).values() for name in theirs}
    columns = {str(name) for row in rows for name in row if row[name] is not None}
    for column in sorted(columns - read if read else ()):
        if may_judge(column):
            values = sorted({str(row[column])[:20] for row in rows if row.get(column) is not None})
            raise UserError(
                f"{work.source.name}: the column {column!r} ({', '.join(values[:3])}) may say "
                "which answers are good, and nothing would read it. If each row has one answer, "
                f"set --kind unpaired and --columns label={column}. If it names the better of "
                "two, write that one into a column chosen and the other into rejected. If it says "
                f"something else, set --kind {work.kind}."
            )


def _check_kind(work: Conversion, rows: Sequence[Mapping[str, object]]) -> None:
    own = work.found.taken_for.kind
    if work.wanted in (None, own):
        return
    reasons = [work.reason_of(row) for row in rows]
    if rows and all(reason is not None for reason in reasons):
        raise UserError(
            f"{work.source.name}: its rows are {own} records ({work.found.reason}), and none of "
            f"the first {len(rows)} gives a {work.wanted} record ({reasons[0]}). Leave --kind out, "
            "or name the columns with --columns."
        )
