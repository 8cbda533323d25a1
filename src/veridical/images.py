"""Opening images: upright RGB whatever the file holds, or a reason why not."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from veridical.errors import UserError

# Formats whose decoders are Pillow's own: EPS, for one, would start Ghostscript on a stranger's
# file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PIXEL_LIMIT = 89_478_485  # Pillow's own default, kept even if somebody switched Pillow's off

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more, so that C:\ is none


class ImageError(ValueError):
    """Why an image cannot be used, as half a sentence that a row number can be put before."""


def open_image(source: Path | str | bytes | Image.Image) -> Image.Image:
    """Decode an image wholly, as upright RGB.

    The EXIF orientation is applied; grey, CMYK, palette and 16-bit images are converted, and
    what is transparent is put on white (our choice: what a page would show).

    Args:
        source: a file, the bytes of one, or an image that is open already.

    Raises:
        UserError: the image is missing, is not whole, is of no allowed format (`FORMATS`) or has
            more pixels than Pillow's decompression bomb limit.
    """
    try:
        return decode_image(source)
    except ImageError as problem:
        name = source if isinstance(source, (str, Path)) else "An image in memory"
        raise UserError(f"{name}: {problem}. Give a whole PNG, JPEG or WebP file.") from problem


def decode_image(source: Path | str | bytes | Image.Image) -> Image.Image:
    """`open_image` for those who report by row.

    Raises:
        ImageError: as for `open_image`.
    """
    try:
        if isinstance(source, Image.Image):
            return _upright_rgb(source)
        if isinstance(source, bytes):
            with _open_within_limit(io.BytesIO(source)) as image:
                return _upright_rgb(image)
        with Path(source).open("rb") as file, _open_within_limit(file) as image:
            return _upright_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("the file does not exist") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image of an allowed format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {PIXEL_LIMIT:,} pixels (decompression bomb)") from error
    # Decoders meet broken files with whatever exception the broken byte leads to.
    except Exception as error:
        raise ImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def resolve_image_path(reference: str, root: Path) -> Path:
    """The file under `root` that a row's text names; symbolic links count as where they lead.

    Raises:
        ImageError: it is a URL, leads out of `root`, or is no file.
    """
    if not reference.strip() or "\0" in reference:
        raise ImageError("the image path is empty or holds a NUL character")
    if _URL.match(reference):
        raise ImageError(f"{reference[:80]} is a URL; images are never fetched: save it first")
    try:
        path = (root / reference).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ImageError(f"{reference} leads out of {root}; set images_root to a folder above")
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # too long a name; links that lead in a circle
        raise ImageError(f"{reference[:80]} cannot be followed ({error})") from error
    if not is_file:
        raise ImageError(f"{reference} is no file under {root}")
    return path


def _open_within_limit(file: io.BufferedReader | io.BytesIO) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    # Pillow only warns between its limit and twice that.
    if image.width * image.height > PIXEL_LIMIT:
        raise ImageError(f"more than {PIXEL_LIMIT:,} pixels (decompression bomb)")
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Converting 16 bits to 8 clips in Pillow, and nearly all would be white.
        values = np.asarray(image).astype(np.int64)
        shift = 8 if values.size and values.max() > 255 else 0
        image = Image.fromarray(np.clip(values >> shift, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        page = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(page, opaque).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class RowImage:
    """An image of a data set's row, decoded when it is needed and not before."""

    rows: Any
    row: int
    number: int
    column: str = "images"

    def open(self) -> Image.Image:
        """Upright RGB."""
        image: Image.Image = self.rows[self.row][self.column][self.number]
        return image

    def content(self) -> bytes:
        """The bytes of its file.

        Raises:
            UserError: its file is gone.
        """
        row = self.rows.with_format("arrow")[self.row].to_pylist()[0]
        raw = row[self.column][self.number]
        try:
            inside: bytes | None = raw["bytes"]
            return Path(raw["path"]).read_bytes() if inside is None else inside
        except OSError as error:
            raise UserError(
                f"Image {self.number + 1} of row {self.row + 1} can't be read any more ({error}). "
                "Put it back, or build the rows again."
            ) from error


ImageLike = Path | str | Image.Image | RowImage


def row_images(pictures: Any, row: int, count: int, column: str = "images") -> tuple[RowImage, ...]:
    """The `count` images of a row, none of them decoded yet.

    Args:
        pictures: the rows, with that column alone.
        row: its index.
        count: how many images it has.
        column: `images` or `rejected_images`.
    """
    return tuple(RowImage(pictures, row, number, column) for number in range(count))


def image_key(image: ImageLike) -> str | int:
    """What tells two images apart without opening them: where it is, or the object itself."""
    if isinstance(image, RowImage):
        return f"{image.rows._fingerprint}/{image.column}/{image.row}/{image.number}"
    return id(image) if isinstance(image, Image.Image) else str(image)


def image_bytes_key(image: ImageLike) -> str:
    """A hash of what an image holds, whatever its name."""
    if isinstance(image, RowImage):
        content = image.content()
    elif isinstance(image, Image.Image):
        content = image.tobytes()
    else:
        content = Path(image).read_bytes()
    return hashlib.sha256(content).hexdigest()


def load_image(image: ImageLike) -> Image.Image:
    """Upright RGB, from wherever the image is."""
    return image.open() if isinstance(image, RowImage) else open_image(image)
