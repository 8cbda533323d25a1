"""What a build has finished so far: chunks on disk, so that an interrupted one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter

from veridical.data.images import image_bytes_key
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_text, write_json, write_text_atomic
from veridical.runtime.progress import track
from veridical.runtime.runs import Run
from veridical.runtime.shards import ALL, CLAIM, Shard, leave_to_others

CHUNK = 64
"""Records finished together, and written together; part of no result."""
KEY = "key.json"
CHUNK_NAME = re.compile(r"\d{8}\.jsonl")


class Named(Protocol):
    """Something with a record's id and images."""

    @property
    def id(self) -> str:
        """The record's id."""
        ...

    @property
    def images(self) -> Sequence[Any]:
        """The record's images."""
        ...


class Forgettable(Protocol):
    """What an unfinished build keeps."""

    def forget(self) -> None:
        """Remove it."""
        ...


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result")


class Parts(Generic[Result]):
    """Finished chunks of a build, one file each, under `parts/`."""

    def __init__(self, out: Path, identity: Mapping[str, object], kind: type[Result]) -> None:
        """Open the folder.

        Args:
            out: the run's folder.
            identity: everything that decides the result, in JSON's types.
            kind: what is made of a record: a dataclass of JSON's types, or a dictionary.

        Raises:
            UserError: it holds chunks of a build with another identity.
        """
        self.folder = out / "parts"
        self.results = TypeAdapter(kind)
        self.key = key_of(identity)
        refuse_other_build(self.folder, self.key)

    def path(self, start: int) -> Path:
        """The file of the chunk that begins at record `start`."""
        return self.folder / f"{start:08d}.jsonl"

    def has(self, start: int, items: Sequence[Named]) -> bool:
        """Whether that chunk is finished, and of these very records and images.

        `--limit` may have grown, and an image may have been replaced under its name.
        """
        path = self.path(start)
        if not path.is_file():
            return False
        try:
            rows = self._lines(start)
        except UserError:
            if path.is_file():  # else another shard has put the result together
                print(f"{path} was damaged or changed: its records are worked through again.")
            return False
        known = [(row["id"], row["image_hashes"]) for row in rows]
        return known == [(item.id, _image_hashes(item)) for item in items]

    def write(self, start: int, items: Sequence[Named], results: Sequence[Result]) -> None:
        """Keep a finished chunk: a result for each record."""
        rows = [
            {"id": item.id, "image_hashes": _image_hashes(item), "result": self._plain(result)}
            for item, result in zip(items, results, strict=True)
        ]
        write_json(self.folder / KEY, self.key)
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_text_atomic(self.path(start), f"{_digest(text)}\n{text}")

    def _plain(self, result: Result) -> object:
        return self.results.dump_python(result, mode="json")

    def _made(self, start: int) -> list[Result]:
        """The results of a finished chunk."""
        return [self.results.validate_python(row["result"]) for row in self._lines(start)]

    def _lines(self, start: int) -> list[dict[str, object]]:
        """A finished chunk as it was written: id, hashes of the images, and the result.

        Raises:
            UserError: it is missing, or is not what was written.
        """
        digest, _, text = read_text(self.path(start)).partition("\n")
        if digest != _digest(text):
            raise UserError(f"{self.path(start)} is not as it was written.")
        return [json.loads(line) for line in text.split("\n") if line]

    def work_through(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]], label: str
    ) -> list[Result]:
        """Do what is not done yet, a chunk at a time; returns the results of all, in order."""
        results = self.work_through_shard(items, work, label, ALL)
        assert results is not None  # nobody else puts them together
        return results

    def work_through_shard(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]], label: str,
        shard: Shard,
    ) -> list[Result] | None:  # fmt: skip
        """Do what is not done yet of a shard, a chunk at a time.

        A chunk is the same whoever makes it, so the result does not depend on the shards.

        Args:
            items: the records.
            work: a chunk to one result for each.
            label: names the progress line.
            shard: which chunks are this process's.

        Returns:
            The results of all, in order; None where another shard puts them together, or has.
        """
        if shard.is_late(self.folder.parent):
            return None
        chunks = {start: items[start : start + CHUNK] for start in range(0, len(items), CHUNK)}
        mine = [start for number, start in enumerate(chunks) if shard.has(number)]
        for start in track(mine, f"{label}, {CHUNK} records a step"):
            if not self.has(start, chunks[start]):
                self.write(start, chunks[start], work(chunks[start]))
        done = sum(self.path(start).is_file() for start in chunks)
        try:
            whole = done == len(chunks) and all(self.has(s, chunk) for s, chunk in chunks.items())
            if whole and shard.claim(self.folder):
                return [result for start in chunks for result in self._made(start)]
        except UserError:
            # Whoever has put the result together was removing the chunks meanwhile.
            if shard.count == 1:
                raise
        leave_to_others(shard, self.folder.parent, done, len(chunks))
        return None

    def forget(self) -> None:
        """Remove the chunks, once the result is written; what else is in their folder stays."""
        for path in (*self.folder.glob("[0-9]*.jsonl"), self.folder / KEY, self.folder / CLAIM):
            if path.name in (KEY, CLAIM) or CHUNK_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def key_of(identity: Mapping[str, object]) -> str:
    """A hash of everything that decides a build's result, in JSON's types."""
    return _digest(json.dumps(identity, sort_keys=True))


def refuse_other_build(folder: Path, key: str) -> None:
    """Refuse a folder with finished parts of another build.

    Raises:
        UserError: it has them.
    """
    known = folder / KEY
    if known.is_file() and read_json(known) != key:
        raise UserError(
            f"{folder} holds an unfinished build with other settings, model or data. "
            "Choose another --out, or delete that folder."
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _image_hashes(item: Named) -> list[str]:
    return [image_bytes_key(image) for image in item.images]


def finish(
    run: Run, summary: Mapping[str, Any], parts: Forgettable | None = None,
    seconds: float | None = None,
) -> None:  # fmt: skip
    """Write `summary.json`, remove the finished chunks, and end the run.

    Args:
        run: the build's.
        summary: its counts.
        parts: its chunks, if it kept any.
        seconds: how long the work took, for `run.json`.
    """
    write_json(run.folder / "summary.json", summary)
    if parts is not None:
        parts.forget()
    run.finish(**summary, **({} if seconds is None else {"seconds": round(seconds, 1)}))
