"""Pixels as a file stores them become upright RGB in 8 bits, or a reason why they cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

EIGHT_BITS = 257
"""16-bit samples that are all multiples of this were 8 bits, scaled to 16 (255 becomes 65535)."""
UNUSED_GRAY, UNUSED_COLOR = 4, 16
"""16-bit samples that all lie in the lowest part in so many are refused (our choices): the top bits
are never used, so the samples may have fewer bits, and what is white cannot be known. Gray images
come from sensors of 14, 12 or 10 bits; color in 16 bits is nearly always scaled, and only what
would be black either way is refused."""
WHITE = 65535
"""White of 16 bits."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_PHOTOMETRIC, _SAMPLE_FORMAT, _BITS = 262, 339, 258
_SIGNED = 2


class ImageError(ValueError):
    """Why an image cannot be used, as half a sentence that a row number can be put before."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, turned as its EXIF orientation says, transparency on white.

    Samples are scaled by the bit depth of the file, never by what the picture happens to hold:
    16 bits by 65535, floating point as 0 to 1 (the convention of TIFF writers).

    Args:
        image: opened, perhaps not loaded yet.

    Raises:
        ImageError: what is black or white in this image cannot be known: integers of 32 bits,
            signed integers, floats outside [0, 1], 16-bit samples that use the lowest part only.
    """
    stored = _raw_modes(image)  # before loading, which forgets it
    deep = image.mode in ("RGB", "RGBA", "LA") and any("16" in mode for mode in stored)
    rounded = _is_deep_ppm(image)
    _refuse_signed(image)
    white, own_white = _white_of(image), _ppm_white(image)
    image.load()
    turn = _TURNS.get(orientation(image))  # after loading, which turns some TIFF by itself
    if deep or rounded:
        parts = UNUSED_GRAY if image.mode == "LA" else UNUSED_COLOR
        # Of a PNG Pillow keeps the high bytes; samples of a PPM it rounds.
        _require_full_range(_highest_seen(image) - rounded / 2, 255, parts)
    transparent = _transparent_pixels(image, stored, deep)
    plain = _over_white(image) if white is None else _from_samples(image, white, own_white)
    if transparent is not None:
        pixels = np.array(plain)
        pixels[transparent] = 255
        plain = Image.fromarray(pixels)
    if turn is None:
        return plain
    turned = plain.transpose(turn)
    for name in _ORIENTED:
        turned.info.pop(name, None)  # or the next one to open it would turn it again
    return turned


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data are broken."""
    # A picture whose EXIF block cannot be read is shown as it lies by every viewer.
    with contextlib.suppress(Exception):
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _ppm_white(image: Image.Image) -> int:
    """The white that a PPM or PGM names; 0 for another file."""
    tiles = getattr(image, "tile", None) if image.format == "PPM" else None
    arguments = tiles[0][3] if tiles else 0
    if arguments == "I;16B":
        return WHITE  # samples that Pillow takes as they are
    last = arguments[-1] if isinstance(arguments, tuple) and arguments else 0
    return last if isinstance(last, int) else 0


def _is_deep_ppm(image: Image.Image) -> bool:
    """Whether a color PPM names 65535 as its white, as writers do whatever the samples hold."""
    return image.mode == "RGB" and _ppm_white(image) == WHITE


def _refuse_signed(image: Image.Image) -> None:
    kinds = np.atleast_1d(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, 1))
    if _SIGNED in kinds and image.mode != "I":  # whose own refusal says so too
        raise ImageError(_unknown_white("signed integers"))


def _unknown_white(kind: str) -> str:
    return (
        f"its samples are {kind}, and what is white among them cannot be known; save it with 8 "
        "or 16 bits"
    )


def _raw_modes(image: Image.Image) -> list[str]:
    """How the file stores samples, in Pillow's words ("RGB;16B"); empty for one in memory."""
    found = []
    for tile in getattr(image, "tile", None) or []:
        arguments = tile[3] if len(tile) > 3 else ""
        first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        found.append(first if isinstance(first, str) else "")
    return found


def _highest_seen(image: Image.Image) -> float:
    """The highest colour sample that is not wholly transparent."""
    samples = np.asarray(image)
    if image.mode == "RGB":
        return float(samples.max(initial=0))
    return float(samples[samples[..., -1] > 0][:, :-1].max(initial=0))


def _white_of(image: Image.Image) -> float | None:
    """The sample that stands for white where Pillow keeps samples as they are; else None.

    Raises:
        ImageError: it cannot be known.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        return 1.0
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS, (16,))
        return float(2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1)
    if image.mode == "I":
        # Earlier versions of Pillow open 16-bit PNG this way; PPM is scaled to 16 bits by Pillow.
        if image.format in ("PNG", "PPM"):
            return 65535.0
        signed = _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
        kind = "signed integers" if signed else "integers of 32 bits"
        raise ImageError(_unknown_white(kind))
    return None


def _from_samples(image: Image.Image, white: float, own_white: int) -> Image.Image:
    samples = np.asarray(image).astype(np.float32)
    lowest, highest = samples.min(initial=white), samples.max(initial=0)
    if image.mode == "F":
        # NaN fails every comparison.
        if not (lowest >= -1e-3 and highest <= 1 + 1e-3):
            raise ImageError(
                f"its samples are floats from {lowest:g} to {highest:g}, and only 0 to 1 is known "
                "to be black to white; scale them, or save it with 8 bits"
            )
    elif white == WHITE and own_white in (0, WHITE):  # below that, a PGM says what its white is
        eight = image.mode == "I;16" and not (np.asarray(image) % EIGHT_BITS).any()
        if not eight:  # a dark picture, of which white is known
            _require_full_range(highest, white, UNUSED_GRAY)
    scaled = (samples / white).clip(0, 1)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # "white is zero"
        scaled = 1 - scaled
    return Image.fromarray((scaled * 255).round().astype(np.uint8)).convert("RGB")


def _require_full_range(highest: float, white: float, parts: int) -> None:
    if 0 < highest < (white + 1) / parts:
        raise ImageError(
            f"it has 16 bits a sample but none above {highest / white:.1%} of their range, so it "
            "may hold 12 bits (10, or 14) and would come out nearly black; scale it to the whole "
            "range, or save it with 8 bits"
        )


def _transparent_pixels(image: Image.Image, stored: Sequence[str], deep: bool) -> Any:
    """True at pixels of the one color that a PNG without alpha calls transparent, or None."""
    color = image.info.get("transparency")
    if color is None or isinstance(color, bytes) or image.mode[:1] not in ("1", "L", "R", "I"):
        return None
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        return None
    wanted, samples = np.asarray(color), np.asarray(image)
    if deep:
        wanted = wanted >> 8  # Pillow kept the high bytes
    elif "L;2" in stored or "L;4" in stored:
        wanted = wanted * (85 if "L;2" in stored else 17)  # Pillow scaled the samples
    elif image.mode == "1":
        wanted = wanted > 0
    same: Any = samples == wanted
    return same.all(-1) if same.ndim == 3 else same


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    through = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    if through:
        image = image.convert(through)
    if image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and image.has_transparency_data):
        opaque = image.convert("RGBA")
        page = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(page, opaque).convert("RGB")
    return image.convert("RGB")
