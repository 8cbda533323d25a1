"""Which files of a folder are of which split, by the names that Datasets goes by."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from veridical.runtime.errors import UserError

WHOLE = "train"
"""The split of files whose names say none."""
_KEYWORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_KEYWORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(_KEYWORDS)})(?=[-._ 0-9]|$)", re.I)
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_OF_SHARDS = "data"
"""The folder in which the name of a shard, up to its number, is that of its split."""
NAMED = 3
"""Files that a message names."""


def files_of(split: str, folder: Path, files: Sequence[Path], by_name: bool = True) -> list[Path]:
    """The files of a split; prints which split is read, where there are several.

    Args:
        split: its name.
        folder: that holds the files.
        files: all that hold rows.
        by_name: whether names of files say a split, or those of folders alone.

    Raises:
        UserError: there is no such split.
    """
    found = by_split(folder, files, by_name)
    if split not in found:
        raise UserError(
            f"{folder} has no split {split!r}. Set --split to one of {', '.join(found)}."
        )
    if len(found) > 1:
        others = ", ".join(name for name in found if name != split)
        print(f"{folder}: its split {split!r} is read; --split sets another ({others}).")
    of_none = sorted({*files} - {file for some in found.values() for file in some})
    if of_none:
        named = ", ".join(str(file.relative_to(folder)) for file in of_none[:NAMED])
        more = f" and {len(of_none) - NAMED} more" if len(of_none) > NAMED else ""
        print(f"Not read, as no split is in the name: {named}{more}.")
    return found[split]


def by_split(folder: Path, files: Sequence[Path], by_name: bool = True) -> dict[str, list[Path]]:
    """Files by split: shards in a folder `data`, else by words in names of files, or of folders."""
    ways: list[Callable[[PurePath], str | None]] = [_by_folder]
    if by_name:
        ways[:0] = [_by_shard, lambda place: _keyword(place.stem)]
    for way in ways:
        found: dict[str, list[Path]] = {}
        for file in files:
            split = way(file.relative_to(folder))
            if split is not None:
                found.setdefault(split, []).append(file)
        if found:
            return found
    return {WHOLE: list(files)}


def _by_shard(place: PurePath) -> str | None:
    match = _SHARD.fullmatch(place.stem)
    return match.group(1) if match is not None and place.parent.name == _OF_SHARDS else None


def _by_folder(place: PurePath) -> str | None:
    return next((split for part in place.parts[:-1] if (split := _keyword(part))), None)


def _keyword(name: str) -> str | None:
    match = _KEYWORD.search(name)
    return _KEYWORDS[match.group(1).lower()] if match is not None else None
