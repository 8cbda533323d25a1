"""From which columns of a foreign set the fields of its records are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from veridical.builders.importing.conversion import Conversion
from veridical.data.importers.recognize import mapping


def columns_read(work: Conversion, first: Sequence[object]) -> dict[str, list[str]]:
    """Each field of ours with the columns that it changes with, by the first row that converts."""
    for row in first:
        if isinstance(row, Mapping) and any(isinstance(one, dict) for one in work.made_of(row)):
            return mapping(row, work.kind, work.made_of)
    return {}
