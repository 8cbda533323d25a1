"""What the options of an import ask for that its rows can't give, found in the first rows."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from veridical.builders.importing.columns import columns_read
from veridical.builders.importing.conversion import Conversion
from veridical.data.column_names import colliding, squeezed
from veridical.data.importers.convert import FACTORS, MARGINS, NAMES, looked_up
from veridical.data.importers.labels import may_judge, names_worse
from veridical.data.importers.shapes import SHAPES
from veridical.data.importers.winners import COLUMNS, TIES, further_answers
from veridical.data.record_kinds import Kind, RowError
from veridical.data.record_names import OTHERS, pair_names
from veridical.data.record_rows import known_fields
from veridical.runtime.errors import UserError

OWN = frozenset({"context", "severity", "margin", "image_id", *FACTORS})
"""Columns that importers read, beside those of the kinds and of the shapes."""
DEEPEST = 3  # points in the name of a place


def check_columns(source: str, columns: Mapping[str, str], first: Sequence[object]) -> None:
    """Refuse columns of `--columns` that no row has, and two columns of one name.

    Args:
        source: where the rows are from.
        columns: ours to theirs.
        first: the first rows.

    Raises:
        UserError: names the option, and what the rows have.
    """
    rows = [row for row in first if isinstance(row, Mapping)]
    moved = {*columns.values()}
    left = [{name: value for name, value in row.items() if name not in moved} for row in rows]
    if (twice := colliding(left, NAMES)) is not None:
        raise UserError(f"In {source}, {twice}.")
    kinds: tuple[Kind, ...] = get_args(Kind)
    ours_known = OWN | OTHERS | {name for kind in kinds for name in known_fields(kind)}
    for ours, theirs in columns.items():
        if not rows or any(_has(row, ours, theirs) for row in rows):
            continue
        places = list(_places(rows[0]))
        hint = _did_you_mean(theirs, places)
        if theirs in ours_known and any(_has(row, theirs, ours) for row in rows):
            hint = f" The other way around: --columns {theirs}={ours}."
        raise UserError(
            f"--columns {ours}={theirs}: none of the first {len(rows)} rows has a "
            f"column {theirs!r}.{hint} They have {', '.join(places)}."
        )


def check_asked(work: Conversion, first: Sequence[object]) -> None:
    """Refuse columns that nothing is read from, and a kind that no row gives.

    Args:
        work: with the options.
        first: the first rows.

    Raises:
        UserError: names the option.
    """
    rows = [row for row in first if isinstance(row, Mapping)]
    for ours, theirs in (work.given.columns or {}).items():
        _check_column(work, ours, theirs)
    _check_winners(work, rows)
    margins = {*MARGINS, (work.given.columns or {}).get("margin", "margin")}
    margins = {
        name for row in rows for name in row if squeezed(str(name)) in map(squeezed, margins)
    }
    if work.given.margin_weight is not None and work.kind != "preference":
        raise UserError(f"--margin-weight goes with preference records, not with {work.kind} ones.")
    if work.given.margin_weight is not None and not any(margins & row.keys() for row in rows):
        raise UserError(
            f"--margin-weight: none of the first {len(rows)} rows has a column "
            f"{' or '.join(MARGINS)}. Name it with --columns margin=THEIRS."
        )
    _check_kind(work, rows)
    _check_further(work, rows)
    _check_answers(work, rows)
    _check_verdicts(work, rows)


def _check_column(work: Conversion, ours: str, theirs: str) -> None:
    one, option = work.found.taken_for, f"--columns {ours}={theirs}"
    known = known_fields(work.kind) | OWN | OTHERS | {*SHAPES[one.shape].reads}
    known |= {*one.ratings, *one.together, *(one.rules.columns or {}), *one.columns, *one.printed}
    if ours not in known:
        hint = _did_you_mean(ours, sorted(known))
        usual = ", ".join(sorted(known_fields(work.kind)))
        raise UserError(
            f"{option}: nothing is read from a column {ours!r}.{hint} {work.kind} records of shape "
            f"{one.shape} are read from {usual}."
        )


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.lower(), [one.lower() for one in known], 1)
    found = next((one for one in known if near and one.lower() == near[0]), None)
    return f" Did you mean {found}?" if found is not None else ""


def _places(row: Mapping[str, object], before: str = "") -> Iterator[str]:
    """Columns of a row, and places in those that are objects or lists of them: `meta.file`."""
    for name, value in row.items():
        inside = value[0] if isinstance(value, list) and value else value
        is_turn = isinstance(inside, Mapping) and bool({"role", "from", "type"} & inside.keys())
        if isinstance(inside, Mapping) and not is_turn and before.count(".") < DEEPEST:
            yield from _places(inside, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _has(row: Mapping[str, object], ours: str, theirs: str) -> bool:
    try:
        looked_up(row, ours, theirs)
    except RowError:
        return False
    return True


def _check_answers(work: Conversion, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows of an unknown set may hold a preferred or rejected answer that nothing reads."""
    if work.wanted is not None or work.kind == "preference":
        return
    read = {name for theirs in columns_read(work, rows).values() for name in theirs}
    there = {str(name) for row in rows for name in row if row[name] is not None} - read
    named = {"chosen", "rejected", *pair_names("chosen"), *pair_names("rejected")}
    unread = sorted(name for name in there if squeezed(name) in map(squeezed, named))
    if read and work.found.taken_for.name in SHAPES and unread:
        raise UserError(
            f"{work.source.name}: the column {unread[0]!r} holds an answer, and {work.kind} "
            "records have no place for it. Set --kind preference for pairs, or "
            f"--kind {work.kind} to leave it out."
        )


def _check_further(work: Conversion, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows may have a third answer beside two, which a pair made of these would drop."""
    given, run = work.given.columns or {}, further_answers(rows)
    if not run or {"a", "b"} <= given.keys() or work.found.taken_for.name not in SHAPES:
        return
    read = {name for theirs in columns_read(work, rows).values() for name in theirs}
    unread = [name for name in run if name not in read]
    named = len(run[0]) > 1  # options of a question may be A to D
    if unread and ({*run[:2]} <= read or (named and work.wanted is None)):
        raise UserError(
            f"{work.source.name}: the rows have {len(run)} answers ({', '.join(run)}), and "
            f"{', '.join(unread)} would not be read. Write the best one as chosen, another as "
            "rejected, and a list of the rest as more_rejected; or set --columns "
            f"{shlex.join([f'a={run[0]}', f'b={run[1]}', 'winner=WINNER'])} to read two of them"
            f"{f', or --kind {work.kind} to read none' if work.kind != 'preference' else ''}."
        )


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
                f"which answers are good, and nothing would read it. {_ways_to_read(column)} If it "
                "is an answer itself, set --columns chosen=BETTER rejected=WORSE. If it says "
                f"something else, set --kind {work.kind}."
            )


def _ways_to_read(column: str) -> str:
    """Which options read a column as labels of single answers, or as the better of two."""
    winner = f"--columns a=FIRST b=SECOND winner={column}"
    if names_worse(column):
        return (
            "If each row has one answer, write a column label that is true for good ones. If it "
            f"names the worse of two, set {winner} --winner-values B A, where A and B stand for "
            "what it says of the first and of the second."
        )
    label = "--kind unpaired" + ("" if column == "label" else f" and --columns label={column}")
    return f"If each row has one answer, set {label}. If it names the better of two, set {winner}."


def _check_winners(work: Conversion, rows: Sequence[Mapping[str, object]]) -> None:
    """Values of `winner` are read where rows have both answers, and have to be known there."""
    named = {*(work.rules.columns or {})}
    compared = any({*COLUMNS} <= {*row} | named for row in rows)
    if work.rules.winner_values is None and compared and work.found.taken_for.shape == "flat":
        a, b, winner = ((work.rules.columns or {}).get(name, name) for name in COLUMNS)
        said = sorted({str(row[winner])[:20] for row in rows if row.get(winner) is not None})
        if {*map(str.casefold, said)} - TIES <= {"a", "b"} or work.kind != "preference":
            return
        raise UserError(
            f"{work.source.name}: {winner} says {', '.join(said[:4])}, which may mean {a} or {b}. "
            f"Set --winner-values to what it says where {a} is better, then where {b} is, then "
            "where neither is, such as --winner-values 1 2 0."
        )
    if work.given.winner_values is None:
        return
    if work.kind != "preference" or not compared:
        raise UserError(
            "--winner-values goes with two answers and a column that says which is better. Name "
            "them: --columns a=FIRST b=SECOND winner=THEIRS."
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
