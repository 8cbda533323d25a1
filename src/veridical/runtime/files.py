"""Whole files or none: everything is written to a temporary name, synced and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from veridical.runtime.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How JSON writes half a surrogate pair, or a whole one.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
JSON_ERRORS = (ValueError, RecursionError)
"""What reading JSON raises; a ValueError too for a number of thousands of digits."""
MAKE_ROOM = "Make room, and start again; a training run goes on with --resume true."


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 `text` so that `path` holds either its old content or all of the new.

    Raises:
        UserError: as for `write_texts_atomic`.
    """
    write_texts_atomic(path, (text,))


def write_texts_atomic(path: Path, texts: Iterable[str]) -> None:
    """`write_text_atomic` for a text in parts, which need not be in memory together.

    Raises:
        UserError: its folder is a file, or may not be written to, or the disk is full.
    """
    with whole_file(path) as file:
        file.writelines(text.encode() for text in texts)


@contextlib.contextmanager
def whole_file(path: Path, place: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write to that becomes `path` at the block's end, synced; after an error nothing.

    Args:
        path: the file.
        place: the folder, on the same disk, in which it lies until then; the file's own if None.

    Raises:
        UserError: its folder is a file, or may not be written to, or the disk is full.
    """
    descriptor, temporary = _new_file(path, place or path.parent)
    try:
        with writing(path), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
            from filelock import FileLock

            held.enter_context(FileLock(f"{path}.lock"))
        yield


def check_writable(path: Path) -> None:
    """Say at once that a file can't be written, before anything is made for it.

    Raises:
        UserError: its folder is a file, or takes no new file.
    """
    descriptor, temporary = _new_file(path, path.parent)
    os.close(descriptor)
    Path(temporary).unlink()


def _new_file(path: Path, place: Path) -> tuple[int, str]:
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=place, prefix=f".{path.name}.")
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error.filename} is a file; name a folder to write to.") from error
    except OSError as error:  # its name is that of the temporary file
        raise UserError(
            f"{path} can't be written: {place} takes no new file ({error.strerror}). Name another "
            "folder."
        ) from error
    return descriptor, temporary


@contextlib.contextmanager
def writing(path: Path, advice: str = MAKE_ROOM) -> Iterator[None]:
    """Turn the ways in which libraries report a full disk into one.

    Args:
        path: what is being written, for the message.
        advice: what to do then.

    Raises:
        UserError: the disk, the quota or the largest size of a file is used up.
    """
    try:
        yield
    except Exception as error:
        reason = full_disk(error)
        if reason is None:
            raise
        raise UserError(f"{path} can't be written: {reason}. {advice}") from error


def full_disk(error: BaseException) -> str | None:
    """In words, if an error means that no more can be written; None for any other."""
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    text = str(error)
    for number in FULL:
        if f"os error {number})" in text:  # safetensors
            return os.strerror(number)
    # PyTorch's writer keeps the number to itself.
    wrote = "PytorchStreamWriter" in text or (
        "inline_container.cc" in text and "unexpected pos" in text
    )
    return "the disk seems to be full" if wrote else None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, as no reader agrees on them."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line."""
    write_texts_atomic(
        path, (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    )


def read_json(path: Path, any_text: bool = False) -> Any:
    """Read one JSON value.

    Args:
        path: the file.
        any_text: take texts that can't be written again too, for who looks at each row.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        text = read_text(path)
        return parse_json(text) if any_text else _writable(parse_json(text), text)
    except JSON_ERRORS as error:
        raise UserError(
            f"{path} is not JSON: {error_in_words(error)}. Check that it was copied whole."
        ) from error


def read_jsonl(path: Path) -> list[Any]:
    """Read one JSON value a line; empty lines are allowed.

    Raises:
        UserError: the file is missing, or a line is not JSON (its number is named).
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_writable(parse_json(line), line))
        except JSON_ERRORS as error:
            raise UserError(
                f"{path}, line {number} is not JSON: {error_in_words(error)}."
            ) from error
    return rows


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is not JSON, or an object has a key twice, of which readers take one or the
            other.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_with_distinct_keys)


def _writable(value: object, text: str) -> object:
    """Refuse half a surrogate pair, which no file takes when it is written again.

    Raises:
        ValueError: a text or a key has one.
    """
    if not _HALF.search(text):
        return value
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"a text has half a surrogate pair ({half!r}), no character") from None
    return value


def _with_distinct_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def error_in_words(error: Exception) -> str:
    """One of `JSON_ERRORS` in words."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_text(path: Path) -> str:
    """Read a UTF-8 text, without the byte order mark that some editors put before it.

    Raises:
        UserError: the file is missing, is none (a folder, a pipe), can't be read or is not UTF-8
            text.
    """
    check_file(path)
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file where it can't be read, or not as text.

    Raises:
        UserError: names the file and says why.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


def real_path(path: Path) -> Path:
    """Without links and `..`; a link that leads to itself stays, where `resolve` would raise."""
    return Path(os.path.realpath(path))


def check_file(path: Path) -> None:
    """Refuse what is not a file that could be read to its end: a pipe would be waited for.

    Raises:
        UserError: says what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path!s} can't be read: {reason}.") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder; name a file in it.")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a file, but a pipe, a socket or a device.")


def refuse_to_replace(
    out: Path, is_own: Callable[[], bool], what: str, option: str = "--out"
) -> None:
    """Refuse to write over anything but an earlier file of the same kind.

    Args:
        out: the file to write.
        is_own: whether the file that is there is of that kind; asked only of a regular file.
        what: such a file is called, with its article: "a report".
        option: the option that names it.

    Raises:
        UserError: there is something else.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file in it with {option}.")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link that leads nowhere. Name another {option}.")
    if out.exists() and not (out.is_file() and is_own()):
        raise UserError(f"{out} is not {what}, and would be lost. Name another {option}.")


def require_file(path: Path, option: str) -> None:
    """Say at once that a file can't be read, before a model is loaded for it.

    Raises:
        UserError: it is missing or no file.
    """
    try:
        check_file(path)
    except UserError as error:
        raise UserError(f"{option} {error}") from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits.

    Raises:
        UserError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents in sorted order."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()
