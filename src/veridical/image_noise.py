"""Diffusion noise on a picture, the alternative to masking its tokens.

Noise on the pixels of a large photograph is gone once the model's processor has made it small: it
averages over as many pixels as it shrinks. So noise is drawn at the size that the model sees.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from veridical.randomness import generator

USUAL_VIEW = 336
"""Pixels of the shorter side where no processor says how large a picture is seen (our choice)."""

_views: weakref.WeakKeyDictionary[Any, dict[tuple[int, int], tuple[int, int]]] = (
    weakref.WeakKeyDictionary()
)


def add_noise(image: Image.Image, steps: int, seed: int, key: str) -> Image.Image:
    """x(N) = sqrt(a_N) x + sqrt(1 - a_N) e on pixel values in [0, 1], before any preprocessing.

    The schedule is b_k = sigmoid(-6 + 12 k / 1000) (0.5e-2 - 1e-5) + 1e-5 and a_N the product of
    1 - b_k (Amirloo et al. 2024, section 3.3). Values are clipped to [0, 1]: without that, what
    leaves the range wraps round (our choice).

    Args:
        image: RGB, already of the size that the model sees (`shrunk`).
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


def shrunk(image: Image.Image, processor: Any = None) -> Image.Image:
    """The picture at the smallest size at which a model sees it; never enlarged.

    Args:
        image: RGB.
        processor: the model's; without one the shorter side becomes `USUAL_VIEW` at most.
    """
    width, height = view_size(processor, image.size)
    smaller = (min(width, image.width), min(height, image.height))
    if smaller == image.size:
        return image
    return image.resize(smaller, Image.Resampling.BICUBIC, reducing_gap=3.0)


def view_size(processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height, in pixels, of the smallest view that a processor makes of a whole picture.

    Found by experiment, for any family: a picture that brightens evenly to the right (red) and
    downwards (green) goes through the image processor, and the steps between neighboring values
    tell how large the whole picture is there. A thumbnail beside tiles counts.
    """
    maker = getattr(processor, "image_processor", None)
    usual = max(1.0, min(size) / USUAL_VIEW)
    if maker is None:
        return round(size[0] / usual), round(size[1] / usual)
    known = _views.setdefault(maker, {})
    if max(size) == 1:
        return size
    if size not in known:
        try:
            known[size] = _measured_view(maker, size)
        # Processors are others' code, and some lay pixels out in ways of their own.
        except (ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError):
            known[size] = round(size[0] / usual), round(size[1] / usual)
    return known[size]


def deviation_left(processor: Any, clean: Image.Image, noisy: Image.Image) -> float | None:
    """How far noise moves what the model is given, in pixel values from 0 to 1.

    Args:
        processor: the model's.
        clean: the picture before noise was added.
        noisy: the same picture with noise, of the same size.

    Returns:
        The root of the mean square over what the picture covers; None where the processor's values
        cannot be read.
    """
    maker = getattr(processor, "image_processor", None)
    if maker is None:
        return None
    try:
        values = [_channels(maker, image) for image in (clean, noisy)]
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):
        return None
    moved = values[1] - values[0]
    moved = moved[moved != 0]  # padding stays what it was
    return float(moved.square().mean().sqrt()) if len(moved) else 0.0


def _measured_view(maker: Any, size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    ramp = np.full((height, width, 3), 255, dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()[None, :]
    ramp[..., 1] = np.linspace(0, 255, height).round()[:, None]
    views = _channels(maker, Image.fromarray(ramp))
    inside = views[:, 2] > 0.95  # blue is full wherever the picture is, padding is not
    steps = [
        _largest_step(views[:, 0], inside, -1),
        _largest_step(views[:, 1], inside, -2),
    ]
    # A ramp of n pixels has n - 1 steps. A side of one pixel has none, here or in the view.
    known = {
        number: side / (side - 1) / step
        for number, (side, step) in enumerate(zip(size, steps, strict=True))
        if side > 1 and step > 0
    }
    if not known:
        raise ValueError("pixels are laid out in an unknown way")
    scale = max(view / size[number] for number, view in known.items())
    found = [known.get(number, scale * side) for number, side in enumerate(size)]
    near = [abs(view - side) < 0.03 * side for view, side in zip(found, size, strict=True)]
    if all(near):
        return size
    return max(1, round(found[0])), max(1, round(found[1]))


def _largest_step(values: Tensor, inside: Tensor, axis: int) -> float:
    """The mean step between neighbors along an axis, of the view where it is largest.

    A step far back is none: there one row of patches ends, and the next begins beside it. 0 where
    there are no steps at all.
    """
    length = values.shape[axis]
    both = inside.narrow(axis, 1, length - 1) & inside.narrow(axis, 0, length - 1)
    step = values.diff(dim=axis)
    both = both & (step > -0.1)
    step = step * both
    count = both.flatten(1).sum(1)
    if not count.any():
        return 0.0
    used = count > count.max() / 4  # a sliver of the picture tells little
    means = step.flatten(1).sum(1)[used] / count[used]
    # Patches of one view differ by rounding; tiles and thumbnails differ by far more.
    return float(means.mean() if len(means) > 64 else means.max())


def _channels(maker: Any, image: Image.Image) -> Tensor:
    """What an image processor makes, in pixel values from 0 to 1. Shape: (views, 3, h, w)."""
    values = torch.as_tensor(maker(images=[image], return_tensors="pt")["pixel_values"]).float()
    if values.dim() == 2:  # Qwen's: a row a patch, of channels, frames, height and width
        side = int(maker.patch_size)
        values = values.view(len(values), 3, -1, side, side)[:, :, 0]
    elif values.dim() < 4 or values.shape[-3] != 3:
        raise ValueError("pixels are laid out in an unknown way")
    values = values.reshape(-1, *values.shape[-3:])
    if getattr(maker, "do_normalize", False):
        mean, std = (torch.tensor(getattr(maker, f"image_{n}")) for n in ("mean", "std"))
        values = values * std.view(3, 1, 1) + mean.view(3, 1, 1)
    return values
