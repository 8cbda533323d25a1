"""What a build has finished so far: chunks on disk, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from veridical.errors import UserError
from veridical.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.progress import track
from veridical.records import RecordSet

CHUNK = 64
"""Records finished together, and written together; part of no result."""


class Named(Protocol):
    """Something with a record's id."""

    @property
    def id(self) -> str:
        """The record's id."""
        ...


Item = TypeVar("Item", bound=Named)


class Parts:
    """Finished chunks of a build, one file each, under `parts/`."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        """Open the folder.

        Args:
            out: the run's folder.
            identity: everything that decides the result, in JSON's types.

        Raises:
            UserError: it holds chunks of a build with another identity.
        """
        self.folder = out / "parts"
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        known = self.folder / "key.json"
        if known.is_file() and read_json(known) != key:
            raise UserError(
                f"{out} holds an unfinished build with other settings, model or data. "
                "Choose another --out, or delete that folder."
            )
        write_json(known, key)

    def path(self, start: int) -> Path:
        """The file of the chunk that begins at record `start`."""
        return self.folder / f"{start:08d}.jsonl"

    def has(self, start: int, ids: Sequence[str]) -> bool:
        """Whether that chunk is finished, and of these very records (`--limit` may have grown)."""
        path = self.path(start)
        return path.is_file() and [row["id"] for row in read_jsonl(path)] == list(ids)

    def write(self, start: int, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep a finished chunk."""
        write_jsonl(self.path(start), results)

    def work_through(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[dict[str, Any]]],
        label: str,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Do what is not done yet, a chunk at a time.

        Args:
            items: the records.
            work: a chunk to one result for each, with its `id`.
            label: names the progress line.

        Returns:
            The results of all, in order.
        """
        starts = range(0, len(items), CHUNK)
        for start in track(starts, f"{label}, {CHUNK} records a step"):
            chunk = items[start : start + CHUNK]
            if not self.has(start, [item.id for item in chunk]):
                self.write(start, work(chunk))
        return [row for start in starts for row in read_jsonl(self.path(start))]

    def forget(self) -> None:
        """Remove the chunks, once the result is written."""
        shutil.rmtree(self.folder)


def write_skipped(
    out: Path, records: RecordSet, left_out: Iterable[Mapping[str, str]], what: str
) -> int:
    """Write `skipped.jsonl`: records that could not be read, then those that gave nothing.

    Args:
        out: the run's folder.
        records: with their problems.
        left_out: {"id", "field", "reason"} of each record that gave nothing.
        what: what they did not give, for the line on the screen.

    Returns:
        How many there are.
    """
    skipped = [{"id": p.id, "field": p.field, "reason": p.reason} for p in records.problems]
    skipped += [dict(row) for row in left_out]
    write_jsonl(out / "skipped.jsonl", skipped)
    if skipped:
        print(f"{len(skipped)} records gave no {what}; {out / 'skipped.jsonl'} says why.")
    return len(skipped)
