"""Ids that several rows have."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.traces import Traces

NAME = "ids"


def check_ids(traces: Traces) -> Iterator[Finding]:
    """No two rows have the same id, except LLaVA's conversations, whose ids name images."""
    if traces.kind == "conversation":
        return
    first: dict[str, int] = {}
    for number, id in zip(traces.numbers, traces.ids, strict=True):
        if id and first.setdefault(id, number) != number:
            yield Finding(
                NAME, "error", number, id, f"the id is that of row {first[id]} too",
                "give it another id, or leave all ids out", "rename",
            )  # fmt: skip
