"""Whether a model's own image processor takes a picture, found before anything depends on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from veridical.data.images import ImageLike, decode_image, size_of
from veridical.data.pixels import ImageError
from veridical.runtime.errors import RefusedRowError, UserError, reason_of
from veridical.runtime.lacking import is_memory_full

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, ProcessorMixin

SHORT, LONG_RATIO, MANY_PIXELS = 64, 4.0, 20_000_000
"""What is tried: pictures with a side below 64 px, longer than four times their width (or the
reverse), or of more than 20 megapixels (our choice). Others are taken without a trial."""

IMAGE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg",
    ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Files of a folder that are its images. HEIF is among them to be refused by name."""

_USUAL = (224, 224)
_known: weakref.WeakKeyDictionary[BaseImageProcessor, dict[tuple[int, int], str]] = (
    weakref.WeakKeyDictionary()
)


def require_images(processor: ProcessorMixin, images: Sequence[ImageLike]) -> None:
    """Refuse a row one of whose images the model's image processor does not take.

    All images are upright RGB, so it depends on their sizes alone. An unusual size is tried once,
    with a gray picture; nothing is decoded.

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


def size_refusal(processor: ProcessorMixin, size: tuple[int, int]) -> str:
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


def _refusal(maker: BaseImageProcessor, size: tuple[int, int]) -> str:
    try:
        maker(images=[Image.new("RGB", size, (127, 127, 127))], return_tensors="pt")
    # Processors are others' code, and refuse a picture with whatever they meet.
    except Exception as error:
        if is_memory_full(error):
            raise  # of the machine, not of a picture
        return reason_of(error)
    return ""


def find_images(folder: Path) -> dict[str, Path]:
    """The images of a folder, by file name without suffix, in order of their names.

    Raises:
        UserError: it is not a folder, holds no image, or two images have one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images. Name one with --images.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(
            f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}). Name the folder itself; "
            "folders in it are not searched."
        )
    found: dict[str, Path] = {}
    for file in files:
        if found.setdefault(file.stem, file) != file:
            raise UserError(
                f"{folder} has both {found[file.stem].name} and {file.name}: the name without "
                "suffix is the image's id and must be unique."
            )
    return found


def refused_files(files: Iterable[Path], load: Callable[[], object]) -> dict[Path, str]:
    """The images that cannot be decoded, or that a processor refuses, and why.

    Args:
        files: the images.
        load: gives the processor; called once, and only if an image is of an unusual size.
    """
    problems, unusual = {}, {}
    for file in files:
        try:
            size = decode_image(file).size
        except ImageError as problem:
            problems[file] = str(problem)
            continue
        if is_unusual(size):
            unusual[file] = size
    processor = load() if unusual else None
    for file, (width, height) in unusual.items():
        reason = size_refusal(processor, (width, height))
        if reason:
            problems[file] = (
                f"{width} x {height} pixels are refused by the model's processor: {reason}"
            )
    return problems
