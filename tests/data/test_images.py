"""Images: whatever a file holds opens as upright RGB, or says why it cannot."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from veridical import cli
from veridical.data import images
from veridical.data.images import (
    FORMATS,
    decode_image,
    image_bytes_key,
    open_image,
    resolve_image_path,
    upright_size,
)
from veridical.data.pixels import ImageError, upright_rgb
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json, write_jsonl

RED = (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares itself huge."""

    def piece(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = piece(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = piece(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + header + data + piece(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_opens_as_rgb(mode: str, tmp_path: Path) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"picture.{suffix}"
    white = Image.new("RGB", (5, 3), "white")
    deep = Image.fromarray(np.full((3, 5), 65535, dtype=np.uint16))
    (deep if mode == "I;16" else white.convert(mode)).save(path)
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
        ("empty.png", b"", r"the file is empty \(0 bytes\)"),
        ("text.jpg", b"<html>404</html>", "not an image"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("bomb.png", bomb(60_000, 60_000), "it has more pixels than .* shrink it"),
        (
            "near-bomb.png",
            bomb(10_000, 10_000),
            "10,000 x 10,000 are more .* shrink it",
        ),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        open_image(tmp_path / "missing.png")


def test_pillow_does_not_warn_of_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bomb(12_000, 9_000))
    code = (
        "import sys; from veridical.data.images import open_image\n"
        "try: open_image(sys.argv[1])\nexcept Exception as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "12,000 x 9,000" in done.stdout and "limit of 89,478,485" in done.stdout
    assert done.stderr == ""


def test_a_limit_switched_off_elsewhere_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UserError, match="shrink it"):
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


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    memory = io.BytesIO()
    image.save(memory, format=format, **options)
    return memory.getvalue()


def png_chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(
    width: int, height: int, depth: int, color: int, rows: bytes, *more: bytes, late: bytes = b""
) -> bytes:
    """A PNG whose chunks `more` stand before its pixels and `late` behind them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + late + png_chunk(b"IEND", b"")


def grey_of(content: bytes) -> list[int]:
    values: list[int] = np.asarray(open_image(content))[..., 0].ravel().tolist()
    return values


def test_floats_run_from_0_to_1() -> None:
    samples = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    assert grey_of(encoded(Image.fromarray(samples), "TIFF")) == [0, 64, 128, 255]
    # A dark picture stays dark: nothing depends on what a picture happens to hold.
    assert grey_of(encoded(Image.fromarray(samples / 10), "TIFF")) == [0, 6, 13, 26]


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.array([[0, 255.0]], dtype=np.float32), "floats from 0 to 255"),
        (np.array([[-0.5, 0.5]], dtype=np.float32), "floats from -0.5"),
        (np.array([[np.nan, 0.5]], dtype=np.float32), "floats"),
        (np.array([[0, 70_000]], dtype=np.int32), "integers"),
    ],
)
def test_samples_without_a_known_white_are_refused(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_image(encoded(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_12_bits_in_16_are_refused_and_not_made_black(format: str) -> None:
    samples = np.linspace(0, 4095, 12).astype(np.uint16).reshape(3, 4)
    with pytest.raises(UserError, match="may hold 12 bits"):
        open_image(encoded(Image.fromarray(samples), format))
    scaled = grey_of(encoded(Image.fromarray(samples * 16), format))
    assert scaled[0] == 0 and scaled[-1] == 255


@pytest.mark.parametrize("alpha", [False, True])
def test_12_bits_in_16_bit_color_are_refused(alpha: bool) -> None:
    def rows(scale: int) -> bytes:
        color = [4095 * scale, 0, 2000 * scale] + ([65535] if alpha else [])
        clear = [65535] * 3 + [0] if alpha else [0, 0, 0]
        return b"\0" + struct.pack(f">{2 * len(color)}H", *color, *clear)

    kind = 6 if alpha else 2
    with pytest.raises(UserError, match="may hold 12 bits"):
        open_image(png(2, 1, 16, kind, rows(1)))
    assert open_image(png(2, 1, 16, kind, rows(16))).getpixel((0, 0)) == (255, 0, 125)


@pytest.mark.parametrize("alpha", [False, True])
def test_dark_color_of_16_bits_is_scaled_by_its_depth(alpha: bool) -> None:
    """A photograph by night: its highest sample is 40 of 255."""
    values = [40 * 257 + 3, 7 * 257, 0]
    row = b"\0" + struct.pack(f">{4 if alpha else 3}H", *values, *([65535] if alpha else []))
    assert open_image(png(1, 1, 16, 6 if alpha else 2, row)).getpixel((0, 0)) == (40, 7, 0)


LOW = bytes([0b00011011])
PALETTE = (
    png_chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])),
    png_chunk(b"tRNS", b"\0\xff"),
)


@pytest.mark.parametrize(
    ("depth", "row", "grey"),
    [(1, LOW, [0, 0, 0, 255]), (2, LOW, [0, 85, 170, 255]), (4, b"\x05\xaf", [0, 85, 170, 255])],
)
def test_samples_of_few_bits_fill_the_range(depth: int, row: bytes, grey: list[int]) -> None:
    assert grey_of(png(4, 1, depth, 0, b"\0" + row)) == grey


def test_a_palette_of_two_bits_with_transparent_entries() -> None:
    opened = open_image(png(4, 1, 2, 3, b"\0" + LOW, *PALETTE))
    assert [opened.getpixel((x, 0)) for x in range(4)] == [
        (255, 255, 255), (0, 255, 0), (0, 0, 255), (9, 9, 9),
    ]  # fmt: skip


def test_grey_of_16_bits_with_alpha_and_transparent_cmyk_white() -> None:
    row = b"\0" + struct.pack(">4H", 30000, 65535, 30000, 0)
    assert grey_of(png(2, 1, 16, 4, row)) == [117, 255]
    assert grey_of(encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "JPEG")) == [255]


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_tiff_of_16_bits_is_refused_in_either_byte_order(order: str) -> None:
    with pytest.raises(UserError, match="signed integers"):
        open_image(signed_tiff(order))


def signed_tiff(order: str) -> bytes:
    """One row of three signed samples, the header written by hand."""
    tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1),
            (279, 6), (339, 2)]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 14)
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    count = struct.pack(order + "H", len(tags))
    return head + struct.pack(order + "3h", -5, 0, 3000) + count + entries + bytes(4)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_pictures_counts(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ((255, 0, 0), (0, 0, 255))]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    red, _, blue = open_image(buffer.getvalue()).getpixel((3, 3))  # type: ignore[misc]
    assert red > 240 and blue < 15


def test_avif_without_its_decoder_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FORMATS", ("PNG",))
    with pytest.raises(UserError, match="does not read AVIF"):
        open_image(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(40))


@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_12_bits_are_refused_where_a_pnm_names_white_for_16(kind: str) -> None:
    samples = np.linspace(0, 4095, 12).astype(">u2")
    head = f"{kind} {12 if kind == 'P5' else 4} 1 65535\n".encode()
    with pytest.raises(UserError, match="may hold 12 bits"):
        open_image(head + samples.tobytes())
    assert np.asarray(open_image(head + (samples * 16).astype(">u2").tobytes())).max() == 255


def test_signed_samples_of_8_bits_are_refused() -> None:
    picture = encoded(Image.fromarray(np.array([[0, 127]], dtype=np.uint8)), "TIFF",
                      tiffinfo={339: 2})  # fmt: skip
    with pytest.raises(UserError, match="signed"):
        open_image(picture)


def test_white_is_what_the_file_says() -> None:
    assert grey_of(b"P5 3 1 1000\n" + struct.pack(">3H", 0, 100, 200)) == [0, 26, 51]
    negative = encoded(
        Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)), "TIFF", tiffinfo={262: 0}
    )
    assert grey_of(negative) == [255, 0]


def test_one_transparent_color_is_put_on_white() -> None:
    rgb = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]),
              png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))  # fmt: skip
    assert [open_image(rgb).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (4, 5, 6)]
    deep = png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 256, 512, 768, 65535, 0, 0),
               png_chunk(b"tRNS", struct.pack(">3H", 256, 512, 768)))  # fmt: skip
    assert [open_image(deep).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]
    for depth, row, colour, expected in [
        (8, bytes([7, 9]), 7, [255, 9]),
        (4, bytes([0x3A]), 3, [255, 170]),
        (2, bytes([0b01100000]), 1, [255, 170]),
        (1, bytes([0b01000000]), 0, [255, 255]),
        (16, struct.pack(">2H", 300, 51400), 300, [255, 200]),
    ]:
        grey = png(2, 1, depth, 0, b"\0" + row, png_chunk(b"tRNS", struct.pack(">H", colour)))
        assert grey_of(grey) == expected, depth


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"c\0\0" + zlib.compress(b" " * 3_000_000)),
        png_chunk(b"zTXt", b"c\0\0broken"),
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(b" " * 3_000_000)),
        png_chunk(b"iCCP", b"p\0\x07broken"),
        png_chunk(b"eXIf", b"not EXIF"),
        png_chunk(b"tEXt", b"c\0wrong checksum", crc=1),
        png_chunk(b"pHYs", b"1"),
        png_chunk(b"gAMA", b"1"),
        png_chunk(b"iTXt", b"no end"),
    ],
)
def test_pixels_open_whatever_stands_beside_them(chunk: bytes, late: bool) -> None:
    rows = b"\0" + bytes([9, 8, 7, 6, 5, 4])
    whole = png(2, 1, 8, 2, rows, late=chunk) if late else png(2, 1, 8, 2, rows, chunk)
    assert open_image(whole).getpixel((1, 0)) == (6, 5, 4)
    assert upright_size(whole) == (2, 1)


@pytest.mark.parametrize("late", [False, True])
def test_a_whole_orientation_counts_beside_a_broken_text(late: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    broken = png_chunk(b"zTXt", b"c\0\0" + zlib.compress(b" " * 3_000_000))
    both = broken + png_chunk(b"eXIf", exif.tobytes()[6:])
    rows = b"\0" + bytes(6)
    whole = png(2, 1, 8, 2, rows, late=both) if late else png(2, 1, 8, 2, rows, both)
    assert upright_size(whole) == open_image(whole).size == (1, 2)


def test_torn_pixels_are_not_saved_by_leaving_chunks_out() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "PNG", exif=Image.Exif().tobytes())
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(whole[: len(whole) // 2])


MEMORY = """
import io, resource, sys
from PIL import Image
from veridical.data.images import decode_image
from veridical.data.pixels import ImageError
file = io.BytesIO()
Image.new("RGB", (9000, 9000)).save(file, "PNG")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    decode_image(file.getvalue())
except (MemoryError, ImageError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits memory as Linux does")
@pytest.mark.parametrize("free", [40, 300, 600])
def test_a_machine_without_memory_is_no_fault_of_a_picture(free: int) -> None:
    """An upright RGB picture of 81 megapixels under too small a limit, in MiB."""
    asked = [sys.executable, "-c", MEMORY, str(free)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MemoryError") or (free == 600 and not done.stdout), done.stdout


@pytest.mark.parametrize(
    ("error", "room", "stops"),
    [
        (MemoryError(), False, True),
        (OSError("out of memory error when reading image file"), False, True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True, True),
        (OSError(errno.EMFILE, "Too many open files"), True, True),
        # A header that asks for terabytes, where there is room for any picture that is taken.
        (MemoryError(), True, False),
        (OSError("out of memory error when reading image file"), True, False),
        (OSError("unrecognized data stream contents when reading image file"), False, False),
        (Image.DecompressionBombError("bomb"), False, False),
    ],
)
def test_only_what_the_machine_lacks_stops_a_command(
    monkeypatch: pytest.MonkeyPatch, error: Exception, room: bool, stops: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    monkeypatch.setattr(images, "has_room_for", lambda size: room)
    with pytest.raises(type(error) if stops else ImageError):
        decode_image(encoded(Image.new("RGB", (4, 4)), "PNG"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_sizes_are_those_of_the_upright_image(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (40, 20)), format, exif=exif)
    assert upright_size(content) == open_image(content).size == (20, 40)


def test_an_orientation_behind_the_pixels_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = png_chunk(b"eXIf", exif.tobytes()[6:])
    late = png(2, 1, 8, 2, b"\0" + bytes(6), late=block)
    assert upright_size(late) == open_image(late).size == (1, 2)


def test_broken_exif_leaves_a_photograph_as_it_lies() -> None:
    content = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert open_image(content).size == upright_size(content) == (4, 2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    red, _, blue = open_image(content).getpixel((8, 8))  # type: ignore[misc]
    assert red > 200 > 50 > blue


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow has no AVIF")
def test_avif_opens() -> None:
    content = encoded(Image.new("RGB", (16, 8), RED), "AVIF")
    assert open_image(content).size == upright_size(content) == (16, 8)


def test_a_dark_picture_of_8_bits_in_16_is_not_taken_for_12() -> None:
    """255 becomes 65535, so that what is white is known however dark the picture is."""
    dark = np.array([[0, 7, 50]], dtype=np.uint16)
    content = encoded(Image.fromarray(dark * 257), "PNG")
    assert list(open_image(content).convert("L").tobytes()) == [0, 7, 50]
    with pytest.raises(UserError, match="12 bits"):
        open_image(encoded(Image.fromarray(dark * 257 + 1), "PNG"))


def test_heif_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="HEIF"):
        open_image(b"\0\0\0\x18ftypheic" + bytes(40))


def test_real_photographs_open_as_pillow_shows_them(test_data: Path) -> None:
    files = sorted((test_data / "coco128" / "images").iterdir())
    assert len(files) == 128
    for file in files:
        with Image.open(file) as image:
            plain = ImageOps.exif_transpose(image).convert("RGB")
        assert upright_size(file) == plain.size
        assert open_image(file).tobytes() == plain.tobytes()


def test_pictures_of_one_color_and_another_shape_have_other_keys() -> None:
    wide, tall, again = (Image.new("RGB", size, "grey") for size in ((64, 48), (48, 64), (64, 48)))
    flat = Image.new("L", (96, 96), "grey")  # as many bytes
    assert len({image_bytes_key(image) for image in (wide, tall, flat)}) == 3
    assert image_bytes_key(again) == image_bytes_key(wide)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often files were decoded, by the size of the picture; all are taken for large ones."""
    found: Counter[tuple[int, int]] = Counter()
    upright = upright_rgb

    def counted(image: Image.Image) -> Image.Image:
        if isinstance(image, ImageFile.ImageFile):
            found[image.size] += 1
        return upright(image)

    monkeypatch.setattr(images, "KEPT_FROM", 0)
    monkeypatch.setattr(images, "upright_rgb", counted)
    monkeypatch.setattr(images, "_kept", OrderedDict())
    return found


SIZES = [(61, 50), (62, 50)]
QUICK = ["--model", "embedded", "--cache", "none"]
SHORT = ["--held-out", "0", "--epochs", "3", "--lora-rank", "1"]


@pytest.mark.parametrize(
    "words",
    [
        ["build", "bdhs", *QUICK, "--data", "{rows}", "--similarity", "edit", "--variant", "noise"],
        ["eval", "chair", *QUICK[:2], "--images", "{images}", "--objects", "{objects}",
         "--vocabulary", "{vocabulary}", "--max-new-tokens", "4"],
        ["train", "sft", *QUICK, "--data", "{rows}", *SHORT],
        ["train", "sft", *QUICK[:2], "--data", "{rows}", *SHORT, "--vision-cache", "true",
         "--cache", "{cache}"],
    ],
)  # fmt: skip
def test_a_command_decodes_a_large_picture_once(
    words: list[str], tmp_path: Path, decodes: Counter[tuple[int, int]]
) -> None:
    """A picture of 89 megapixels takes a second each time."""
    (tmp_path / "images").mkdir()
    for number, size in enumerate(SIZES):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"images/{number}.jpg")
    said = "There is a red cup. It stands on a table."
    rows = [
        {"id": f"{number}", "images": [f"images/{number}.jpg"], "messages": [
            {"role": "user", "content": "What is there?"}, {"role": "assistant", "content": said}]}
        for number in range(2)
    ]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_json(tmp_path / "objects.json", {"0": ["cup"], "1": ["cup"]})
    write_json(tmp_path / "vocabulary.json", {"cup": ["mug"]})
    names = {
        "rows": tmp_path / "rows.jsonl", "images": tmp_path / "images",
        "objects": tmp_path / "objects.json", "vocabulary": tmp_path / "vocabulary.json",
        "cache": tmp_path / "cache",
    }  # fmt: skip
    given = [word.format_map(names) for word in words]
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0
    assert decodes == dict.fromkeys(SIZES, 1)


def test_what_is_kept_is_the_file_that_is_there(
    tmp_path: Path, decodes: Counter[tuple[int, int]]
) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (4, 4), RED).save(file)
    first = open_image(file)
    first.paste((0, 0, 0), (0, 0, 4, 4))  # of no effect on the next one
    assert open_image(file).getpixel((0, 0)) == RED
    assert decodes == {(4, 4): 1}
    assert open_image(file.read_bytes()).getpixel((0, 0)) == RED
    Image.new("RGB", (4, 5), (0, 255, 0)).save(file)
    assert open_image(file).getpixel((0, 0)) == (0, 255, 0)


def test_no_more_than_some_pixels_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodes: Counter[tuple[int, int]]
) -> None:
    monkeypatch.setattr(images, "KEPT_PIXELS", 33)
    for width in (3, 4, 5, 5, 4, 3):
        file = tmp_path / f"{width}.png"
        Image.new("RGB", (width, 4)).save(file)
        os.utime(file, (1, 1))
        open_image(file)
    # 12 + 16 = 28 pixels fit, with 20 more the two before go; then 4 and 3 come back.
    assert decodes == {(3, 4): 2, (4, 4): 2, (5, 4): 1}
