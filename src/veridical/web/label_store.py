"""Where every click is stored before it is answered: a log in SQLite.

Nothing in it is ever changed. WAL and `synchronous=FULL`: what was answered is on the disk. Each
event has a key of its own, chosen by the page that sent it, so that an event sent again after a
broken connection is stored once.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.web.label_plan import Comparison
from veridical.web.label_state import Event, Judgment, after, judgments, live
from veridical.web.shown_rows import as_json, from_json

FILE = "labels.sqlite"
PATIENCE = 30.0
"""Seconds to wait for another program that writes."""
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (task INTEGER PRIMARY KEY, first TEXT, second TEXT, gold INTEGER, row TEXT);
CREATE TABLE dealt (annotator TEXT, position INTEGER, task INTEGER,
                    PRIMARY KEY (annotator, position), UNIQUE (annotator, task));
CREATE TABLE events (event INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
                     annotator TEXT NOT NULL, task INTEGER NOT NULL, step TEXT NOT NULL,
                     value TEXT NOT NULL, at TEXT NOT NULL, seconds REAL NOT NULL);
"""


class StoreError(UserError):
    """Nothing can be stored now."""


class LabelStore:
    """The log, and what it amounts to in memory: a judgment for each comparison that was seen."""

    def __init__(self, path: Path) -> None:
        """Open a store that `create` made."""
        self.path = path
        self._lock = threading.Lock()
        # While one connection is open, SQLite keeps the files beside the log. To make them again
        # takes room, so without it a full disk would refuse pages that only read.
        weakref.finalize(self, _kept_open(path).close)
        with self._connect() as database:
            rows = database.execute(
                "SELECT annotator, task FROM dealt ORDER BY position"
            ).fetchall()
            self.dealt: dict[str, list[int]] = {}
            for annotator, task in rows:
                self.dealt.setdefault(annotator, []).append(task)
        self.known = judgments(self.events())

    @property
    def about(self) -> dict[str, str]:
        """What was noted when the store was made."""
        with self._connect() as database:
            return dict(database.execute("SELECT name, value FROM about").fetchall())

    def comparison(self, task: int) -> Comparison:
        """One comparison.

        Raises:
            UserError: there is none of this number.
        """
        with self._connect() as database:
            row = database.execute(
                "SELECT first, second, gold, row FROM tasks WHERE task=?", (task,)
            ).fetchone()
        if row is None:
            raise UserError(f"There is no comparison {task}.")
        return Comparison(task, from_json(row[3]), row[0], row[1], bool(row[2]))

    def comparisons(self) -> Iterator[Comparison]:
        """Every comparison, in order."""
        with self._connect() as database:
            cursor = database.execute(
                "SELECT task, first, second, gold, row FROM tasks ORDER BY task"
            )
            for task, first, second, gold, row in cursor:
                yield Comparison(task, from_json(row), first, second, bool(gold))

    def gold_tasks(self) -> set[int]:
        """The comparisons of which the better answer is known."""
        with self._connect() as database:
            return {task for (task,) in database.execute("SELECT task FROM tasks WHERE gold")}

    def join(self, dealt: Mapping[str, Sequence[int]]) -> None:
        """Give more annotators their comparisons.

        Raises:
            StoreError: it can't be stored.
        """
        names = plain([*self.dealt, *dealt])
        with self._lock, self._connect() as database:
            database.execute("UPDATE about SET value=? WHERE name='annotators'", (names,))
            database.executemany("INSERT INTO dealt VALUES (?, ?, ?)", _dealt_rows(dealt))
        self.dealt |= {name: list(tasks) for name, tasks in dealt.items()}

    def events(self, annotator: str | None = None) -> list[Event]:
        """The log, or that of one annotator."""
        which = "" if annotator is None else " WHERE annotator=?"
        values = () if annotator is None else (annotator,)
        with self._connect() as database:
            rows = database.execute(
                "SELECT event, annotator, task, step, value, at, seconds FROM events"
                f"{which} ORDER BY event", values
            )  # fmt: skip
            return [Event(*row) for row in rows]

    def judgment(self, annotator: str, task: int) -> Judgment:
        """What an annotator said about a comparison up to now."""
        return self.known.get(annotator, {}).get(task, Judgment())

    def current(self, annotator: str) -> int | None:
        """The comparison that is next; None if all are done."""
        own = self.known.get(annotator, {})
        tasks = self.dealt[annotator]
        return next((t for t in tasks if t not in own or not own[t].is_done), None)

    def add(
        self, key: str, annotator: str, task: int, step: str, value: str, seconds: float,
        at: str | None = None,
    ) -> bool:  # fmt: skip
        """Store an event; on the disk when this returns.

        Args:
            key: of the event.
            annotator: whose it is.
            task: the comparison.
            step: `worse`, `better`, `marks`.
            value: as `label_state` reads it.
            seconds: that it took.
            at: when; now if None.

        Returns:
            False if it was stored before.

        Raises:
            StoreError: it can't be stored.
        """
        moment = at or datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            stored = self._insert(key, annotator, task, step, value, moment, seconds)
            if stored is None:
                return False
            own = self.known.get(annotator, {})
            event = Event(stored, annotator, task, step, value, moment, seconds)
            self._know(annotator, {**own, task: after(own.get(task, Judgment()), event)})
        return True

    def undo(self, key: str, annotator: str) -> int | None:
        """Take an annotator's last answer back; its marks stay.

        Returns:
            The comparison it was about; None if there is no answer, or the key was seen before.

        Raises:
            StoreError: it can't be stored.
        """
        with self._lock:
            answers = [e for e in live(self.events(annotator)) if e.step != "marks"]
            if not answers:
                return None
            last = answers[-1]
            moment = datetime.now(UTC).isoformat(timespec="milliseconds")
            value = str(last.event)
            if self._insert(key, annotator, last.task, "undo", value, moment, 0.0) is None:
                return None
            known = judgments(self.events(annotator)).get(annotator, {})
            self._know(annotator, known)
            return last.task

    def _know(self, annotator: str, own: dict[int, Judgment]) -> None:
        """Replace what is known; another thread may be reading what was known before."""
        self.known = {**self.known, annotator: own}

    def _insert(self, *values: object) -> int | None:
        with self._connect() as database:
            cursor = database.execute(
                "INSERT INTO events (key, annotator, task, step, value, at, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", values
            )  # fmt: skip
            return cursor.lastrowid if cursor.rowcount else None

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with connected(self.path) as database:
            yield database


def _kept_open(path: Path) -> sqlite3.Connection:
    with connected(path):
        kept = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        kept.execute("SELECT 1 FROM about").fetchone()
    return kept


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are on the disk at the block's end, or not made.

    Raises:
        StoreError: SQLite refuses.
    """
    if not path.is_file():
        raise StoreError(f"{path} is gone. Put it back; nothing can be stored meanwhile.")
    try:
        database = sqlite3.connect(path, timeout=PATIENCE)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            with database:
                yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        way = "Make room, or name another --out."
        if "locked" in str(error):
            way = "Another program has it open; end that one."
        raise StoreError(f"{path} can't be read or written: {error}. {way}") from error


def create(
    path: Path,
    about: Mapping[str, str],
    comparisons: Sequence[Comparison],
    dealt: Mapping[str, Sequence[int]],
) -> None:
    """Make a store; killed in between, it is as if nothing had been made.

    Raises:
        StoreError: it can't be written.
    """
    path.touch(mode=0o600)  # it holds the secret of the tokens
    with connected(path) as database:
        database.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.executemany("INSERT INTO about VALUES (?, ?)", list(about.items()))
        database.executemany(
            "INSERT INTO tasks VALUES (?, ?, ?, ?, ?)",
            [
                (one.task, one.first, one.second, int(one.gold), as_json(one.row))
                for one in comparisons
            ],
        )
        database.executemany("INSERT INTO dealt VALUES (?, ?, ?)", _dealt_rows(dealt))


def _dealt_rows(dealt: Mapping[str, Sequence[int]]) -> list[tuple[str, int, int]]:
    return [
        (name, position, task)
        for name, tasks in dealt.items()
        for position, task in enumerate(tasks)
    ]


def is_made(path: Path) -> bool:
    """Whether there is a store; a file that `create` had no time to fill is none."""
    if not path.is_file():
        return False
    with connected(path) as database:
        return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name='events'").fetchone())


def plain(value: object) -> str:
    """A value of `about` as text."""
    return json.dumps(value, sort_keys=True)
