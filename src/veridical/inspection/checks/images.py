"""Images that can't be read."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "images"
_FIXES = (
    ("is a URL", "save the image first, and write its path: no image is ever fetched"),
    ("leads out of", "set --images-root to a folder above it"),
    ("is not a file under", "put the file there, or set --images-root to the folder that paths are "
     "relative to"),
)  # fmt: skip
"""What a problem says, and what to do then."""
_DAMAGED = "put a whole PNG, JPEG or WebP file there"


def check_image_files(row: Row) -> Iterator[Finding]:
    """Check that every image can be opened and decoded."""
    for number, picture in enumerate(row.pictures, start=1):
        if picture.problem:
            which = f"image {number}: " if len(row.pictures) > 1 else ""
            fix = next((fix for said, fix in _FIXES if said in picture.problem), _DAMAGED)
            yield Finding(
                NAME, "error", row.number, row.id, f"{which}{picture.problem}", fix, "drop"
            )
