"""When a file of records is refused as a whole: too many bad rows, or images that seem lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from veridical.data.record_checks import MISSING, RowChecker, RowProblem, what_columns_say
from veridical.data.record_kinds import Kind
from veridical.runtime.errors import UserError
from veridical.runtime.kinds import by_kind
from veridical.runtime.progress import part_of

SHOWN = 3
"""Rows, or kinds of reasons, that a message names."""


def refuse_bad_share(
    path: Path,
    kind: Kind,
    problems: list[RowProblem],
    total: int,
    max_bad_fraction: float,
    has_option: bool = True,
) -> None:
    """Refuse a file of which too many rows can't be used.

    Args:
        path: the file.
        kind: of its records.
        problems: what is wrong with rows.
        total: number of rows.
        max_bad_fraction: share of them that may be unusable.
        has_option: whether the command has the option --max-bad-fraction, which the message names.

    Raises:
        UserError: names the first of them.
    """
    if total == 0:
        raise UserError(f"{path} holds no rows.")
    if len(problems) <= max_bad_fraction * total and len(problems) < total:
        return
    share = f"--max-bad-fraction {max_bad_fraction:g} allows"
    share = share if has_option else f"the {100 * max_bad_fraction:g} % that may be left out"
    limit = share if len(problems) < total else "can be left out"
    shown, more = _shown(problems)
    found = f"{path}: {part_of(len(problems), total, 'rows')} cannot be used, more than {limit}: "
    if len(problems) == total and all(problem.reason.startswith(MISSING) for problem in problems):
        raise UserError(f"{found}{shown}{more}.{what_columns_say(path, kind)}")
    higher = ", or set --max-bad-fraction higher" if has_option and len(problems) < total else ""
    advice = f"Fix them{higher}."
    raise UserError(f"{found}{shown}{more}.\n{advice}")


def _shown(problems: Sequence[RowProblem]) -> tuple[str, str]:
    """The first three problems, or one of each kind with its number; and how many are not shown."""
    if len(problems) <= SHOWN:
        return "; ".join(map(str, problems)), ""
    kinds = by_kind(problems, lambda problem: (problem.field, problem.reason))
    if len(kinds) == 1:
        return "; ".join(map(str, problems[:SHOWN])), f"; and {len(problems) - SHOWN} more"
    shown = "; ".join(f"{len(kind)} x {kind[0]}" for kind in kinds[:SHOWN])
    return shown, f"; and {len(kinds) - SHOWN} more kinds" if len(kinds) > SHOWN else ""


def lost_images(path: Path, checker: RowChecker, total: int) -> list[str]:
    """Columns that seem to hold images of some rows that have none, where others have."""
    checker.seen.refuse_lost_images(str(path), total)
    return sorted(checker.seen.lost.values()) if checker.seen.has_images else []
