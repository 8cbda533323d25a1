"""Results that cost time, kept between runs: found by content, bounded, checked when read.

An entry is a safetensors file under FOLDER/KIND, named by the hash of all that its content depends
on. It is written under another name and renamed, so runs at once never see half of one; it is
memory-mapped when read, and a checksum over its content tells flipped bits. The file's time of
change is when it was last used: the entries that were not used for longest go first. Nothing else
in the folder is ever removed, and a folder that holds something else is refused
(`cache_folder.py`).

Our own files instead of a database (such as diskcache's): they can be mapped, they need no locks
on network file systems, and nothing read from a folder that others may write to is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from veridical.runtime.cache_folder import (
    LOCK,
    check_cache_folder,
    claim_cache_folder,
    is_own,
    write_private,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file

VARIABLE = "VERIDICAL_CACHE"
NONE = "none"
ABANDONED_SECONDS = 24 * 3600.0
LEFT_FREE = 1e9
"""Bytes of a disk that the cache leaves to others, or a twentieth of a small disk."""
Content = str | bytes | int | float | None | Tensor | Sequence["Content"]


class Cache:
    """A folder of entries, shared by every run that is given it; without a folder, nothing is kept.

    Runs may share it at once: the same key always means the same content.
    """

    def __init__(self, folder: Path | None, limit: float) -> None:
        """Name the folder (it is made at the first write) and how many bytes it may hold."""
        self.folder, self.limit = folder, limit
        self._told: set[str] = set()
        self._writable = folder is not None
        self._size: float | None = None
        self._unseen = 0.0

    def get(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """An entry's tensors, memory-mapped; None if there is none that can be trusted.

        Args:
            kind: the folder that it is in, such as `vision`.
            key: from `digest`.
        """
        if self.folder is None:
            return None
        path = self._path(kind, key)
        try:
            tensors, problem = _read(path, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell("read", f"{path} can't be read ({error.strerror}); it is computed again.")
            return None
        if problem is not None:
            self._tell("corrupt", f"Cache entry {path} {problem}; it is computed again.")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return tensors

    def put(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. A folder that can't be written to is reported once, and not used.

        Raises:
            UserError: the folder holds something else.
        """
        if self.folder is None or not self._writable:
            return
        path = self._path(kind, key)
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data = save(content, {"sha256": _checksum(key, content)})
        try:
            claim_cache_folder(self.folder)
            _require_room(self.folder, len(data))
            _write(path, data)
            self._make_room(len(data))
        except OSError as error:
            self._writable = False
            reason = error.strerror or str(error)
            self._tell(
                "write",
                f"The cache {self.folder} can't be written to ({reason}); going on without it. "
                "Name another folder with --cache, or set --cache none.",
            )

    def keys(self, kind: str) -> list[str]:
        """The keys of every entry of a kind, sorted."""
        if self.folder is None:
            return []
        return sorted(path.stem for path in (self.folder / kind).glob("??/*.safetensors"))

    def forget(self, kind: str) -> None:
        """Remove every entry of a kind."""
        for key in self.keys(kind):
            self._path(kind, key).unlink(missing_ok=True)

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a large file, computed once for as long as the file is not touched."""
        state = path.stat()
        key = digest(
            str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        )
        known = self.get("hashes", key)
        if known is not None:
            return bytes(known["sha256"].tolist()).hex()
        found = hash_file(path)
        content = torch.tensor(list(bytes.fromhex(found)), dtype=torch.uint8)
        self.put("hashes", key, {"sha256": content})
        return found

    def _path(self, kind: str, key: str) -> Path:
        assert self.folder is not None
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            print(line)

    def _make_room(self, written: int) -> None:
        """Count what was written; look at the folder when the limit, or much new, is reached."""
        self._unseen += written
        known = self._size
        if known is None or known + self._unseen > self.limit or self._unseen > self.limit / 20:
            assert self.folder is not None
            self._unseen = 0.0
            self._size = evict(self.folder, self.limit)


def open_cache(folder: str | None, gigabytes: float) -> Cache:
    """The cache that the options ask for.

    Args:
        folder: `none` for no cache; without it the variable VERIDICAL_CACHE says, else it is the
            user's own folder for caches.
        gigabytes: what it may hold, in 10^9 bytes.

    Raises:
        UserError: the folder is a file or holds something else, or the limit is not above 0.
    """
    by_variable = os.environ.get(VARIABLE)
    chosen = folder or by_variable or platformdirs.user_cache_dir("veridical", False)
    if chosen == NONE:
        return Cache(None, 0)
    if gigabytes <= 0:
        raise UserError(f"--cache-gigabytes is {gigabytes:g}; give more than 0, or --cache none.")
    path = Path(chosen).expanduser()
    check_cache_folder(
        path, f"{VARIABLE}={path}" if by_variable and not folder else f"--cache {path}"
    )
    return Cache(path, gigabytes * 1e9)


def digest(*content: Content) -> str:
    """SHA-256 over values, with their types and lengths, so that no two lists look alike."""
    state = hashlib.sha256()
    for piece in _pieces(content):
        state.update(piece)
    return state.hexdigest()


def evict(folder: Path, limit: float, suffix: str = ".safetensors") -> float:
    """Remove the entries that were not used for longest, down to 90 % of a limit that is passed.

    Another process that is at it already is left alone.

    Args:
        folder: with the entries.
        limit: in bytes.
        suffix: of the files that are entries. Files that the cache did not write are left alone.

    Returns:
        What the folder holds afterwards, in bytes.
    """
    entries = []
    for path in filter(is_own, folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            if path.suffix == suffix:
                entries.append((state.st_mtime, state.st_size, path))
            elif path.suffix == ".part" and time.time() - state.st_mtime > ABANDONED_SECONDS:
                path.unlink()
    total = float(sum(size for _, size, _ in entries))
    if total <= limit:
        return total
    with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=0):
        for _, size, path in sorted(entries):
            if total <= 0.9 * limit:
                break
            with contextlib.suppress(FileNotFoundError, PermissionError):
                path.unlink()
            total -= size
    return total


def _require_room(folder: Path, size: int) -> None:
    """Refuse to fill a disk that others write results to.

    Raises:
        OSError: less than `LEFT_FREE` would be left.
    """
    disk = shutil.disk_usage(folder)
    left = min(LEFT_FREE, disk.total / 20)
    if disk.free - size < left:
        raise OSError(errno.ENOSPC, f"less than {left / 1e9:.2g} GB of the disk would be left")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, data)


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], str | None]:
    """An entry's tensors, and what is wrong with it."""
    if path.stat().st_size == 0:
        return {}, "is empty"
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        return {}, f"is not whole ({str(error).splitlines()[0]})"
    if _checksum(key, tensors) != expected:
        return {}, "is not what was written (its checksum differs)"
    return tensors, None


def _checksum(key: str, tensors: Mapping[str, Tensor]) -> str:
    return digest(key, [[name, tensors[name]] for name in sorted(tensors)])


def _pieces(value: Content) -> Iterable[bytes | memoryview]:
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous()
        yield json.dumps(["tensor", str(raw.dtype), list(raw.shape)]).encode()
        bytes_of: Any = raw.view(-1).view(torch.uint8).numpy()
        yield memoryview(bytes_of)
    elif isinstance(value, bytes):
        yield f"bytes {len(value)} ".encode()
        yield value
    elif isinstance(value, str | int | float | None):
        text = repr(value).encode()
        yield f"{type(value).__name__} {len(text)} ".encode()
        yield text
    else:
        yield f"list {len(value)} ".encode()
        for item in value:
            yield from _pieces(item)
