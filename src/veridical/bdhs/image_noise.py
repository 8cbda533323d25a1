"""Diffusion noise on a picture, the alternative to masking its tokens.

Noise on the pixels of a large photograph is gone once the model's processor has made it small: it
averages over as many pixels as it shrinks. So noise is drawn at the size that the model sees.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from veridical.runtime.randomness import generator

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, ProcessorMixin

USUAL_VIEW = 336
"""Pixels of the shorter side where no processor says how large a picture is seen (our choice)."""

BLUE_ENOUGH, BLUE_SHARE = 0.02, 0.02
"""How near to blue a pixel of a blue picture is in the right layout, and what share of all values
the picture covers at least: the rest is padding (our choice)."""

_UNREADABLE = (ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError)
"""What others' code raises, and ours where it lays pixels out in a way of its own."""

_views: weakref.WeakKeyDictionary[
    BaseImageProcessor, dict[tuple[int, int], tuple[int, int] | None]
] = weakref.WeakKeyDictionary()
_layouts: weakref.WeakKeyDictionary[BaseImageProcessor, PixelLayout] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class PixelLayout:
    """How an image processor lays pixels out.

    Attributes:
        patch: side of a patch where the last axis is one patch; else None: it is a line of pixels.
        color_last: whether a pixel's three values are neighbors.
    """

    patch: int | None
    color_last: bool

    def read(self, values: Tensor) -> Tensor:
        """Shape: (views, parts of a view, 3, height, width), whatever the processor made.

        Raises:
            RuntimeError: the shape is not of this layout.
        """
        if self.patch is not None:
            colors = (-1, self.patch, self.patch, 3) if self.color_last else (
                3, -1, self.patch, self.patch)  # fmt: skip
            values = values.unflatten(-1, colors)
            # Frames: a picture is as many equal ones.
            values = values.select(-4, 0) if self.color_last else values.select(-3, 0)
        values = values.movedim(-1, -3) if self.color_last else values
        if values.dim() < 3:
            raise RuntimeError("a picture has three axes")
        parts = values.shape[-4] if self.patch is not None and values.dim() > 3 else 1
        return values.reshape(-1, parts, *values.shape[-3:])


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


def shrunk(image: Image.Image, processor: ProcessorMixin | None = None) -> Image.Image:
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


def view_size(processor: ProcessorMixin, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height, in pixels, of the smallest view that a processor makes of a whole picture.

    Where it cannot be measured, the size at which the shorter side has `USUAL_VIEW` pixels.
    """
    measured = measured_view(processor, size)
    if measured is not None:
        return measured
    usual = max(1.0, min(size) / USUAL_VIEW)
    return round(size[0] / usual), round(size[1] / usual)


def measured_view(processor: ProcessorMixin, size: tuple[int, int]) -> tuple[int, int] | None:
    """`view_size` as measured; None where a processor is missing or its values cannot be read.

    Found by experiment, for any family: a picture that brightens evenly to the right (red) and
    downwards (green) goes through the image processor, and the steps between neighboring values
    tell how large the whole picture is there. A thumbnail beside tiles counts.
    """
    maker = getattr(processor, "image_processor", None)
    if maker is None:
        return None
    known = _views.setdefault(maker, {})
    if max(size) == 1:
        return size
    if size not in known:
        try:
            known[size] = _measured_view(maker, size)
        except _UNREADABLE:
            known[size] = None
    return known[size]


def deviation_left(
    processor: ProcessorMixin, clean: Image.Image, noisy: Image.Image
) -> float | None:
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
    except _UNREADABLE:
        return None
    moved = values[1] - values[0]
    moved = moved[moved != 0]  # padding stays what it was
    return float(moved.square().mean().sqrt()) if len(moved) else 0.0


def _measured_view(maker: BaseImageProcessor, size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    ramp = np.full((height, width, 3), 255, dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()[None, :]
    ramp[..., 1] = np.linspace(0, 255, height).round()[:, None]
    views = _channels(maker, Image.fromarray(ramp))
    inside = views[:, :, 2] > 0.95  # blue is full wherever the picture is, padding is not
    steps = [
        _largest_step(views[:, :, 0], inside, -1),
        _largest_step(views[:, :, 1], inside, -2),
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


def _channels(maker: BaseImageProcessor, image: Image.Image) -> Tensor:
    """What an image processor makes, in pixel values from 0 to 1.

    Returns:
        Shape: (views, parts of a view, 3, height, width); a part is a patch, or the whole view.

    Raises:
        ValueError: pixels are laid out in an unknown way.
    """
    if maker not in _layouts:
        _layouts[maker] = _found_layout(maker)
    return _pixel_values(maker, _layouts[maker].read(_made(maker, image)))


def _found_layout(maker: BaseImageProcessor) -> PixelLayout:
    """The layout in which a blue picture comes out blue."""
    values = _made(maker, Image.new("RGB", (64, 64), (0, 0, 255)))
    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    shares: dict[PixelLayout, float] = {}
    length = values.shape[-1]
    sides = [math.isqrt(length // (3 * frames)) for frames in (1, 2)]
    fitting = [side for side, frames in zip(sides, (1, 2), strict=True)
               if side and 3 * frames * side**2 == length]  # fmt: skip
    for layout in (PixelLayout(side, last) for side in (None, *fitting) for last in (False, True)):
        try:
            pixels = _pixel_values(maker, layout.read(values))
        except (RuntimeError, IndexError):
            continue
        if pixels.shape[2] == 3:
            near = (pixels - blue).abs().amax(2) < BLUE_ENOUGH
            shares[layout] = float(near.float().mean())
    best = max(shares, key=lambda layout: shares[layout], default=None)
    if best is None or shares[best] < BLUE_SHARE:
        raise ValueError("pixels are laid out in an unknown way")
    return best


def _made(maker: BaseImageProcessor, image: Image.Image) -> Tensor:
    return torch.as_tensor(maker(images=[image], return_tensors="pt")["pixel_values"]).float()


def _pixel_values(maker: BaseImageProcessor, values: Tensor) -> Tensor:
    """Undo the normalization. Shape, before and after: (..., 3, height, width)."""
    if not getattr(maker, "do_normalize", False):
        return values
    mean, std = (torch.tensor(getattr(maker, f"image_{n}")) for n in ("mean", "std"))
    return values * std.view(3, 1, 1) + mean.view(3, 1, 1)
