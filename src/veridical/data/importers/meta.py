"""InternVL's `meta.json`: names of sets, each with a file of annotations and a root of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from veridical.data.record_files import stream_rows
from veridical.data.record_names import IMAGES
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json

SUMMARY = "a `meta.json` that names files of rows, with the root of each one's images"


@dataclass(frozen=True)
class Entry:
    """One set of a `meta.json`.

    Attributes:
        name: of the set.
        root: of its images, relative to the images' root.
        annotation: its rows.
        repeats: how often its rows are to be used; reported, not applied.
    """

    name: str
    root: str
    annotation: Path
    repeats: float


def is_meta(path: Path) -> bool:
    """Whether a JSON file is of this form: it is read as one only if it is small."""
    if path.suffix.lower() != ".json" or path.stat().st_size > 2**20:
        return False
    try:
        content = read_json(path)
    except UserError:
        return False
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(one, Mapping) and "annotation" in one for one in content.values())
    )


def entries(path: Path) -> list[Entry]:
    """The sets that it names.

    Raises:
        UserError: a file of annotations is not there.
    """
    found = []
    for name, one in read_json(path).items():
        annotation = path.parent / str(one["annotation"])
        if not annotation.is_file():
            raise UserError(f"{path}, {name}: there is no {annotation}. Unpack it, or correct it.")
        repeats = one.get("repeat_time", 1)
        repeats = float(repeats) if isinstance(repeats, int | float) else 1.0
        found.append(Entry(str(name), str(one.get("root") or ""), annotation, repeats))
    return found


def meta_rows(entry: Entry) -> Iterator[tuple[int, Any]]:
    """Its rows, numbered from 1, with paths of images below its root."""
    for number, row in stream_rows(entry.annotation):
        if not isinstance(row, Mapping):
            yield number, row
            continue
        told = {n: _below(entry.root, v) if n in IMAGES else v for n, v in row.items()}
        yield number, told | {"part": entry.name}


def _below(root: str, value: object) -> object:
    if isinstance(value, list):
        return [_below(root, one) for one in value]
    return str(PurePosixPath(root) / value) if isinstance(value, str) and value else value
