"""An index of a set on disk, so that a set of any size is searched and sorted without memory.

SQLite, filled while it is read: the first rows can be looked at at once. It lies in the folder for
caches under a key of all that decides it, and is made once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from veridical.runtime.cache import evict, open_cache
from veridical.runtime.cache_folder import claim_cache_folder
from veridical.runtime.errors import UserError, reason_of
from veridical.web.query import Query, column_of, conditions
from veridical.web.shown_rows import OWN_FIELDS, FieldValue, ShownRow, as_json, from_json

LIMIT = 20e9
"""What indexes may take on disk, in bytes; the ones not used for longest go first."""
FIRST, CHUNK = 50, 500
GIVEN_WAY = 0.02
"""Seconds that the next row waits while a page is made: of Python, one thread runs at a time."""
MOST_FIELDS = 60
KEPT_RESULTS = 8
SCHEMA = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, problem TEXT, fields TEXT);
CREATE TABLE contents (number INTEGER PRIMARY KEY, text TEXT, row TEXT);
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
"""


class Index:
    """The rows of a set, to be searched; `start` fills it in the background."""

    def __init__(self, path: Path, temporary: bool, lock: FileLock | None = None) -> None:
        """Open an index that is there, or make an empty one.

        Args:
            path: its file.
            temporary: whether it goes with the process.
            lock: what keeps other processes from filling it too; it is let go in the end.
        """
        self.path, self.temporary, self._filling = path, temporary, lock
        self.failure = ""
        self._results: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pages = 0
        self._thread: threading.Thread | None = None
        with self._connect() as database:
            database.execute("PRAGMA journal_mode=WAL")
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name='about'").fetchone():
                database.executescript(SCHEMA)
        self._done = self._about("done") == "1"
        self._count = self._counted()

    @property
    def done(self) -> bool:
        """Whether every row is in."""
        return self._done

    @property
    def count(self) -> int:
        """How many rows are in."""
        return self._count

    def start(self, rows: Iterable[ShownRow], background: bool = True) -> None:
        """Fill the index: the first rows at once, the rest in a thread.

        Raises:
            UserError: the first rows can't be read.
        """
        if self._done:
            return
        with self._connect() as database:
            for table in ("rows", "contents", "about"):
                database.execute(f"DELETE FROM {table}")
        self._count = 0
        waiting = iter(rows)
        self._fill(waiting, FIRST, once=True)
        if self._done:
            return
        if not background:
            self._fill(waiting, CHUNK)
            return
        self._thread = threading.Thread(target=self._fill_all, args=(waiting,), daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def page(self) -> Iterator[None]:
        """Fill the index slowly meanwhile."""
        with self._lock:
            self._pages += 1
        try:
            yield
        finally:
            with self._lock:
                self._pages -= 1

    def close(self) -> None:
        """Stop filling, and remove a temporary index."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(30)
        if self._filling is not None:
            self._filling.release()
        if self.temporary:
            for end in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    Path(f"{self.path}{end}").unlink()

    def _fill_all(self, rows: Iterable[ShownRow]) -> None:
        try:
            self._fill(rows, CHUNK)
        except UserError as error:
            self.failure = str(error)
        except Exception as error:
            # A thread's exception would only be printed, and the page would wait forever.
            self.failure = f"The rest can't be read: {reason_of(error)}."
            raise

    def _fill(self, rows: Iterable[ShownRow], size: int, once: bool = False) -> None:
        chunk: list[ShownRow] = []
        for row in rows:
            if self._pages:
                self._stopping.wait(GIVEN_WAY)
            chunk.append(row)
            if len(chunk) == size:
                self._insert(chunk)
                chunk = []
                if once or self._stopping.is_set():
                    return
        self._insert(chunk)
        with self._connect() as database:
            database.execute("INSERT INTO about VALUES ('done', '1')")
        self._done = True
        self._forget()

    def _insert(self, rows: Sequence[ShownRow]) -> None:
        kinds: dict[str, str] = json.loads(self._about("fields") or "{}")
        texts = [_written(row) for row in rows]
        for row in rows:
            for name, value in row.fields.items():
                if name not in kinds and len(kinds) < MOST_FIELDS:
                    kinds[name] = kind_of(value)
                elif name in kinds and kinds[name] != kind_of(value):
                    kinds[name] = "mixed"
        with self._connect() as database:
            database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?)",
                [
                    (row.number, own.id, own.problem, own.fields)
                    for row, own in zip(rows, texts, strict=True)
                ],
            )
            database.executemany(
                "INSERT INTO contents VALUES (?, ?, ?)",
                [(row.number, own.text, own.row) for row, own in zip(rows, texts, strict=True)],
            )
            database.execute(
                "INSERT OR REPLACE INTO about VALUES ('fields', ?)", (json.dumps(kinds),)
            )
        self._count += len(rows)
        self._forget()

    def fields(self) -> dict[str, str]:
        """The first `MOST_FIELDS` fields that rows have: each a `number`, a `text` or `mixed`."""
        found: dict[str, str] = json.loads(self._about("fields") or "{}")
        return found

    def has_field(self, name: str) -> bool:
        """Whether a row has a field, be it one of `fields` or not."""
        if name in self.fields() or name in OWN_FIELDS:
            return True
        if len(self.fields()) < MOST_FIELDS:
            return False
        column, values = column_of(name)
        with self._connect() as database:
            try:
                found = database.execute(
                    f"SELECT 1 FROM rows WHERE {column} IS NOT NULL LIMIT 1", values
                )
                return found.fetchone() is not None
            except sqlite3.OperationalError:  # a name that no path can be made of
                return False

    def find(self, query: Query, noted: Sequence[int] = ()) -> array[int]:
        """The numbers of the rows that a query asks for, in its order.

        Args:
            query: what is asked.
            noted: numbers of the rows with a flag or a note, as far as the query asks for them.
        """
        key = json.dumps([query.address(), list(noted)])
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        where, order, values = conditions(query, noted)
        with self._connect() as database:
            try:
                rows = database.execute(
                    f"SELECT rows.number FROM rows{where} ORDER BY {order}", values
                )
                found = array("q", (number for (number,) in rows))
            except sqlite3.OperationalError as error:
                raise UserError(f"This can't be searched or sorted by: {error}.") from error
        with self._lock:
            self._results[key] = found
            while len(self._results) > KEPT_RESULTS:
                self._results.popitem(last=False)
        return found

    def places(self, noted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], list[int]]:
        """The numbers of the rows that notes are of, given the id and the number of each then.

        Where the row of that number has another id now, the set was changed, and the note is of
        whatever rows have the id.
        """
        numbers = json.dumps([number for _, number in noted])
        with self._connect() as database:
            asked = "SELECT number, id FROM rows WHERE number IN (SELECT value FROM json_each(?))"
            ids = dict(database.execute(asked, (numbers,)).fetchall())
            found = {(id, number): [number] for id, number in noted if ids.get(number) == id}
            # A row that is not read yet may still be the one.
            read = [one for one in noted if self._done or one[1] <= self._count]
            moved: dict[str, list[tuple[str, int]]] = {}
            for one in read:
                if one not in found:
                    moved.setdefault(one[0], []).append(one)
            found |= {one: [] for own in moved.values() for one in own}
            asked = "SELECT id, number FROM rows WHERE id IN (SELECT value FROM json_each(?))"
            # No index has the ids: one pass over the rows, for however many notes.
            for id, number in database.execute(asked, (json.dumps([*moved]),)) if moved else ():
                for one in moved[id]:
                    found[one].append(number)
        return found

    def rows(self, numbers: Sequence[int]) -> list[ShownRow]:
        """Rows by number, in the order asked for; unknown ones are left out."""
        with self._connect() as database:
            marks = ",".join("?" * len(numbers))
            found = dict(
                database.execute(
                    f"SELECT number, row FROM contents WHERE number IN ({marks})", list(numbers)
                ).fetchall()
            )
        return [from_json(found[number]) for number in numbers if number in found]

    def _about(self, name: str) -> str | None:
        with self._connect() as database:
            row = database.execute("SELECT value FROM about WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _counted(self) -> int:
        with self._connect() as database:
            return int(database.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _forget(self) -> None:
        with self._lock:
            self._results.clear()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self.path, timeout=30)
            database.create_function("fold", 1, _folded, deterministic=True)
            try:
                database.execute("PRAGMA synchronous=OFF")  # made again if it is torn
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} can't be read or written: {error}. Make room, or set VERIDICAL_CACHE "
                "to a folder with more."
            ) from error


def kind_of(value: FieldValue) -> str:
    """Whether a field's value is compared as a number or as a text."""
    return "number" if isinstance(value, int | float) else "text"


@dataclass(frozen=True)
class _Texts:
    """What is stored of a row, in texts that SQLite takes."""

    id: str
    problem: str
    fields: str
    text: str
    row: str


def _written(row: ShownRow) -> _Texts:
    """A row's texts. Half a surrogate pair, which no file takes, becomes a question mark."""
    fields = json.dumps(row.fields, ensure_ascii=False)
    texts = (row.id, row.problem, fields, row.text, as_json(row))
    return _Texts(*(text.encode(errors="replace").decode() for text in texts))


def _folded(value: object) -> str | None:
    """A text in one letter case; SQLite's own `lower` knows ASCII alone."""
    return None if value is None else str(value).casefold()


def open_index(key: str) -> Index:
    """The index of this key, from the folder for caches; a temporary one where there is none."""
    cache = open_cache(None, 1.0)
    if cache.folder is not None:
        folder = cache.folder / "view"
        with contextlib.suppress(OSError, UserError):
            claim_cache_folder(cache.folder)
            folder.mkdir(exist_ok=True)
            path, lock = folder / f"{key}.sqlite", FileLock(folder / f"{key}.lock")
            evict(folder, LIMIT, ".sqlite")
            if path.exists():
                os.utime(path)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
            if lock.is_locked:
                return Index(path, temporary=False, lock=lock)
            index = Index(path, temporary=False)
            if index.done:  # else another process is filling it
                return index
    descriptor, name = tempfile.mkstemp(prefix="veridical-view-", suffix=".sqlite")
    os.close(descriptor)
    try:
        return Index(Path(name), temporary=True)
    except UserError:
        Path(name).unlink(missing_ok=True)
        raise
