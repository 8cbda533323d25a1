"""Images: whatever a file holds opens as upright RGB, or says why it cannot."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from veridical.errors import UserError
from veridical.images import ImageError, open_image, resolve_image_path

RED = (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares itself huge."""

    def piece(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = piece(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = piece(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + header + data + piece(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_every_mode_opens_as_rgb(mode: str, tmp_path: Path) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "F": "tif"}.get(mode, "png")
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (5, 3), "white").convert(mode if mode != "I;16" else "I").convert(mode).save(
        path
    )
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_cmyk_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "red.jpg").getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    values = np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0]
    assert values.tolist() == [0, 128, 255]


def test_what_is_transparent_stands_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    image.save(tmp_path / "sticker.png")
    opened = open_image(tmp_path / "sticker.png")
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), RED]


def test_photographs_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise"
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == (2, 4)
    assert opened.getpixel((1, 0)) == RED
    assert open_image(opened).size == (2, 4), "an upright image is not turned again"


def test_names_and_sizes_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "Küche 猫 🐈.PNG"
    Image.new("RGB", (1, 1), RED).save(path)
    assert open_image(path).getpixel((0, 0)) == RED
    assert open_image(str(path)).size == open_image(path.read_bytes()).size == (1, 1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files_say_why(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    memory = io.BytesIO()
    Image.fromarray(noise).save(memory, format="PNG")
    whole = memory.getvalue()
    for name, content, reason in [
        ("cut.png", whole[: len(whole) // 2], "cannot be decoded"),
        ("empty.png", b"", "not an image"),
        ("text.jpg", b"<html>404</html>", "not an image"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("bomb.png", bomb(60_000, 60_000), "decompression bomb"),
        ("near-bomb.png", bomb(10_000, 10_000), "decompression bomb"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        open_image(tmp_path / "missing.png")


def test_a_limit_switched_off_elsewhere_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UserError, match="decompression bomb"):
        open_image(bomb(60_000, 60_000))


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "../outside.png",
        "images/../../outside.png",
        "/etc/hostname",
        "link.png",
        "https://example.com/a.png",
        "file:///etc/hostname",
        "data:image/png;base64,AAAA",
        "zip://a.png::https://example.com/b.zip",
        "a\0b.png",
        "missing.png",
        ".",
    ],
)
def test_paths_stay_under_their_root(reference: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ImageError):
        resolve_image_path(reference, root)


def test_paths_inside_are_found(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a:b c.png"
    path.write_bytes(b"")
    assert resolve_image_path("images/../images/a:b c.png", tmp_path) == path.resolve()
    assert resolve_image_path(str(path), tmp_path) == path.resolve()
