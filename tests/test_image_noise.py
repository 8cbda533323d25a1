"""Noise hides as much of a large photograph as of a small one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from veridical.image_noise import USUAL_VIEW, add_noise, deviation_left, shrunk, view_size

SQUARE = {"height": 96, "width": 96}
PINPOINTS = [[96, 192], [192, 96], [192, 192]]


def processor(name: str) -> Any:
    if name == "one view":
        maker: Any = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=SQUARE)
    else:
        maker = LlavaNextImageProcessorPil(
            size={"shortest_edge": 96}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
        )
    return SimpleNamespace(image_processor=maker)


def picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(60, 200, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", ["one view", "tiles and a thumbnail"])
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
    assert deviation_left(other, picture((9, 9)), picture((9, 9))) is None
