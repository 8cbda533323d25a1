"""Rows that somebody wants left out, by their numbers in a file or by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from veridical.data.column_names import squeezed
from veridical.runtime.errors import UserError


def own_id(row: object) -> str:
    """The id that a row of a file has, as text; "" if it has none."""
    if not isinstance(row, Mapping):
        return ""
    if row.get("id") is not None:
        return whole_text(row["id"])
    named = (value for name, value in row.items() if squeezed(str(name)) == "id")
    return whole_text(next((value for value in named if value is not None), None))


def whole_text(value: object) -> str:
    """A value as text that every file and terminal takes; "" for None."""
    # Half a surrogate pair may be what is wrong, and no file takes it.
    return "" if value is None else str(value).encode(errors="replace").decode()


@dataclass(frozen=True, order=True)
class FlaggedRow:
    """One row that is listed.

    Attributes:
        id: as the list has it, or "".
        reason: why it is left out.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class FlaggedRows:
    """The rows of one file that are to be left out.

    Attributes:
        listed_in: the file that lists them, for messages.
        rows: by number, as readers count them.
        ids: why rows of these ids are left out, whatever their number.
    """

    listed_in: str = ""
    rows: Mapping[int, FlaggedRow] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)

    def reason_for(self, number: int, row: object) -> str | None:
        """Why a row is left out; None if it isn't.

        Raises:
            UserError: the row of this number is another one than the list says.
        """
        own = own_id(row)
        listed = self.rows.get(number)
        if listed is None:
            return self.ids.get(own) if own else None
        # Readers number the repeated ids of LLaVA's sets: "x" is listed as "x-2".
        if own and listed.id and not f"{listed.id}-".startswith(f"{own}-"):
            raise UserError(
                f"{self.listed_in} lists row {number} with the id {listed.id}, and it has the id "
                f"{own} now: the file was changed since. List its rows again."
            )
        return listed.reason

    @property
    def key(self) -> str:
        """Changes with the rows that are left out; "" where none is."""
        return repr((sorted(self.rows.items()), sorted(self.ids.items()))) if self else ""

    def __bool__(self) -> bool:
        """Whether any row is listed."""
        return bool(self.rows or self.ids)
