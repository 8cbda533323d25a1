"""What the report says in words of the runs it is about."""

from __future__ import annotations

from pathlib import Path

from veridical.report import sections
from veridical.report.folders import Part
from veridical.runtime.run_record import RunFields


def part(folder: str, seconds: float) -> Part:
    record: RunFields = {"wall_time_seconds": seconds}
    return Part(Path(folder), Path("runs"), folder, "train", record)


def test_a_run_that_went_on_took_as_long_as_what_it_made() -> None:
    # The whole was stopped, and its last call only made the report.
    found = sections._effort([part("a", 0.4), part("a/train", 60.0), part("a/eval", 20.0)])
    assert found == ", in 1 min 20 s"
    # In one go, the whole took longer than its parts.
    found = sections._effort([part("a", 100.0), part("a/train", 60.0), part("b", 20.0)])
    assert found == ", in 2 min 0 s"
