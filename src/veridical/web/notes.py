"""Flags and notes of rows, kept in a file beside the set."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.files import alone, check_writable, hash_file, read_jsonl, write_jsonl

LONGEST_NOTE = 4000
Key = tuple[str, int]
"""A row's id and number: two rows of one file may have the same id."""


@dataclass(frozen=True)
class RowNote:
    """What somebody noted of a row.

    Attributes:
        id: of the row.
        row: its number.
        flagged: whether the row is to be left out.
        note: a text.
        at: when.
        set: the file that the row is in.
        sha256: of that file then.
    """

    id: str
    row: int
    flagged: bool
    note: str
    at: str
    set: str = ""
    sha256: str = ""

    @property
    def key(self) -> Key:
        """What tells the note from others."""
        return self.id, self.row

    def as_json(self) -> dict[str, object]:
        """A line of the file; `flagged` says whether `compose --without-flagged` leaves it out."""
        return asdict(self)


class Notes:
    """The notes of one set. Every change is on the disk before it is answered."""

    def __init__(self, path: Path, rows_file: Path) -> None:
        """Name the file, which is made by the first change, and the file of the rows."""
        self.path, self._rows_file = path, rows_file
        self._hashing = threading.Lock()
        self._sha256 = ""
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._known: dict[Key, RowNote] = {}
        self._read()

    def all(self) -> dict[Key, RowNote]:
        """Every note by its key; what others wrote into the file is seen too."""
        with self._lock:
            self._read()
            return dict(self._known)

    def marked(self, marked: str) -> list[Key]:
        """The notes that a query with `marked` asks for (of `unflagged`, those it leaves out)."""
        if not marked:
            return []
        notes = self.all().values()
        return sorted(one.key for one in notes if (one.note if marked == "noted" else one.flagged))

    def sha256(self) -> str:
        """Of the file of the rows, as it was when this was first asked.

        Raises:
            UserError: the file can't be read.
        """
        with self._hashing:
            self._sha256 = self._sha256 or hash_file(self._rows_file)
            return self._sha256

    def hash_ahead(self) -> None:
        """Hash the file of the rows meanwhile, so that the first change need not wait for it."""

        def hash_now() -> None:
            with contextlib.suppress(UserError):  # who changes a note is told
                self.sha256()

        threading.Thread(target=hash_now, daemon=True).start()

    def change(
        self,
        id: str,
        row: int,
        flagged: bool | None,
        note: str | None,
        shown: Key | None = None,
    ) -> RowNote:
        """Change a row's flag or note, or both; None leaves it as it is.

        Args:
            id: of the row.
            row: its number.
            flagged: whether it is to be left out.
            note: a text.
            shown: key of the note that is shown of it, if it was noted as a row of another number.

        Raises:
            UserError: the file can't be written.
        """
        check_writable(self.path)
        sha256 = self.sha256()
        with self._lock, alone(self.path):
            self._read(again=True)
            known = dict(self._known)
            moved = known.pop(shown, None) if shown is not None else None
            old = known.pop((id, row), moved) or RowNote(id, row, False, "", "")
            new = RowNote(
                id,
                row,
                old.flagged if flagged is None else flagged,
                old.note if note is None else note[:LONGEST_NOTE],
                datetime.now(UTC).isoformat(timespec="seconds"),
                str(self._rows_file),
                sha256,
            )
            if new.flagged or new.note:
                known[new.key] = new
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
                raise UserError(f"{self.path} is not a file of notes; name another with --notes.")
            note = RowNote(
                row["id"],
                int(row.get("row") or 0),
                row.get("flagged") is True,
                str(row.get("note") or ""),
                *(str(row.get(name) or "") for name in ("at", "set", "sha256")),
            )
            self._known[note.key] = note
        self._stamp = state


def notes_path(file: Path) -> Path:
    """Where a set's notes are kept if nothing else is said: `pairs.notes.jsonl`."""
    return file.with_name(f"{file.stem}.notes.jsonl")
