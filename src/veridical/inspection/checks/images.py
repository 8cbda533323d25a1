"""Images that can't be read."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "images"


def check_image_files(row: Row) -> Iterator[Finding]:
    """Every image can be opened and decoded."""
    for number, picture in enumerate(row.pictures, start=1):
        if picture.problem:
            which = f"image {number}: " if len(row.pictures) > 1 else ""
            yield Finding(
                NAME, "error", row.number, row.id, f"{which}{picture.problem}",
                "put a whole PNG, JPEG or WebP file there, or set --images-root to the folder that "
                "paths are relative to", "drop",
            )  # fmt: skip
