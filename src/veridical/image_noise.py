"""Diffusion noise on a picture, the alternative to masking its tokens."""

from __future__ import annotations

import numpy as np
from PIL import Image

from veridical.randomness import generator


def add_noise(image: Image.Image, steps: int, seed: int, key: str) -> Image.Image:
    """x(N) = sqrt(a_N) x + sqrt(1 - a_N) e on pixel values in [0, 1], before any preprocessing.

    The schedule is b_k = sigmoid(-6 + 12 k / 1000) (0.5e-2 - 1e-5) + 1e-5 and a_N the product of
    1 - b_k (Amirloo et al. 2024, section 3.3). Values are clipped to [0, 1]: without that, what
    leaves the range wraps round (our choice).

    Args:
        image: RGB.
        steps: N; 0 leaves the image as it is.
        seed: of the run.
        key: names the image and the try.
    """
    if steps == 0:
        return image
    share = kept_signal(steps)
    pixels = np.asarray(image, dtype=np.float64) / 255
    noise = generator(seed, "image noise", key).standard_normal(pixels.shape)
    noisy = np.sqrt(share) * pixels + np.sqrt(1 - share) * noise
    return Image.fromarray((noisy.clip(0, 1) * 255).round().astype(np.uint8))


def kept_signal(steps: int) -> float:
    """a_N: the share of the signal's variance that is left after N steps."""
    k = np.arange(1, steps + 1)
    betas = 1 / (1 + np.exp(6 - 12 * k / 1000)) * (0.5e-2 - 1e-5) + 1e-5
    return float(np.prod(1 - betas))
