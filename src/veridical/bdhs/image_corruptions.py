"""Pictures of which something is gone: covered in parts, turned, or black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from veridical.runtime.randomness import generator

BLOCK = 14
"""Side of a block in pixels: a patch of CLIP's ViT-L/14 (OPA-DPO, Yang et al. 2025)."""

COVERED = 0.3
"""Share of the pixels or blocks that are covered (OPA-DPO)."""

QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def cover_pixels(picture: Image.Image, covered: float, seed: int, name: str) -> Image.Image:
    """Some pixels take the picture's mean color.

    OPA-DPO's code takes the mean that the image processor subtracts; a file has no processor.

    Args:
        picture: RGB, of the size that the model sees (`shrunk`): pixels of a large photograph would
            be averaged away.
        covered: share of the pixels, at least one.
        seed: of the draw.
        name: of the picture; the same seed and name cover the same pixels.
    """
    return _covered(picture, 1, covered, generator(seed, "pixels", name))


def cover_blocks(picture: Image.Image, covered: float, seed: int, name: str) -> Image.Image:
    """Some blocks of 14 x 14 pixels take the picture's mean color; those at the edge are smaller.

    Args:
        picture: RGB, of the size that the model sees (`shrunk`).
        covered: share of the blocks, at least one.
        seed: of the draw.
        name: of the picture; the same seed and name cover the same blocks.
    """
    return _covered(picture, BLOCK, covered, generator(seed, "blocks", name))


def turned(picture: Image.Image, seed: int, name: str) -> Image.Image:
    """A picture turned by 90, 180 or 270 degrees at random, without empty corners (our choice).

    Args:
        picture: any picture.
        seed: of the draw.
        name: of the picture; the same seed and name turn it alike.
    """
    return picture.transpose(QUARTERS[int(generator(seed, "rotate", name).integers(3))])


def black(picture: Image.Image) -> Image.Image:
    """A black picture of the same size."""
    return Image.new("RGB", picture.size)


def _covered(
    picture: Image.Image, side: int, covered: float, draw: np.random.Generator
) -> Image.Image:
    pixels = np.asarray(picture.convert("RGB"))
    rows, columns = (-(-length // side) for length in pixels.shape[:2])
    hidden = np.zeros(rows * columns, dtype=bool)
    count = max(1, round(covered * len(hidden)))
    hidden[draw.choice(len(hidden), count, replace=False)] = True
    places = hidden.reshape(rows, columns).repeat(side, 0).repeat(side, 1)
    mean: NDArray[np.uint8] = pixels.mean((0, 1)).round().astype(np.uint8)
    shown = places[: pixels.shape[0], : pixels.shape[1], None]
    return Image.fromarray(np.where(shown, mean, pixels))
