"""Pictures show the scene, are the same every time, and faded objects are faint."""

from __future__ import annotations

import numpy as np

from veridical.world.drawing import (
    CELL_PIXELS,
    GRAIN,
    IMAGE_PIXELS,
    STROKES_OF_KIND,
    draw_scene,
    render_array,
)
from veridical.world.scenes import COLOURS, KINDS, SETTINGS, Scene, Thing, sample_scenes


def _scene(setting: str = "park", *things: Thing) -> Scene:
    return Scene("same grain", setting, things)


def test_every_kind_has_its_own_shape() -> None:
    assert set(STROKES_OF_KIND) == set(KINDS)
    pictures = [render_array(_scene("park", Thing(kind, "red", 4, False))) for kind in KINDS]
    for first in range(len(KINDS)):
        for second in range(first):
            different = np.any(pictures[first] != pictures[second], axis=-1).sum()
            assert different > 40, (KINDS[first], KINDS[second])


def test_colours_and_settings_differ() -> None:
    tree = [render_array(_scene("park", Thing("tree", colour, 0, False))) for colour in COLOURS]
    assert len({picture.tobytes() for picture in tree}) == len(COLOURS)
    empty = [render_array(_scene(setting)).mean(axis=(0, 1)) for setting in SETTINGS]
    for first in range(len(SETTINGS)):
        for second in range(first):
            assert np.abs(empty[first] - empty[second]).max() > 5


def test_an_object_stays_in_its_cell_and_faded_ones_are_faint() -> None:
    empty = render_array(_scene()).astype(float)
    change = {}
    for faded in (False, True):
        picture = render_array(_scene("park", Thing("bus", "blue", 5, faded))).astype(float)
        change[faded] = np.abs(picture - empty)
        outside = change[faded].copy()
        outside[CELL_PIXELS : 2 * CELL_PIXELS, 2 * CELL_PIXELS :] = 0
        assert outside.max() == 0
    assert 0 < change[True].sum() < 0.3 * change[False].sum()


def test_same_scene_same_picture() -> None:
    scene = sample_scenes("prior", 1, 3)[0]
    picture = draw_scene(scene)
    assert picture.size == (IMAGE_PIXELS, IMAGE_PIXELS) and picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), render_array(scene))
    grain = render_array(Scene("a", "park", ())).astype(float) - render_array(
        Scene("b", "park", ())
    )
    assert 0.8 * GRAIN < grain.std() / 2**0.5 < 1.1 * GRAIN
