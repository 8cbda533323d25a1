"""Whether a prompt has as many image placeholders as images."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.data.record_kinds import TAG
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "placeholders"
_REFUSED = ("tags for", "image blocks for", "marks the place of an image")


def check_placeholders(row: Row) -> Iterator[Finding]:
    """As many placeholders as images in the prompt."""
    if row.refusal is not None and any(part in row.refusal.reason for part in _REFUSED):
        yield Finding(
            NAME, "error", row.number, row.id, f"{row.refusal.field}: {row.refusal.reason}",
            f"write one {TAG} (or one image block) for each image, or none where the images of a "
            "plain question come first",
        )  # fmt: skip
