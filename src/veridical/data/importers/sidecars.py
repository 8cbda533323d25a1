"""A folder of pictures with a JSON file for each: what the file says is about its picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.data.image_checks import IMAGE_SUFFIXES
from veridical.data.importers.shapes import SHAPES
from veridical.data.record_files import stream_rows
from veridical.data.record_kinds import RowError
from veridical.data.record_names import IMAGES
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, reading, real_path
from veridical.runtime.progress import part_of

LARGEST = 2**20
"""Bytes of a JSON file up to which it is read at once, and counts as one row where it is broken: a
larger one holds many rows (our choice)."""
_PLACES = (*IMAGES, "image_url", "url", "path", "file")
"""Keys that may hold the name of a picture."""
LONGEST = 255
"""Bytes of a file's name."""
_BLOCKS = ("image", "image_url")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder, by their names.

    Attributes:
        folder: where they lie, or in folders of it.
        root: the folder that paths of images are relative to.
        beside: of a folder and a name without its suffix, the pictures.
        anywhere: the same by the name alone.
    """

    folder: Path
    root: Path
    beside: Mapping[tuple[Path, str], list[Path]] = field(default_factory=dict)
    anywhere: Mapping[str, list[Path]] = field(default_factory=dict)

    def of(self, file: Path) -> list[Path]:
        """Pictures that a JSON file is about: `a.jpg` or `b/a.jpg` of `a.json`, or `a.jpg.json`.

        Several are of one name: nothing says which is meant.
        """
        stem = Path(file.stem)
        if stem.suffix.lower() in IMAGE_SUFFIXES:
            return [
                one
                for one in self.beside.get((file.parent, stem.stem), ())
                if one.name == file.stem
            ]
        return self.beside.get((file.parent, file.stem)) or self.anywhere.get(file.stem, [])


def pictures_in(folder: Path, root: Path) -> Pictures:
    """Find the pictures of a folder, and of those within it."""
    beside: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    anywhere: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            beside[file.parent, file.stem].append(file)
            anywhere[file.stem].append(file)
    return Pictures(folder, root, dict(beside), dict(anywhere))


def sidecars(folder: Path, files: Sequence[Path], pictures: Pictures) -> list[Path] | None:
    """The JSON files of a folder where most are about a picture each; None where they are not.

    Args:
        folder: for messages.
        files: all of it that hold rows.
        pictures: of the folder.

    Raises:
        UserError: other files hold rows, too.
    """
    small = [
        one for one in files if one.suffix.lower() == ".json" and one.stat().st_size <= LARGEST
    ]
    own = [file for file in small if pictures.of(file)]
    if not own or 2 * len(own) < len(small):
        return None
    if others := [str(file.relative_to(folder)) for file in files if file not in {*small}]:
        raise UserError(
            f"{folder} holds pictures with a JSON file each ({own[0].relative_to(folder)}, ...) "
            f"and other files of rows ({', '.join(others[:3])}). Name one of them, or a folder of "
            "one kind."
        )
    told = part_of(len(own), len(small), "JSON files", "has", "have")
    print(f"{folder}: {told} the name of a picture, which is taken for the image of its rows.")
    return small


def json_rows(file: Path, pictures: Pictures | None) -> Iterator[tuple[int, object]]:
    """The rows of one JSON file of many, numbered from 1, with the picture that they are about.

    Without pictures, or where none has its name, rows are as they are.

    It may hold a row, a list of rows, rows by id, or a row with a list of questions and answers. A
    small file that is broken gives a `RowError`, unless it may be a list of rows.

    Raises:
        UserError: the file can't be read.
    """
    own = pictures.of(file) if pictures is not None else []
    if file.stat().st_size > LARGEST:
        found: Iterable[object] = (row for _, row in stream_rows(file))
    else:
        found = _small(file, pictures is not None)
    for number, row in enumerate(found, start=1):
        yield number, row if pictures is None else _about(row, file, own, pictures.root)


def _small(file: Path, is_one_row: bool) -> list[Any]:
    with reading(file), file.open("rb") as opened:
        head = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        return rows_of(read_json(file, any_text=True))
    except UserError as error:
        if head.startswith(b"[") and not is_one_row:
            raise  # nobody knows how many rows are lost
        return [RowError("row", str(error).removeprefix(f"{file} ").rstrip("."))]


def rows_of(content: object) -> list[Any]:
    """The rows that a JSON file of a few holds."""
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping) or _fits(content):
        return [content]
    lists = {name: value for name, value in content.items() if _are_objects(value)}
    rest = {name: value for name, value in content.items() if name not in lists}
    for inner in lists.values():
        if len(lists) == 1 and _fits({**rest, **inner[0]}):
            return [{**rest, **one} for one in inner]
    if content and all(isinstance(one, Mapping) for one in content.values()):
        return [{"id": key, **one} for key, one in content.items()]
    return [content]


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _fits(row: Mapping[str, object]) -> bool:
    """Whether it is a row with an answer."""
    found = (shape.fits(row) for shape in SHAPES.values())
    return any(fit is not None and fit.kind != "prompt" for fit in found)


def _about(row: object, file: Path, own: list[Path], root: Path) -> object:
    """The row with its picture, and with the names of pictures relative to the root."""
    if not isinstance(row, Mapping):
        return row
    placed = {name: _placed(name, value, file, own, root) for name, value in row.items()}
    if _has_images(placed):
        return placed
    if not own:
        return RowError("images", "no picture has the file's name, and the row names none")
    if len(own) > 1:
        names = " and ".join(one.name for one in own)
        return RowError("images", f"{names} have its name: name one in a column `image`")
    return {**placed, "image": _below(own[0], root)}


def _placed(key: str, value: object, file: Path, own: list[Path], root: Path) -> object:
    """A value with the names of pictures in it as paths below the root."""
    if isinstance(value, Mapping):
        return {name: _placed(str(name), one, file, own, root) for name, one in value.items()}
    if isinstance(value, list):
        return [_placed(key, one, file, own, root) for one in value]
    if not isinstance(value, str) or key.lower() not in _PLACES or not _is_name(value):
        return value
    if (root / value).is_file():
        return value
    beside = [one for one in own if one.name == Path(value).name]
    near = file.parent / value
    return _below(beside[0] if beside else near, root) if beside or near.is_file() else value


def _is_name(text: str) -> bool:
    is_picture = Path(text).suffix.lower() in IMAGE_SUFFIXES
    return is_picture and "\0" not in text and len(text.encode(errors="replace")) <= LONGEST


def _has_images(row: Mapping[str, object]) -> bool:
    """Whether it names a picture, in a column or in a block of a message."""
    return any(row.get(name) for name in IMAGES) or any(map(_has_block, row.values()))


def _has_block(value: object) -> bool:
    if isinstance(value, Mapping):
        if value.get("type") in _BLOCKS and any(value.get(name) for name in _PLACES):
            return True
        return any(map(_has_block, value.values()))
    return isinstance(value, list) and any(map(_has_block, value))


def _below(picture: Path, root: Path) -> str:
    """Its path below the root; as it is where it is elsewhere."""
    whole, top = real_path(picture), real_path(root)
    return whole.relative_to(top).as_posix() if whole.is_relative_to(top) else str(whole)
