"""A small part of a picture in its place: most of what an answer speaks of is gone from it."""

from __future__ import annotations

import math

from PIL import Image

from veridical.runtime.randomness import generator

LEAST, MOST = 0.01, 0.2
"""Share of the picture's area that is kept (mDPO, Wang et al. 2024)."""

WIDEST = 4 / 3
"""Ratio of a part's sides, at most, as torchvision's random crops have it."""


def cropped(picture: Image.Image, seed: int, name: str) -> Image.Image:
    """A random part of a picture, enlarged to the picture's size.

    Args:
        picture: any picture.
        seed: of the draw.
        name: of the picture; the same seed and name give the same part.
    """
    draw = generator(seed, "crop", name)
    share, stretch = draw.uniform(LEAST, MOST), draw.uniform(-1, 1) * math.log(WIDEST) / 2
    side = math.sqrt(share * picture.width * picture.height)
    width = min(picture.width, max(1, round(side * math.exp(stretch))))
    height = min(picture.height, max(1, round(side * math.exp(-stretch))))
    left = int(draw.integers(picture.width - width + 1))
    top = int(draw.integers(picture.height - height + 1))
    part = picture.crop((left, top, left + width, top + height))
    return part.resize(picture.size, Image.Resampling.BICUBIC)
