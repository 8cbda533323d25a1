"""The noise that BDHS adds is measured for every family's processor, and is left after it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from veridical.bdhs.image_noise import add_noise, deviation_left, measured_view, shrunk
from veridical.models.policy import Policy


def test_noise_on_a_large_picture_reaches_the_model(built: Policy) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (4, 4, 3), dtype=np.uint8)
    large = Image.fromarray(pixels).resize((800, 600), Image.Resampling.BICUBIC)
    view = measured_view(built.processor, large.size)
    assert view is not None and max(view) < 200
    clean = shrunk(large, built.processor)
    left = deviation_left(built.processor, clean, add_noise(clean, 500, 0, "a"))
    lost = deviation_left(built.processor, large, add_noise(large, 500, 0, "a"))
    assert left is not None and left > 0.2
    assert lost is not None and lost < left  # else there is nothing to test
