"""Going on without the rows that a model's processor refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from veridical.models.batching import RefusedRowsError

Result = TypeVar("Result")


def leave_out_refused(
    ids: Sequence[str],
    work: Callable[[list[int]], Result],
    row_of: Callable[[str], str] = str,
) -> tuple[Result, dict[int, str]]:
    """Work on rows, again and again without those that turn out to be refused.

    A picture of an unusual size is tried before any work; others are found here.

    Args:
        ids: of the rows.
        work: takes the places of the rows that are left.
        row_of: from the name of what was asked to the id of its row.

    Returns:
        What `work` gave for the rows that are left, and why the others were refused, by place.

    Raises:
        RefusedRowsError: it names none of these rows.
    """
    refused: dict[int, str] = {}
    while True:
        left = [place for place in range(len(ids)) if place not in refused]
        try:
            return work(left), refused
        except RefusedRowsError as error:
            reasons = {row_of(name): reason for name, reason in error.by_name.items()}
            new = {place: reasons[ids[place]] for place in left if ids[place] in reasons}
            if not new:
                raise
            refused |= new
