"""Rows that somebody has flagged, from whatever lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from veridical.data.record_flags import FlaggedRow, FlaggedRows, own_id, whole_text
from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS, parse_json, read_text, real_path
from veridical.runtime.progress import counted

FLAGGED = "it is flagged"
LONGEST = 18  # digits of a row's number
LEVELS = {"warning": 0, "error": 1}


@dataclass(frozen=True)
class Flag:
    """A row that a file lists.

    Attributes:
        id: of the row, or "".
        reason: why it is left out.
        row: its number; 0 where the file has none.
        set: the file that the row is in; "" where that is not said.
        sha256: of that file when it was listed; "" where that is not said.
    """

    id: str
    reason: str
    row: int = 0
    set: str = ""
    sha256: str = ""


def read_flags(path: Path | None, lowest: Literal["warning", "error"]) -> list[Flag]:
    """The rows that a file lists.

    Args:
        path: JSON Lines with an `id` (and a `level`, where there is one; rows with `flagged` false
            flag nothing), a JSON list of ids, or a text with an id a line; None for no file.
        lowest: the lowest level that counts; rows without a level count always.

    Raises:
        UserError: it lists nothing that could be a row.
    """
    if path is None:
        return []
    wanted = [row for row in _rows(read_text(path), path) if _counts(row, lowest)]
    flags = [flag for flag in map(_flag, wanted) if flag.id or flag.row]
    if wanted and not flags:
        raise UserError(f"--without-flagged {path}: none of its rows has an id or a number.")
    if nameless := len(wanted) - len(flags):
        print(f"{path}: {counted(nameless, 'lines')} without a row's id or number flag nothing.")
    return flags


def flags_by_set(
    path: Path | None, flags: Sequence[Flag], sets: Sequence[Path], hashes: Sequence[str]
) -> list[FlaggedRows]:
    """What is left out of each set: rows by number, where the list says of which file they are.

    `data check` and `view` say it with the file's hash. A `skipped.jsonl` names the file alone:
    there the rows' ids must still be those listed. Other lists are of ids.

    Args:
        path: what lists them.
        flags: of that file.
        sets: the files that are read.
        hashes: SHA-256 of each.

    Raises:
        UserError: rows are listed of a file that none of the sets is, or of one as it was before.
    """
    # `resolve` would raise where a listed name is a link that leads to itself.
    files = [real_path(file) for file in sets]
    named = {flag.set for flag in flags if flag.set}
    places = {name: real_path(Path(name)) for name in named}
    _refuse_others(path, flags, files, places, hashes)
    by_number = {
        flag for flag in flags if flag.row and (flag.sha256 or places.get(flag.set) in files)
    }
    ids = {flag.id: flag.reason for flag in flags if flag.id and flag not in by_number}
    found = []
    for file, own in zip(files, hashes, strict=True):
        rows: dict[int, FlaggedRow] = {}
        for flag in flags:
            here = flag.sha256 == own if flag.sha256 else places.get(flag.set) == file
            if flag in by_number and here:
                rows.setdefault(flag.row, FlaggedRow(flag.id, flag.reason))
        found.append(FlaggedRows(f"--without-flagged {path}", rows, ids))
    if lost := sum(not flag.id and flag not in by_number for flag in flags):
        print(
            f"{path}: {counted(lost, 'lines')} with a row's number, but neither its id nor which "
            "of the sets it is in, flag nothing."
        )
    return found


def _refuse_others(
    path: Path | None,
    flags: Sequence[Flag],
    files: Sequence[Path],
    places: Mapping[str, Path],
    hashes: Sequence[str],
) -> None:
    others = {flag.set for flag in flags if flag.sha256 and flag.sha256 not in hashes}
    for name in sorted(others):
        changed = places.get(name) in files
        why = "which was changed since" if changed else "which is none of the sets as they are now"
        raise UserError(
            f"--without-flagged {path} lists rows of {name}, {why}, so its numbers may be those of "
            f"other rows.\nList them again (`veridical data check {name} --out FILE`, or flag them "
            "in `veridical view`), or give the ids alone, one a line in a .txt file."
        )


def _flag(row: Any) -> Flag:
    if not isinstance(row, Mapping):
        return Flag(whole_text(row), FLAGGED)
    told = [whole_text(row.get(name)) for name in ("check", "field", "what", "reason", "note")]
    return Flag(
        own_id(row),
        ": ".join([FLAGGED, *filter(None, told)]),
        _number(row.get("row")),
        whole_text(row.get("set") or row.get("file")).replace("\0", ""),
        whole_text(row.get("sha256")),
    )


def _number(value: object) -> int:
    """A row's number, also as a table writes it (2.0, "2"); 0 for what is none."""
    if isinstance(value, str) and value.isdecimal() and len(value) < LONGEST:
        value = int(value)
    is_whole = isinstance(value, float) and value.is_integer() and value < 10**LONGEST
    value = int(value) if is_whole else value  # type: ignore[call-overload]
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _rows(text: str, path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".json":
        rows = _json(text, path)
        if not isinstance(rows, list):
            raise UserError(f"--without-flagged {path} must be a JSON list of ids or rows.")
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = [_json(line, path) for line in text.split("\n") if line.strip()]
    else:
        rows = [line.strip() for line in text.splitlines() if line.strip()]
    for row in rows:
        known = isinstance(row, Mapping) and "id" in row
        if not known and (not isinstance(row, str | int) or isinstance(row, bool)):
            raise UserError(
                f'--without-flagged {path}: {str(row)[:60]!r} is neither an id nor a row with "id".'
            )
        yield row


def _counts(row: Any, lowest: str) -> bool:
    if isinstance(row, Mapping) and row.get("flagged") is False:
        return False  # a note of `veridical view` without a flag
    level = row.get("level") if isinstance(row, Mapping) else None
    return LEVELS.get(str(level), LEVELS["error"]) >= LEVELS[lowest]


def _json(text: str, path: Path) -> object:
    try:
        return parse_json(text)
    except JSON_ERRORS as error:
        raise UserError(f"--without-flagged {path} is not JSON: {error}.") from None
