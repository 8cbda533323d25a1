"""A question, a chosen and a rejected answer in columns of their own, under whatever names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Rules
from veridical.data.record_names import with_own_names
from veridical.data.record_rows import RowError

SUMMARY = "question, chosen and rejected answer (or prompt and answer) in columns"


def fits(row: Mapping[str, Any]) -> str | None:
    """Why a row is of this shape."""
    named, used = with_own_names(row, "preference")
    have = [name for name in ("prompt", "chosen", "rejected") if named.get(name) is not None]
    if "chosen" not in have or "rejected" not in have:
        return None
    told = "columns for " + ", ".join(have)
    return told + (f" ({', '.join(sorted(used))})" if used else "")


def rows(row: Mapping[str, Any], rules: Rules) -> Iterator[dict[str, Any] | RowError]:
    """The row as it is: the reader of records understands such columns."""
    del rules
    yield dict(row)
