"""Pictures of scenes, drawn by our own code: a backdrop, a silhouette in each cell, and grain.

Shapes are tables of strokes on a cell of 24 x 24 units; they are drawn eight times as large and
averaged down, once for each kind and colour.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from veridical.runtime.randomness import generator
from veridical.world.scenes import GRID, Scene

CELL_PIXELS = 24
IMAGE_PIXELS = GRID * CELL_PIXELS
# Standard deviation of the grain, in levels of 0 to 255, and opacity of a faded object.
GRAIN = 18.0
FADED_OPACITY = 0.093
_OVERSAMPLING = 8

RGB = tuple[int, int, int]
Tone = Literal["main", "dark", "light"]
Stroke = tuple[str, Tone, tuple[float, ...]]
FloatImage = npt.NDArray[np.float32]

RGB_OF_COLOUR: dict[str, RGB] = {
    "red": (208, 32, 38),
    "orange": (242, 128, 10),
    "green": (22, 132, 52),
    "blue": (30, 76, 208),
    "purple": (138, 42, 168),
    "black": (40, 40, 46),
}

# Shapes: "ellipse" and "box" take x0, y0, x1, y1; "polygon" its corners; "line" x0, y0, x1, y1
# and a width; "ring" an ellipse's box and a width.
STROKES_OF_KIND: dict[str, tuple[Stroke, ...]] = {
    "tree": (
        ("box", "dark", (10.5, 14, 13.5, 22)),
        ("ellipse", "main", (4, 6, 14, 16)),
        ("ellipse", "main", (10, 6, 20, 16)),
        ("ellipse", "main", (6.5, 2, 17.5, 12)),
    ),
    "bench": (
        ("box", "main", (2, 7, 22, 10)),
        ("box", "main", (2, 13, 22, 16)),
        ("box", "dark", (4, 7, 6, 21)),
        ("box", "dark", (18, 7, 20, 21)),
    ),
    "dog": (
        ("box", "main", (5, 10, 17, 16)),
        ("box", "main", (5, 15, 7.5, 21)),
        ("box", "main", (14, 15, 16.5, 21)),
        ("box", "main", (14.5, 5, 20, 11)),
        ("box", "main", (19, 8, 22.5, 11)),
        ("polygon", "dark", (14, 4, 17, 4, 15.5, 9)),
        ("line", "main", (5.5, 11, 2, 6, 2)),
    ),
    "ball": (
        ("ellipse", "main", (4, 4, 20, 20)),
        ("ring", "light", (8.5, 4, 15.5, 20, 1.4)),
        ("line", "light", (4, 12, 20, 12, 1.4)),
    ),
    "kite": (
        ("polygon", "main", (13, 2, 20, 9, 11, 17, 6, 7)),
        ("line", "dark", (13, 2, 11, 17, 1)),
        ("line", "dark", (6, 7, 20, 9, 1)),
        ("line", "dark", (11, 17, 7, 19, 1)),
        ("line", "dark", (7, 19, 10, 22.5, 1)),
    ),
    "cup": (
        ("ring", "dark", (14, 8, 21, 16, 2)),
        ("box", "main", (4, 6, 17, 19)),
        ("box", "light", (5.5, 7.2, 15.5, 9)),
    ),
    "bottle": (
        ("box", "dark", (10, 1.5, 14, 4)),
        ("box", "main", (10, 4, 14, 9)),
        ("polygon", "main", (10, 8, 14, 8, 17, 12, 17, 22, 7, 22, 7, 12)),
        ("box", "light", (8.5, 14, 15.5, 18)),
    ),
    "pot": (
        ("box", "dark", (1, 11, 23, 13.5)),
        ("polygon", "main", (4, 9, 20, 9, 18.5, 20, 5.5, 20)),
        ("box", "dark", (4, 7, 20, 9.2)),
        ("ellipse", "dark", (10.5, 4, 13.5, 7)),
    ),
    "fork": (
        ("box", "main", (10.5, 9, 13.5, 22.5)),
        ("box", "main", (6.5, 8, 17.5, 11.5)),
        ("box", "main", (6.5, 1.5, 8.7, 9)),
        ("box", "main", (10.9, 1.5, 13.1, 9)),
        ("box", "main", (15.3, 1.5, 17.5, 9)),
    ),
    "apple": (
        ("ellipse", "main", (3.5, 7, 14, 21)),
        ("ellipse", "main", (10, 7, 20.5, 21)),
        ("line", "dark", (12, 9, 13, 3, 1.6)),
        ("ellipse", "dark", (13, 2.5, 18, 5.5)),
    ),
    "car": (
        ("polygon", "main", (6.5, 6, 15.5, 6, 18.5, 11, 4.5, 11)),
        ("box", "main", (1.5, 11, 22.5, 16.5)),
        ("polygon", "light", (7.5, 7.2, 14.8, 7.2, 16.6, 10.6, 6.4, 10.6)),
        ("ellipse", "dark", (3.5, 13.5, 9, 19)),
        ("ellipse", "dark", (15, 13.5, 20.5, 19)),
    ),
    "sign": (
        ("box", "dark", (11, 12, 13, 22.5)),
        ("polygon", "main", (8, 1.5, 16, 1.5, 20, 5.5, 20, 10, 16, 14, 8, 14, 4, 10, 4, 5.5)),
        ("box", "light", (6.5, 6.3, 17.5, 9.2)),
    ),
    "bus": (
        ("box", "main", (2, 3, 22, 18)),
        ("box", "light", (3.5, 5, 7.5, 10)),
        ("box", "light", (9, 5, 13.5, 10)),
        ("box", "light", (15, 5, 20.5, 10)),
        ("ellipse", "dark", (4, 15, 9, 21)),
        ("ellipse", "dark", (15, 15, 20, 21)),
    ),
    "lamp": (
        ("box", "main", (11, 8, 13, 21)),
        ("polygon", "main", (8, 2, 16, 2, 19, 9, 5, 9)),
        ("box", "dark", (7, 20, 17, 22.5)),
    ),
    "bicycle": (
        ("ring", "main", (1, 11, 10.5, 20.5, 1.8)),
        ("ring", "main", (13.5, 11, 23, 20.5, 1.8)),
        ("line", "main", (6, 16, 9.5, 8, 1.6)),
        ("line", "main", (9.5, 9, 16, 9, 1.6)),
        ("line", "main", (18, 16, 15.5, 6, 1.6)),
        ("line", "main", (6, 16, 12, 16, 1.6)),
        ("line", "main", (12, 16, 16, 9, 1.6)),
        ("line", "dark", (13.5, 5.5, 17.5, 5.5, 1.8)),
        ("line", "dark", (7.5, 7.5, 11.5, 7.5, 1.8)),
    ),
    "boat": (
        ("polygon", "main", (2, 15, 22, 15, 18, 21, 6, 21)),
        ("box", "dark", (11, 2, 12.4, 15)),
        ("polygon", "main", (13.4, 3, 20.5, 13, 13.4, 13)),
        ("polygon", "light", (10, 5, 10, 13, 4.5, 13)),
    ),
    "fish": (
        ("ellipse", "main", (2, 6.5, 17, 17.5)),
        ("polygon", "main", (14.5, 12, 22.5, 6, 22.5, 18)),
        ("ellipse", "light", (4.5, 9, 7.5, 12)),
        ("polygon", "dark", (9, 12, 13, 10, 13, 14)),
    ),
    "umbrella": (
        ("line", "dark", (12, 3, 12, 22.5, 1.6)),
        ("pie", "main", (1.5, 3, 22.5, 23)),
        ("line", "light", (12, 4, 8, 12.5, 1)),
        ("line", "light", (12, 4, 16, 12.5, 1)),
    ),
    "bucket": (
        ("ring", "dark", (4.5, 2, 19.5, 15, 1.4)),
        ("polygon", "main", (3.5, 8.5, 20.5, 8.5, 17.5, 22, 6.5, 22)),
        ("ellipse", "dark", (3.5, 6.8, 20.5, 10.4)),
    ),
    "shell": (
        ("polygon", "main", (12, 21.5, 2, 11, 4, 6.5, 8, 4, 12, 3, 16, 4, 20, 6.5, 22, 11)),
        ("line", "light", (12, 20, 5.5, 8, 1.2)),
        ("line", "light", (12, 20, 12, 4.5, 1.2)),
        ("line", "light", (12, 20, 18.5, 8, 1.2)),
        ("box", "main", (8.5, 19.5, 15.5, 22.5)),
    ),
}

# Backdrops are horizontal bands (share of the height where each ends, colour) with a few boxes.
BANDS_OF_SETTING: dict[str, tuple[tuple[float, RGB], ...]] = {
    "park": ((0.34, (203, 228, 246)), (1.0, (196, 228, 176))),
    "kitchen": ((0.67, (248, 236, 214)), (0.7, (196, 168, 136)), (1.0, (226, 202, 174))),
    "street": ((0.34, (222, 222, 230)), (0.67, (202, 202, 206)), (1.0, (178, 178, 186))),
    "beach": ((0.3, (206, 232, 250)), (0.5, (156, 208, 232)), (1.0, (246, 228, 180))),
}
BOXES_OF_SETTING: dict[str, tuple[tuple[RGB, tuple[float, float, float, float]], ...]] = {
    "park": tuple(
        ((168, 208, 146), (x, y, x + 1, y + 4))
        for x, y in ((5, 30), (21, 66), (33, 40), (47, 28), (52, 60), (67, 44), (10, 50))
    ),
    "kitchen": tuple(((232, 216, 188), (x, 0, x, 47)) for x in range(11, 72, 12))
    + tuple(((232, 216, 188), (0, y, 71, y)) for y in range(11, 48, 12)),
    "street": tuple(((236, 236, 236), (x, 59, x + 9, 60)) for x in range(3, 72, 18))
    + tuple(((206, 206, 218), (x, 8, x + 12, 23)) for x in range(4, 72, 22)),
    "beach": tuple(((192, 228, 242), (x, y, x + 10, y)) for x, y in ((6, 26), (30, 31), (54, 27)))
    + tuple(
        ((228, 206, 156), (x, y, x + 2, y)) for x, y in ((9, 45), (27, 64), (46, 52), (60, 68))
    ),
}


def draw_scene(scene: Scene) -> Image.Image:
    """The scene's picture, RGB, `IMAGE_PIXELS` square; the grain depends on the scene's id."""
    return Image.fromarray(render_array(scene))


def render_array(scene: Scene) -> npt.NDArray[np.uint8]:
    """As `render`, as an array of shape (IMAGE_PIXELS, IMAGE_PIXELS, 3)."""
    picture = _backdrop(scene.setting).copy()
    for thing in scene.objects:
        row, column = divmod(thing.cell, GRID)
        top, left = row * CELL_PIXELS, column * CELL_PIXELS
        cell = picture[top : top + CELL_PIXELS, left : left + CELL_PIXELS]
        paint, cover = _sprite(thing.kind, thing.colour)
        cell += cover * (FADED_OPACITY if thing.faded else 1.0) * (paint - cell)
    noise = generator(0, "grain", scene.id).standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture + GRAIN * noise), 0, 255).astype(np.uint8)


@cache
def _backdrop(setting: str) -> FloatImage:
    picture = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS))
    draw = ImageDraw.Draw(picture)
    top = 0
    for share, colour in BANDS_OF_SETTING[setting]:
        bottom = round(share * IMAGE_PIXELS)
        draw.rectangle((0, top, IMAGE_PIXELS, bottom), fill=colour)
        top = bottom
    for colour, box in BOXES_OF_SETTING[setting]:
        draw.rectangle(box, fill=colour)
    return np.asarray(picture, dtype=np.float32)


@cache
def _sprite(kind: str, colour: str) -> tuple[FloatImage, FloatImage]:
    """The object's colours (24, 24, 3) and how far it covers each pixel (24, 24, 1)."""
    side = CELL_PIXELS * _OVERSAMPLING
    paint = Image.new("RGB", (side, side), RGB_OF_COLOUR[colour])
    cover = Image.new("L", (side, side), 0)
    for stroke in STROKES_OF_KIND[kind]:
        _draw_stroke(ImageDraw.Draw(paint), stroke, _tone(colour, stroke[1]))
        _draw_stroke(ImageDraw.Draw(cover), stroke, 255)
    small = (CELL_PIXELS, CELL_PIXELS)
    colours = np.asarray(paint.resize(small, Image.Resampling.BOX), dtype=np.float32)
    covered = np.asarray(cover.resize(small, Image.Resampling.BOX), dtype=np.float32)
    return colours, covered[..., None] / np.float32(255)


def _tone(colour: str, tone: Tone) -> RGB:
    red, green, blue = RGB_OF_COLOUR[colour]
    if tone == "dark":
        return (red * 11 // 20, green * 11 // 20, blue * 11 // 20)
    if tone == "light":
        return ((red + 510) // 3, (green + 510) // 3, (blue + 510) // 3)
    return (red, green, blue)


def _draw_stroke(draw: ImageDraw.ImageDraw, stroke: Stroke, fill: RGB | int) -> None:
    shape, _, numbers = stroke
    scaled = [number * _OVERSAMPLING for number in numbers]
    if shape == "ellipse":
        draw.ellipse(scaled, fill=fill)
    elif shape == "box":
        draw.rectangle(scaled, fill=fill)
    elif shape == "polygon":
        draw.polygon(scaled, fill=fill)
    elif shape == "pie":
        draw.pieslice(scaled, 180, 360, fill=fill)
    elif shape == "line":
        draw.line(scaled[:4], fill=fill, width=round(scaled[4]))
    else:
        draw.ellipse(scaled[:4], outline=fill, width=round(scaled[4]))
