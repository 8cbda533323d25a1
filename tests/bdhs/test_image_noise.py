"""Noise hides as much of a large photograph as of a small one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from veridical.bdhs.image_noise import (
    USUAL_VIEW,
    add_noise,
    deviation_left,
    measured_view,
    shrunk,
    view_size,
)

SQUARE = {"height": 96, "width": 96}
PINPOINTS = [[96, 192], [192, 96], [192, 192]]


def processor(name: str) -> Any:
    maker: Any
    if name == "rows of patches, color last":
        maker = Gemma4ImageProcessorPil(max_soft_tokens=70, patch_size=4, pooling_kernel_size=2)
    elif name == "one view":
        maker = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=SQUARE)
    else:
        maker = LlavaNextImageProcessorPil(
            size={"shortest_edge": 96}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
        )
    return SimpleNamespace(image_processor=maker)


def picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(60, 200, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "name", ["one view", "tiles and a thumbnail", "rows of patches, color last"]
)
@pytest.mark.parametrize("size", [(96, 96), (500, 500), (1600, 1200), (90, 700)])
def test_noise_is_left_whatever_the_size(name: str, size: tuple[int, int]) -> None:
    clean = shrunk(picture(size), processor(name))
    noisy = add_noise(clean, 500, 0, "a")
    left = deviation_left(processor(name), clean, noisy)
    assert left is not None and left > 0.25
    if min(size) > 400:
        # On the pixels of the file, as a check that this test can fail.
        large = picture(size)
        lost = deviation_left(processor(name), large, add_noise(large, 500, 0, "a"))
        assert lost is not None and lost < 0.25


def test_the_smallest_view_of_the_whole_picture_is_found() -> None:
    assert view_size(processor("one view"), (800, 600)) == pytest.approx((128, 96), abs=2)
    assert view_size(processor("tiles and a thumbnail"), (800, 800)) == pytest.approx(
        (96, 96), abs=2
    )
    # 280 patches of 4 x 4 pixels hold 20 x 12.
    rows = processor("rows of patches, color last")
    assert view_size(rows, (800, 500)) == pytest.approx((80, 48), abs=2)
    assert view_size(None, (4000, 3000)) == (448, USUAL_VIEW)


def test_small_pictures_are_left_as_they_are() -> None:
    small = picture((40, 30))
    assert shrunk(small, processor("one view")) is small
    assert shrunk(small) is small


def test_a_processor_in_its_own_layout_gets_the_usual_size() -> None:
    class Other:
        def __call__(self, **_: Any) -> dict[str, Any]:
            return {"pixel_values": np.zeros((7, 5))}

    other = SimpleNamespace(image_processor=Other())
    assert view_size(other, (672, 672)) == (USUAL_VIEW, USUAL_VIEW)
    assert measured_view(other, (672, 672)) is None
    assert deviation_left(other, picture((9, 9)), picture((9, 9))) is None


@pytest.mark.parametrize("color_last", [False, True])
@pytest.mark.parametrize("frames", [1, 2])
def test_rows_of_patches_are_read_in_either_order_of_colors(color_last: bool, frames: int) -> None:
    class Rows:
        do_normalize = True
        image_mean, image_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

        def __call__(self, images: list[Image.Image], **_: Any) -> dict[str, Any]:
            pixels = np.asarray(images[0].resize((64, 48), Image.Resampling.BICUBIC)) / 255
            patches = (pixels - self.image_mean) / self.image_std
            patches = patches.reshape(6, 8, 8, 8, 3).swapaxes(1, 2).reshape(48, 1, 8, 8, 3)
            patches = patches.repeat(frames, axis=1)
            if not color_last:
                patches = np.moveaxis(patches, -1, 1)
            rows = np.zeros((60, frames * 192))
            rows[:48] = patches.reshape(48, -1)
            return {"pixel_values": rows[None]}

    rows = SimpleNamespace(image_processor=Rows())
    assert measured_view(rows, (640, 480)) == pytest.approx((64, 48), abs=2)
    white, black = (Image.new("RGB", (64, 48), color) for color in ("white", "black"))
    assert deviation_left(rows, black, white) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["one view", "tiles and a thumbnail"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 500), (31, 2000), (3000, 2)])
def test_the_narrowest_pictures_get_noise_too(name: str, size: tuple[int, int]) -> None:
    clean = shrunk(picture(size), processor(name))
    assert 1 <= clean.width <= size[0] and 1 <= clean.height <= size[1]
    left = deviation_left(processor(name), clean, add_noise(clean, 500, 0, "a"))
    assert left is not None and left > 0.1


class Thumbnail:
    """Makes the longer side 64 pixels and keeps the shape, in one strip of patches if asked to."""

    do_normalize = False

    def __init__(self, patch: int | None = None) -> None:
        self.patch = patch

    def __call__(self, images: list[Image.Image], **_: Any) -> dict[str, Any]:
        (image,) = images
        scale = 64 / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC)) / 255
        values = pixels.transpose(2, 0, 1)
        if self.patch is not None:
            rows = np.split(values, values.shape[1] // self.patch, axis=1)
            values = np.concatenate(rows, axis=2)
        return {"pixel_values": values[None]}


@pytest.mark.parametrize("size", [(31, 2000), (2000, 31), (20, 5000)])
def test_a_side_that_becomes_one_pixel_is_shrunk_like_the_other(size: tuple[int, int]) -> None:
    thumbnail = SimpleNamespace(image_processor=Thumbnail())
    view = view_size(thumbnail, size)
    assert max(view) == pytest.approx(64, abs=2)
    assert min(view) <= 2


def test_rows_of_patches_that_lie_side_by_side_are_told_from_a_wide_picture() -> None:
    strip = SimpleNamespace(image_processor=Thumbnail(patch=8))
    assert view_size(strip, (1600, 1000)) == pytest.approx((64, 40), abs=4)


def test_patches_of_three_crops_are_not_taken_for_three_colors() -> None:
    class Crops:
        def __call__(self, **_: Any) -> dict[str, Any]:
            return {"pixel_values": np.linspace(0.96, 1, 3 * 9 * 588).reshape(3, 9, 588)}

    crops = SimpleNamespace(image_processor=Crops())
    assert view_size(crops, (672, 672)) == (USUAL_VIEW, USUAL_VIEW)
