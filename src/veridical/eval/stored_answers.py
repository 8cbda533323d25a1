"""Answers that an output folder has already, and what becomes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from veridical.runtime.files import write_jsonl
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import counted
from veridical.runtime.shards import print_result

PARTIAL = "answers.partial{}.jsonl"
_IDENTITY = ("split", "question_id", "image_id", "answer")


def stored_rows(folder: Path) -> Iterator[JsonObject]:
    """Rows with an `answer` in `answers.jsonl`, then those of runs in progress."""
    for path in (folder / "answers.jsonl", *sorted(folder.glob(PARTIAL.format("*")))):
        yield from (row for row in stored_lines(path) if "answer" in row)


def stored_lines(path: Path) -> Iterator[JsonObject]:
    """The rows of a file that a run may have been killed in; none where there is no file."""
    try:
        # Not splitlines: it also splits at U+2028, which an answer may hold.
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return  # nothing is there yet, or the last share has just written all of it
    for line in lines:
        # A line that a run was killed in may end within a character: asked again.
        row = _json_or_none(line)
        if isinstance(row, dict):
            yield row


def mend_last_line(path: Path) -> None:
    """End a line that a killed run left open, so that the next row gets its own."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def count_others(folder: Path, keys: Iterable[str]) -> int:
    """How many different stored answers have none of `keys`, and will be replaced."""
    own = set(keys)
    others = (row for row in stored_rows(folder) if row.get("key") not in own)
    return len({str(row.get("key") or _identity(row)) for row in others})


def write_answers(folder: Path, rows: Sequence[Mapping[str, object]], given: bool) -> None:
    """Write `answers.jsonl`.

    Args:
        folder: the run's folder.
        rows: what to write.
        given: whether they were made elsewhere; then it is said which answers they replace. Before
            a model is asked, `make_answers` has said it, in time to stop.
    """
    if given:
        stored = Counter(dict.fromkeys(map(_identity, stored_rows(folder)), 1))
        replaced = sum((stored - Counter(map(_identity, rows))).values())
        if replaced:
            print_result(
                f"{counted(replaced, 'answers')} in {folder} that the new ones do not have "
                f"{'was' if replaced == 1 else 'were'} replaced. To keep both, give each its own "
                "--out."
            )
    write_jsonl(folder / "answers.jsonl", rows)


def _identity(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in _IDENTITY)


def _json_or_none(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
