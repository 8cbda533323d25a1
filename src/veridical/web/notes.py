"""Flags and notes of rows, kept in a file beside the set."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from veridical.runtime.errors import UserError
from veridical.runtime.files import check_writable, read_jsonl, write_jsonl

LONGEST_NOTE = 4000


@dataclass(frozen=True)
class RowNote:
    """What somebody noted of a row."""

    id: str
    row: int
    flagged: bool
    note: str
    at: str

    def as_json(self) -> dict[str, object]:
        """A line of the file; `flagged` says whether `compose --without-flagged` leaves it out."""
        return {"id": self.id, "row": self.row, "flagged": self.flagged, "note": self.note,
                "at": self.at}  # fmt: skip


class Notes:
    """The notes of one set. Every change is on the disk before it is answered."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is made by the first change."""
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._known: dict[str, RowNote] = {}
        self._read()

    def all(self) -> dict[str, RowNote]:
        """Every note by the row's id; what others wrote into the file is seen too."""
        with self._lock:
            self._read()
            return dict(self._known)

    def ids(self, marked: str) -> list[str]:
        """The ids that a query with `marked` asks for (of `unflagged`, those it leaves out)."""
        if not marked:
            return []
        notes = self.all().values()
        return sorted(one.id for one in notes if (one.note if marked == "noted" else one.flagged))

    def change(self, id: str, row: int, flagged: bool | None, note: str | None) -> RowNote:
        """Change a row's flag or note, or both; None leaves it as it is.

        Raises:
            UserError: the file can't be written.
        """
        check_writable(self.path)
        with self._lock, alone(self.path):
            self._read(again=True)
            old = self._known.get(id, RowNote(id, row, False, "", ""))
            new = RowNote(
                id,
                row,
                old.flagged if flagged is None else flagged,
                old.note if note is None else note[:LONGEST_NOTE],
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
            others = {key: one for key, one in self._known.items() if key != id}
            known = {**others, id: new} if new.flagged or new.note else others
            ordered = sorted(known.values(), key=lambda one: one.row)
            write_jsonl(self.path, [one.as_json() for one in ordered])
            self._known = known  # not before: a page shows what is on the disk
            self._stamp = self._state()
        return new

    def _state(self) -> tuple[int, int] | None:
        if not self.path.exists():
            return None
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size

    def _read(self, again: bool = False) -> None:
        state = self._state()
        if state == self._stamp and not again:
            return
        self._known = {}
        for row in read_jsonl(self.path) if state is not None else ():
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise UserError(f"{self.path} is no file of notes; name another with --notes.")
            self._known[row["id"]] = RowNote(
                row["id"],
                int(row.get("row") or 0),
                row.get("flagged") is True,
                str(row.get("note") or ""),
                str(row.get("at") or ""),
            )
        self._stamp = state


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file, without leaving a lock file beside it.

    The folder is locked. Where a system can't lock folders (Windows, some network disks), a file is
    made after all.
    """
    with contextlib.ExitStack() as held:
        try:
            import fcntl

            folder = os.open(path.parent, os.O_RDONLY)
            held.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except (ImportError, OSError):
            held.enter_context(FileLock(f"{path}.lock"))
        yield


def notes_path(file: Path) -> Path:
    """Where a set's notes are kept if nothing else is said: `pairs.notes.jsonl`."""
    return file.with_name(f"{file.stem}.notes.jsonl")
