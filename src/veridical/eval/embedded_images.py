"""Images that a benchmark's file holds, as files in the run's folder."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

FOLDER = "question_images"


def write_embedded(images: Mapping[str, str], out: Path) -> dict[str, Path]:
    """Write images that are not there yet.

    Args:
        images: base64 by file name; what is not base64 is written as it is, which is then refused
            as no image.
        out: the run's folder; they go into `question_images`.

    Returns:
        The files by name.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, text in images.items():
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            content = text.encode(errors="replace")
        found[name] = folder / name
        if not found[name].is_file() or found[name].read_bytes() != content:
            partial = folder / f"{name}.tmp"
            partial.write_bytes(content)
            partial.replace(found[name])
    return found
