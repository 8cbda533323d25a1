"""Records as a command's options ask for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from veridical.data.record_checks import NONE_FLAGGED
from veridical.data.record_flags import FlaggedRows
from veridical.data.record_kinds import Kind
from veridical.data.records import RecordSet, read_records
from veridical.runtime.options import Reading


def read(
    path: Path, kind: Kind, reading: Reading, flagged: FlaggedRows = NONE_FLAGGED
) -> RecordSet:
    """Read and check a file's records, and keep the first `limit` of the usable ones.

    Args:
        path: the file.
        kind: of its rows.
        reading: the options.
        flagged: rows to leave out, as for `read_records`.

    Raises:
        UserError: as `read_records`.
    """
    records = read_records(
        path, kind, reading.images_root, reading.max_bad_fraction, flagged=flagged
    )
    if reading.limit is None or reading.limit >= len(records.rows):
        return records
    kept = range(reading.limit)
    return replace(records, rows=records.rows.select(kept), numbers=records.numbers[: kept.stop])
