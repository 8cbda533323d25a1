"""Whether a model's own image processor takes a picture, found before anything depends on it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from PIL import Image

from veridical.errors import RefusedRowError, UserError
from veridical.images import ImageLike, size_of

SHORT, LONG_RATIO, MANY_PIXELS = 64, 4.0, 20_000_000
"""What is tried: pictures with a side below 64 px, longer than four times their width (or the
reverse), or of more than 20 megapixels (our choice). Others are taken without a trial."""

_USUAL = (224, 224)
_known: weakref.WeakKeyDictionary[Any, dict[tuple[int, int], str]] = weakref.WeakKeyDictionary()


def require_images(processor: Any, images: Sequence[ImageLike]) -> None:
    """Refuse a row one of whose images the model's image processor does not take.

    All images are upright RGB, so it depends on their sizes alone. An unusual size is tried once,
    with a grey picture; nothing is decoded.

    Raises:
        RefusedRowError: names the image's number and size, with the processor's words.
    """
    for number, image in enumerate(images, start=1):
        try:
            size = size_of(image)
        except UserError as gone:
            raise RefusedRowError(f"image {number}: {gone}") from gone
        reason = size_refusal(processor, size)
        if reason:
            raise RefusedRowError(
                f"image {number} ({size[0]} x {size[1]} pixels) is refused by the model's "
                f"processor: {reason}"
            )


def is_unusual(size: tuple[int, int]) -> bool:
    """Whether a picture of this width and height is worth a trial."""
    longer, shorter = max(size), min(size)
    return shorter < SHORT or longer > LONG_RATIO * shorter or longer * shorter > MANY_PIXELS


def size_refusal(processor: Any, size: tuple[int, int]) -> str:
    """Why the image processor takes no picture of this width and height; "" if it does."""
    if not is_unusual(size):
        return ""
    maker = getattr(processor, "image_processor", None)
    if maker is None:
        return ""
    known = _known.setdefault(maker, {})
    if size not in known:
        # What takes no picture at all is not called as it wants to be: not the picture's fault.
        known[size] = _refusal(maker, size)
        if known[size] and _refusal(maker, _USUAL):
            known[size] = ""
    return known[size]


def _refusal(maker: Any, size: tuple[int, int]) -> str:
    try:
        maker(images=[Image.new("RGB", size, (127, 127, 127))], return_tensors="pt")
    except MemoryError:
        raise  # of the machine, not of a picture
    # Processors are others' code, and refuse a picture with whatever they meet.
    except Exception as error:
        return words_of(error)
    return ""


def words_of(error: BaseException) -> str:
    """An exception's first line, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
