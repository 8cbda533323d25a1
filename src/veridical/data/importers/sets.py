"""Published sets by name: their shape, their columns, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from veridical.data.importers.rules import Rules
from veridical.data.record_rows import Kind


@dataclass(frozen=True)
class NamedSet:
    """A published set, or a format.

    Attributes:
        name: as in `--as NAME`.
        shape: of its rows, a name in `shapes.SHAPES`.
        kind: of the records that they become.
        columns: by which `auto` knows it: a row has all of them.
        rules: what its rows need.
        hub: its name on the hub, where known.
        licence: of the data; "not stated" where nobody says.
        note: what a user must know of it.
        leave_out: a column, and why rows in which it holds something are left out.
        together: columns that rows of one prompt share; they become one record.
    """

    name: str
    shape: str
    kind: Kind
    columns: frozenset[str] = frozenset()
    rules: Rules = field(default_factory=Rules)
    hub: str = ""
    licence: str = "not stated"
    note: str = ""
    leave_out: tuple[str, str] | None = None
    together: tuple[str, ...] = ()


def _columns(names: str) -> frozenset[str]:
    return frozenset(names.split())


SETS: dict[str, NamedSet] = {
    one.name: one
    for one in (
        NamedSet(
            "rlaif-v",
            "flat",
            "preference",
            _columns("ds_name question chosen rejected origin_dataset origin_split"),
            hub="openbmb/RLAIF-V-Dataset",
            licence="CC BY-NC 4.0",
            note="TPO's set has the same columns",
        ),
    )
}
"""By name; `auto` takes the first whose columns a row has."""
