"""Images as browsers get them: always decoded and encoded again, never a file as it is."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from veridical.data.images import open_image
from veridical.data.pixels import ImageError
from veridical.runtime.errors import UserError

SMALL = 96
"""Pixels of a side up to which an image stays as it is, as PNG; the page enlarges its pixels."""
SIZES = {"small": 360, "large": 1600}
KEPT_BYTES = 32 * 2**20
_AT_ONCE = threading.Semaphore(2)


class Pictures:
    """Encoded images; the last ones are kept."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: OrderedDict[tuple[object, ...], tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> tuple[bytes, str] | None:
        """A kept one, with its type."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        return None

    def put(self, key: tuple[object, ...], found: tuple[bytes, str]) -> None:
        """Keep one."""
        with self._lock:
            self._kept[key] = found
            while sum(len(content) for content, _ in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)


def encoded(source: bytes | Path, size: str) -> tuple[bytes, str]:
    """An image as PNG or JPEG within a size of `SIZES`, with its type.

    Raises:
        ImageError: it can't be decoded.
    """
    with _AT_ONCE:
        try:
            image = open_image(source)
        except UserError as error:
            raise ImageError(str(error)) from error
        buffer = io.BytesIO()
        if max(image.size) <= SMALL:
            image.save(buffer, "PNG")
            return buffer.getvalue(), "image/png"
        limit = SIZES[size]
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=84)
        return buffer.getvalue(), "image/jpeg"
