"""Files that are read for a while, and that nobody may write to meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from veridical.runtime.errors import UserError

FileState: TypeAlias = tuple[int, int, int] | None


def state_of(path: Path) -> FileState:
    """What changes when a file does; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def unchanged(*paths: Path, since: dict[Path, FileState] | None = None) -> Iterator[None]:
    """Read files that have to stay as they are to the block's end.

    Args:
        paths: of the files.
        since: their states when somebody began to read them; now if None.

    Raises:
        UserError: one was written to, so that what was read may be of two files, or damaged. An
            error of the block's own that names the damage gives way to that.
    """
    before = {path: state_of(path) for path in paths} if since is None else since
    try:
        yield
    except UserError as error:
        _refuse_changed(before, error)
        raise
    _refuse_changed(before)


def _refuse_changed(before: dict[Path, FileState], error: UserError | None = None) -> None:
    for path, state in before.items():
        if state_of(path) != state:
            raise UserError(
                f"{path} was changed while it was read, so its rows may be of two files. Give the "
                "command again once it is written."
            ) from error
