"""A row's images: content, size, perceptual hash, and why one can't be read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from veridical.data.images import decode_image, resolve_image_path
from veridical.data.pixels import ImageError

NO_HASH = -1
HASHED = 32


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a row.

    Attributes:
        name: of its file, "" where only its bytes are there.
        key: 16 bytes of the SHA-256 of its file; of its name where that can't be read.
        size: width and height, upright; (0, 0) where it can't be read.
        look: 64 bits of its perceptual hash; `NO_HASH` where there is none.
        mirrored: those of its mirror image, left for right.
        problem: why it can't be read, or "".
    """

    name: str
    key: bytes
    size: tuple[int, int] = (0, 0)
    look: int = NO_HASH
    mirrored: int = NO_HASH
    problem: str = ""


class Album:
    """Reads each image once, however many rows show it."""

    def __init__(self, root: Path) -> None:
        """Begin.

        Args:
            root: the folder that image paths are relative to and must stay under.
        """
        self.root = root.resolve()
        self._known: dict[bytes, Picture] = {}

    def look(self, reference: Mapping[str, Any]) -> Picture:
        """What is known of an image, given as a record refers to it: its bytes or its path."""
        name = Path(reference["path"] or "").name
        try:
            content = reference["bytes"] or self._read(reference["path"])
        except ImageError as problem:
            return Picture(name, short_hash(reference["path"].encode()), problem=str(problem))
        key = short_hash(content)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _decoded(name, key, content)
        return known if known.name == name else replace(known, name=name)

    def _read(self, reference: str) -> bytes:
        path = resolve_image_path(reference, self.root)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{reference} can't be read ({error.strerror})") from error


def _decoded(name: str, key: bytes, content: bytes) -> Picture:
    try:
        image = decode_image(content)
    except ImageError as problem:
        place = f"{name}: " if name else ""
        return Picture(name, key, problem=f"{place}{problem}")
    return Picture(name, key, image.size, *perceptual_hashes(image))


def perceptual_hashes(image: Image.Image) -> tuple[int, int]:
    """64 bits that stay nearly the same when an image is compressed again or resized (pHash).

    Returns:
        Those of the image, and of its mirror image.
    """
    import imagehash

    # The size that pHash works on, so that the large image is made small once.
    small = image.convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    look, mirrored = (imagehash.phash(one) for one in (small, ImageOps.mirror(small)))
    return int(str(look), 16), int(str(mirrored), 16)


def short_hash(content: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.sha256(content).digest()[:16]


def named_picture(reference: Mapping[str, Any]) -> Picture:
    """An image that is told apart by its bytes, or else by its name; nothing is opened."""
    name, content = reference["path"] or "", reference["bytes"]
    return Picture(Path(name).name, short_hash(content or name.encode()))
