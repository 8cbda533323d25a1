"""WebDataset's tar files: what has one key is a row."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from veridical.data.image_checks import IMAGE_SUFFIXES
from veridical.data.record_kinds import RowError
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import JSON_ERRORS, error_in_words, parse_json
from veridical.runtime.unchanged import unchanged

_NUMBER = re.compile(r"\d+")


def webdataset_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows numbered from 1: `KEY.json`, with the images `KEY.jpg` or `KEY.0.jpg`, ... as bytes.

    Raises:
        UserError: it is not a tar file, or is cut off, or was written to meanwhile.
    """
    with unchanged(path):
        try:
            with tarfile.open(path, "r|") as tar:
                yield from enumerate(_rows(tar), start=1)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} can't be read as a tar file: {reason_of(error)}.") from error


def _rows(tar: tarfile.TarFile) -> Iterator[object]:
    key, files = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        place = PurePosixPath(member.name)
        stem, _, ending = place.name.partition(".")
        if str(place.parent / stem) != key and files:
            yield _row(files)
            files = {}
        key = str(place.parent / stem)
        opened = tar.extractfile(member)
        assert opened is not None  # it is a file
        files[ending.lower()] = opened.read()
    if files:
        yield _row(files)


def _row(files: dict[str, bytes]) -> object:
    try:
        row = parse_json(files["json"].decode()) if "json" in files else {}
    except JSON_ERRORS as error:
        return RowError("row", f"its .json is not JSON ({error_in_words(error)})")
    if not isinstance(row, dict):
        return RowError("row", "its .json is not an object")
    if "txt" in files:
        row.setdefault("caption", files["txt"].decode(errors="replace"))
    images = [name for name in files if PurePosixPath(f"a.{name}").suffix in IMAGE_SUFFIXES]
    apart = {"rejected_images": "rejected.", "contrast_images": "contrast."}
    plain = [name for name in images if not name.startswith(tuple(apart.values()))]
    parts = {name: [n for n in images if n.startswith(start)] for name, start in apart.items()}
    for field, names in ({"images": plain} | parts).items():
        own = sorted(names, key=_order)
        if own:
            row[field] = [{"bytes": files[name], "path": None} for name in own]
    return row


def _order(name: str) -> tuple[int, str]:
    number = _NUMBER.search(name)
    return (int(number.group()) if number else 0, name)
