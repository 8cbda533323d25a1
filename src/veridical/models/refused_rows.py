"""Rows that a model's processor refuses: their error, and going on without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from veridical.runtime.errors import UserError

Result = TypeVar("Result")


class RefusedRowsError(UserError):
    """Rows of a batch that the model's processor refuses even alone.

    Attributes:
        reasons: by the row's place in the batch.
        by_name: by the row's name, where names are known.
    """

    def __init__(self, model: str, reasons: dict[int, str], names: Sequence[str] = ()) -> None:
        """Say which rows, by name where names are known."""
        self.model, self.reasons = model, reasons
        self.by_name = {names[place]: why for place, why in reasons.items()} if names else {}
        row, reason = next(iter(reasons.items()))
        name = f"Row {names[row]}" if names else f"Row {row + 1} of a batch"
        more = f" ({len(reasons) - 1} more of this batch too.)" if len(reasons) > 1 else ""
        super().__init__(f"{name} can't be used by {model}: {reason}.{more} Leave it out.")

    @property
    def reason(self) -> str:
        """The first row's."""
        return next(iter(self.reasons.values()))


@contextmanager
def naming_rows(names: Sequence[str]) -> Iterator[None]:
    """Name the rows that are refused."""
    try:
        yield
    except RefusedRowsError as error:
        raise RefusedRowsError(error.model, error.reasons, names) from error.__cause__


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
