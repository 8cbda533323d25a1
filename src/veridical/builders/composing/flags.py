"""Rows that somebody has flagged, from whatever lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.progress import counted

LEVELS = {"warning": 0, "error": 1}


def read_flagged(path: Path | None, lowest: Literal["warning", "error"]) -> frozenset[str]:
    """The ids that a file lists.

    Args:
        path: JSON Lines with an `id` (and a `level`, where there is one; rows with `flagged` false
            flag nothing), a JSON list of ids, or a text with an id a line; None for no file.
        lowest: the lowest level that counts; rows without a level count always.

    Raises:
        UserError: it lists nothing that could be an id.
    """
    if path is None:
        return frozenset()
    text = read_text(path)
    rows = _rows(text, path)
    named = [row["id"] if isinstance(row, dict) else row for row in rows if _counts(row, lowest)]
    ids = frozenset(str(name) for name in named if name not in (None, ""))
    if rows and not ids and any(_counts(row, lowest) for row in rows):
        raise UserError(f"--without-flagged {path}: none of its rows has an id.")
    if nameless := sum(name in (None, "") for name in named):
        print(f"{path}: {counted(nameless, 'rows')} without an id flag nothing.")
    return ids


def _rows(text: str, path: Path) -> list[Any]:
    if path.suffix.lower() == ".json":
        content = _json(text, path)
        if not isinstance(content, list):
            raise UserError(f"--without-flagged {path} must be a JSON list of ids or rows.")
        rows = content
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = [_json(line, path) for line in text.split("\n") if line.strip()]
    else:
        rows = [line.strip() for line in text.splitlines() if line.strip()]
    for row in rows:
        if not isinstance(row, (str, int, dict)) or (isinstance(row, dict) and "id" not in row):
            raise UserError(
                f'--without-flagged {path}: {str(row)[:60]!r} is neither an id nor a row with "id".'
            )
    return rows


def _counts(row: Any, lowest: str) -> bool:
    if isinstance(row, dict) and row.get("flagged") is False:
        return False  # a note of `veridical view` without a flag
    level = row.get("level") if isinstance(row, dict) else None
    return LEVELS.get(str(level), LEVELS["error"]) >= LEVELS[lowest]


def _json(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--without-flagged {path} is not JSON: {error}.") from None
