"""Checked rows in an Arrow file that is memory-mapped, so that a data set takes no memory.

The file lies in the folder for caches, under a key of all that decides the result, so that several
processes and later runs check and convert a data set once. Without a folder (`VERIDICAL_CACHE`
is `none`) every process makes a temporary file of its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import PIL
import pyarrow as pa
from datasets.table import MemoryMappedTable, Table
from filelock import FileLock

from veridical.data import (
    images,
    messages,
    pixels,
    png_chunks,
    record_checks,
    record_fields,
    record_files,
    record_flags,
    record_kinds,
    record_messages,
    record_names,
    record_rows,
    record_spans,
)
from veridical.data.record_checks import RowProblem
from veridical.data.record_types import CheckedRow
from veridical.runtime.cache import digest, evict, open_cache
from veridical.runtime.cache_folder import claim_cache_folder
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, write_json, writing

LIMIT = 50e9
"""What the converted data sets may take, in bytes; the ones not used for longest go first."""

ADVICE = "Set VERIDICAL_CACHE to a folder with more room."
_DECIDING = (
    record_checks,
    record_fields,
    record_files,
    record_flags,
    record_kinds,
    record_messages,
    record_names,
    record_rows,
    record_spans,
    images,
    messages,
    pixels,
    png_chunks,
)


@dataclass(frozen=True)
class CheckedRows:
    """What a file's rows came to.

    Attributes:
        table: the usable rows, every column of their kind, images not decoded.
        problems: the rows left out, in order.
        total: rows in the file, usable or not.
        ignored: columns of the file that nothing is read from.
        lost: those of them that seem to hold images of rows without any.
        numbers: of the usable rows, counted as the problems' are; None where every number from 1
            to `total` is a row's.
    """

    table: Table
    problems: list[RowProblem]
    total: int
    ignored: list[str]
    lost: list[str]
    numbers: list[int] | None = None


class RowsWriter:
    """Takes checked rows, and what is to be known of those left out."""

    def __init__(self, file: object, schema: pa.Schema) -> None:
        """Begin a file."""
        self._writer, self._schema = pa.ipc.new_stream(file, schema), schema
        self.problems: list[RowProblem] = []
        self.numbers: list[int] | None = None
        self.total = 0
        self.ignored: list[str] = []
        self.lost: list[str] = []
        self.reads_files = False

    def write(self, rows: Sequence[CheckedRow]) -> None:
        """Add rows; few at a time, since Arrow takes at most 2 GiB of image bytes in one go."""
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def store_key(path: Path, kind: str, root: Path, schema: pa.Schema, flagged: str = "") -> str:
    """A key that changes with the file, the kind, the images' root, and the code that checks.

    Args:
        path: of the file.
        kind: of its rows.
        root: of its images.
        schema: of the result.
        flagged: which rows are left out.
    """
    state = path.stat()
    code = [hash_file(Path(str(module.__file__))) for module in _DECIDING]
    return digest(
        str(path.resolve()), state.st_mtime_ns, state.st_size, kind, str(root.resolve()), code,
        str(schema), PIL.__version__, pa.__version__, datasets.__version__, flagged,
    )  # fmt: skip


def known_rows(key: str) -> CheckedRows | None:
    """Rows that were checked before; None if there are none."""
    folder = _folder()
    if folder is None or not (folder / f"{key}.json").is_file():
        return None
    try:
        about = read_json(folder / f"{key}.json")
        table = MemoryMappedTable.from_file(str(folder / f"{key}.arrow"))
        os.utime(folder / f"{key}.arrow")
    except (OSError, UserError, pa.ArrowInvalid):  # evicted, or torn: it is made again
        return None
    if table.num_rows != about["rows"]:
        return None
    problems = [RowProblem(**problem) for problem in about["problems"]]
    return CheckedRows(table, problems, about["total"], about["ignored"], about["lost"])


@contextmanager
def one_at_a_time(key: str) -> Iterator[None]:
    """Keep processes from checking the same file at once: the first does, the others wait."""
    folder = _folder()
    lock = None
    if folder is not None:
        with contextlib.suppress(OSError):
            claim_cache_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
            lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def store_rows(
    key: str | None, schema: pa.Schema, fill: Callable[[RowsWriter], object]
) -> CheckedRows:
    """Rows in a file that is mapped into memory.

    Where a row names the file of an image, usable or not, nothing is kept for later runs: that file
    may change, or be put there.

    Args:
        key: from `store_key`; None to keep nothing for later runs.
        schema: of the rows.
        fill: writes them, and says what is to be known of the others.

    Raises:
        UserError: there is no room for them.
    """
    folder = _folder()
    place = folder if _is_writable(folder) else Path(tempfile.gettempdir())
    assert place is not None
    descriptor, name = tempfile.mkstemp(dir=place, prefix="veridical-rows-", suffix=".part")
    file = Path(name)
    try:
        with writing(place, ADVICE), os.fdopen(descriptor, "wb") as opened:
            writer = RowsWriter(opened, schema)
            fill(writer)
            writer.close()
        table = MemoryMappedTable.from_file(str(file))
        if key is not None and place == folder and not writer.reads_files:
            about = {"rows": table.num_rows, "total": writer.total, "ignored": writer.ignored}
            problems = [asdict(problem) for problem in writer.problems]
            about |= {"lost": writer.lost, "problems": problems}
            write_json(folder / f"{key}.json", about)
            file.replace(folder / f"{key}.arrow")
            evict(folder, LIMIT, ".arrow")
            table = MemoryMappedTable.from_file(str(folder / f"{key}.arrow"))
    finally:
        # What is mapped stays readable without its name, and is gone with the process.
        with contextlib.suppress(OSError):
            file.unlink()
    pa.default_memory_pool().release_unused()
    return CheckedRows(
        table, writer.problems, writer.total, writer.ignored, writer.lost, writer.numbers
    )


def _folder() -> Path | None:
    cache = open_cache(None, 1.0)
    return None if cache.folder is None else cache.folder / "records"


def _is_writable(folder: Path | None) -> bool:
    if folder is None:
        return False
    with contextlib.suppress(OSError):
        claim_cache_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    return os.access(folder, os.W_OK)
