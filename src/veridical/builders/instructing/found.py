"""What another set gives: conversations, and the rows that can't become any."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veridical.data.image_checks import find_images
from veridical.runtime.errors import UserError

_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Talk:
    """A conversation about one image.

    Attributes:
        id: of the conversation.
        image: its file.
        turns: (question, answer), in order; questions without the image's tag.
        source: the set.
    """

    id: str
    image: Path
    turns: tuple[tuple[str, str], ...]
    source: str


@dataclass
class Gathered:
    """What a set gave.

    Attributes:
        talks: its conversations.
        skipped: id, file, field and reason of each row that could not be used.
        rows: how many there were to use.
        other: rows of a sort that is not asked for, by sort.
    """

    talks: list[Talk] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    rows: int = 0
    other: dict[str, int] = field(default_factory=dict)

    def skip(self, id: object, file: Path, field: str, reason: str) -> None:
        """List a row."""
        self.skipped.append({"id": str(id), "file": str(file), "field": field, "reason": reason})


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, by name and by the number that their names end in."""

    folder: Path
    by_stem: Mapping[str, Path]
    by_number: Mapping[int, Path]

    def of(self, id: object) -> Path | None:
        """The image of an id: a file's name without suffix, or COCO's number."""
        if isinstance(id, int):
            return self.by_number.get(id)
        return self.by_stem.get(str(id))


def open_image_folder(folder: Path) -> ImageFolder:
    """Find the images of a folder.

    Raises:
        UserError: there are none, or two files have one number.
    """
    stems = dict(find_images(folder))
    numbers: dict[int, Path] = {}
    for stem, path in stems.items():
        if found := _NUMBER.search(stem):
            other = numbers.setdefault(int(found[1]), path)
            if other != path:
                raise UserError(
                    f"{other.name} and {path.name} in {folder} have the same number. Name a folder "
                    "with one split's images."
                )
    return ImageFolder(folder, stems, numbers)


def no_image(id: object, images: ImageFolder) -> str:
    """Why a row without its image is left out."""
    return f"{images.folder} has no image {id}"
