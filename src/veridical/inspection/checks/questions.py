"""Questions without a text."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "empty questions"


def check_questions(row: Row) -> Iterator[Finding]:
    """Something is asked. Such a row can be used, and the image alone is then the prompt."""
    if row.record is not None and not row.prompt.strip():
        yield Finding(
            NAME, "warning", row.number, row.id, "the question has no text",
            "write the question; if its column has another name, set it with `veridical data "
            "import --columns`",
        )  # fmt: skip
