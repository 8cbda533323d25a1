"""Whether a prompt has as many image placeholders as images."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veridical.data.record_kinds import TAG
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "placeholders"
_REFUSED = ("tags for", "image blocks for", "marks the place of an image")
_SPECIAL = re.compile(rf"{re.escape(TAG)}|<\|[\w ]{{2,40}}\|>|<(?:img|im_patch|image_soft_token)>")


def check_placeholders(row: Row) -> Iterator[Finding]:
    """As many placeholders as images in the prompt, and none in an answer."""
    if row.refusal is not None and any(part in row.refusal.reason for part in _REFUSED):
        yield Finding(
            NAME, "error", row.number, row.id, f"{row.refusal.field}: {row.refusal.reason}",
            f"write one {TAG} (or one image block) for each image, or none where the images of a "
            "plain question come first",
        )  # fmt: skip
    for name, text in row.answers.items():
        found = _SPECIAL.search(text)
        if found is not None:
            yield Finding(
                NAME, "warning", row.number, row.id, f"{name} has the text {found.group()!r}",
                "take it out; models read it as a special token, and training refuses the row "
                "where it is one of theirs",
            )  # fmt: skip
