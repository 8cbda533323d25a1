"""The folder of a cache: marked as one, and nothing in it is touched but the cache's own files.

A folder that somebody names with `--cache` may hold anything. So a folder is only used when it is
new, empty, marked, or holds nothing but files that the cache itself names; and whoever removes
files asks `is_own` first.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from veridical.runtime.errors import UserError

MARK = "CACHEDIR.TAG"
"""Backup programs know this name and leave the folder out (https://bford.info/cachedir/)."""
MARKED = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of Veridical. It may be deleted; what it holds is computed again.\n"
)
PREFIX = "veridical-"
"""What the names of files begin with while they are written."""
LOCK = "evicting.lock"
_KEY = r"[0-9a-f]{64}"
_ENTRY = re.compile(rf"({_KEY})\.safetensors")
_RECORDS = re.compile(rf"{_KEY}\.(arrow|json|lock)")
_PART = re.compile(r"(veridical-\S*|tmp\w+)\.part")


def is_own(path: Path) -> bool:
    """Whether a file has a name and a place that only the cache gives."""
    if entry := _ENTRY.fullmatch(path.name):
        return path.parent.name == entry[1][:2]
    if _RECORDS.fullmatch(path.name):
        return path.parent.name == "records"
    return _PART.fullmatch(path.name) is not None or path.name == LOCK


def check_cache_folder(folder: Path, named: str) -> None:
    """Refuse a folder that may hold something else; reads only.

    Args:
        folder: that somebody named.
        named: how, such as `--cache runs/cache`, for the message.

    Raises:
        UserError: it is a file, can't be read, or holds files and no mark.
    """
    try:
        if not folder.exists() or _is_marked(folder):
            return
        if not folder.is_dir():
            raise UserError(f"{named} is a file; name a folder, or `none`.")
        stranger = _stranger(folder)
    except OSError as error:
        raise UserError(
            f"{named} can't be read ({error.strerror}). Name another folder, or `none`."
        ) from error
    # Another process may have marked a new folder meanwhile.
    if stranger is not None and not _is_marked(folder):
        raise UserError(
            f"{named} is not a cache: it holds {stranger.relative_to(folder)}. A cache deletes "
            "what was not used for long, so name a new or empty folder, or `none`."
        )


def claim_cache_folder(folder: Path) -> None:
    """Make the folder, readable by its owner alone, and mark it; one that is marked stays as it is.

    Raises:
        UserError: it holds something else.
        OSError: it can't be written to.
    """
    if _is_marked(folder):
        return
    check_cache_folder(folder, f"The folder {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # What is kept tells of the user's images and texts. A folder that exists keeps its mode.
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / MARK, MARKED.encode())


def write_private(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, and that only its owner may read.

    Raises:
        OSError: it can't be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=PREFIX, suffix=".part")
    try:
        # Not synced to the disk: what a power cut tears, the checksum finds.
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_marked(folder: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / MARK).read_text(encoding="utf-8") == MARKED
    return False


def _stranger(folder: Path) -> Path | None:
    """A file that the cache did not write; None if there is none (caches of before the mark)."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not is_own(path):
                return path
    return None
