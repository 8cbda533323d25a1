"""Opening images: upright RGB whatever the file holds, or a reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import stat
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError, features

from veridical.data.pixels import ImageError, orientation, upright_rgb
from veridical.data.png_chunks import may_turn, only_pixels
from veridical.runtime.errors import UserError
from veridical.runtime.lacking import has_room_for, is_memory_full, out_of

if TYPE_CHECKING:
    from datasets import Dataset

# Formats whose decoders are Pillow's own: EPS, for one, would start Ghostscript on a stranger's
# file. JPEG includes MPO, which several phones write: its first picture counts.
_ALWAYS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = (*_ALWAYS, "AVIF") if features.check("avif") else _ALWAYS
PIXEL_LIMIT = 89_478_485  # Pillow's own default, kept even if somebody switched Pillow's off
TOO_LARGE = f"more pixels than the limit of {PIXEL_LIMIT:,}; shrink it (9,000 x 9,000 fit)"
# Between its limit and twice that Pillow warns on the screen; `_opened` refuses the picture.
# Named by its text: options are read before Pillow is loaded.
warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")

LARGE = 16_000_000
_LARGE_AT_ONCE = threading.BoundedSemaphore(2)
"""Rows are checked by many threads, and one picture of 89 megapixels takes a gigabyte meanwhile."""
ROOM = 12 * PIXEL_LIMIT
"""That gigabyte: the pixels as they are read, upright, and as RGB, at four bytes each (our
count)."""

KEPT_FROM = 4_000_000
KEPT_PIXELS = PIXEL_LIMIT
"""Decoded pictures of at least 4 megapixels are kept, the latest up to this many pixels of 3 bytes,
268 MB (our choices): a command opens a picture at each check and each step."""
_kept: OrderedDict[tuple[object, ...], Image.Image] = OrderedDict()
_KEPT_LOCK = threading.Lock()
_DECODING = [threading.Lock() for _ in range(64)]

_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more, so that C:\ is none


def open_image(source: Path | str | bytes | Image.Image) -> Image.Image:
    """Decode an image wholly, as upright RGB.

    The EXIF orientation is applied; gray, CMYK, palette and 16-bit images are converted, and
    what is transparent is put on white (our choice: what a page would show).

    Args:
        source: a file, the bytes of one, or an image that is open already.

    Raises:
        UserError: the image is missing, is not whole, is of no allowed format (`FORMATS`) or has
            more pixels than `PIXEL_LIMIT`.
    """
    try:
        return decode_image(source)
    except ImageError as problem:
        raise _user_error(source, problem) from problem


def decode_image(source: Path | str | bytes | Image.Image) -> Image.Image:
    """`open_image` for those who report by row.

    Raises:
        ImageError: as for `open_image`.
    """
    if isinstance(source, Image.Image):
        with _reasons():
            return upright_rgb(source)
    try:
        return _decoded(source)
    except ImageError as problem:
        # What pixels do not need may be what is broken.
        for whole in _without_the_rest(source):
            with contextlib.suppress(ImageError):
                return _decoded(whole)
        raise problem from None


def upright_size(source: Path | str | bytes | Image.Image) -> tuple[int, int]:
    """Width and height that `open_image` would give, from the file's header alone.

    Raises:
        UserError: as for `open_image`, as far as a header shows it.
    """
    try:
        if isinstance(source, Image.Image):
            return _turned_size(source)
        try:
            with _opened(source) as image:
                if image.format == "PNG":
                    if not may_turn(source):
                        return image.size
                    if "exif" not in image.info:
                        image.load()  # it may stand behind the pixels, and so may what is broken
                return _turned_size(image)
        except ImageError:
            for whole in _without_the_rest(source):
                with contextlib.suppress(ImageError), _opened(whole) as image:
                    return _turned_size(image)
            raise
    except ImageError as problem:
        raise _user_error(source, problem) from problem


def _without_the_rest(source: Path | str | bytes) -> Iterator[bytes]:
    """A PNG without what its pixels do not need: first with its orientation, then without."""
    for with_exif in (True, False):
        whole = only_pixels(source, with_exif)
        if whole is not None:
            yield whole


def _turned_size(image: Image.Image) -> tuple[int, int]:
    if orientation(image) < 5:
        return image.size
    if image.format == "TIFF":
        image.load()  # some versions of Pillow turn it then, and say its size before
        if orientation(image) < 5:
            return image.size
    return image.height, image.width


def resolve_image_path(reference: str, root: Path) -> Path:
    """The file under `root` that a row's text names; symbolic links count as where they lead.

    Raises:
        ImageError: it is a URL, leads out of `root`, or is not a file.
    """
    if not reference.strip() or "\0" in reference:
        raise ImageError("the image path is empty or holds a NUL character")
    if _URL.match(reference):
        raise ImageError(f"{reference[:80]} is a URL; images are never fetched: save it first")
    try:
        path = (root / reference).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ImageError(f"{reference} leads out of {root}; set images_root to a folder above")
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # too long a name; links that lead in a circle
        raise ImageError(f"{reference[:80]} cannot be followed ({error})") from error
    if not is_file:
        raise ImageError(f"{reference} is not a file under {root}")
    return path


def _user_error(source: object, problem: ImageError) -> UserError:
    name = source if isinstance(source, (str, Path)) else "An image in memory"
    return UserError(f"{name}: {problem}. Give a whole PNG, JPEG or WebP file.")


def _decoded(source: Path | str | bytes) -> Image.Image:
    with _opened(source) as image:
        if image.width * image.height < KEPT_FROM:
            return upright_rgb(image)
        key = _content_key(source)
        # Threads that want the same picture wait for the one that decodes it.
        with _DECODING[hash(key) % len(_DECODING)]:
            with _KEPT_LOCK:
                known = _kept.get(key)
                if known is not None:
                    _kept.move_to_end(key)
            if known is None:
                known = _decoded_large(image)
                _keep(key, known)
        return known.copy()


def _decoded_large(image: Image.Image) -> Image.Image:
    if image.width * image.height < LARGE:
        return upright_rgb(image)
    with _LARGE_AT_ONCE:
        return upright_rgb(image)


def _content_key(source: Path | str | bytes) -> tuple[object, ...]:
    """What changes when a file does."""
    if isinstance(source, bytes):
        return (hashlib.sha256(source).digest(),)
    found = Path(source).stat()
    return (str(Path(source).absolute()), found.st_ino, found.st_size, found.st_mtime_ns)


def _keep(key: tuple[object, ...], image: Image.Image) -> None:
    with _KEPT_LOCK:
        _kept[key] = image
        while len(_kept) > 1 and sum(i.width * i.height for i in _kept.values()) > KEPT_PIXELS:
            _kept.popitem(last=False)


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[Image.Image]:
    """An image whose header was read, within the limit of pixels.

    Raises:
        ImageError: whatever went wrong with it, inside the block too.
    """
    with _reasons():
        if isinstance(source, bytes):
            _refuse_heif(source[:32])
        else:
            if not stat.S_ISREG(Path(source).stat().st_mode):
                raise ImageError("it is not a file, but a folder, a pipe or a device")
            with Path(source).open("rb") as beginning:
                _refuse_heif(beginning.read(32))
        if not (len(source) if isinstance(source, bytes) else Path(source).stat().st_size):
            raise ImageError("the file is empty (0 bytes)")
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise ImageError(f"{image.width:,} x {image.height:,} are {TOO_LARGE}")
            yield image


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever a decoder raises into half a sentence."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("the file does not exist") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image of an allowed format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has {TOO_LARGE}") from error
    # Decoders meet broken files with whatever exception the broken byte leads to.
    except Exception as error:
        if _is_of_machine(error):
            raise  # another row would meet it too
        raise ImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def _is_of_machine(error: Exception) -> bool:
    """Whether memory or open files ran out, which says nothing of the picture.

    Of no memory a broken file can be the cause too, where its header asks for terabytes: then there
    still is room for a whole picture.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return out_of(error) is not None
    decoder = isinstance(error, OSError) and str(error).startswith("out of memory")
    return (is_memory_full(error) or decoder) and not has_room_for(ROOM)


def _refuse_heif(head: bytes) -> None:
    if head[4:8] != b"ftyp":
        return
    if b"avif" in head[8:] or b"avis" in head[8:]:
        if "AVIF" not in FORMATS:
            raise ImageError("this build of Pillow does not read AVIF; convert it to JPEG or PNG")
    elif any(brand in head[8:] for brand in _HEIF):
        raise ImageError("HEIF (.heic) is not read; convert it to JPEG or PNG")


@dataclass(frozen=True)
class RowImage:
    """An image of a data set's row, decoded when it is needed and not before."""

    rows: Dataset
    row: int
    number: int
    column: str = "images"

    def source(self) -> bytes | Path:
        """The bytes of its file where the row holds them, else the file; of this image alone."""
        cell = _as_arrow(self.rows)[self.row].column(self.column)[0]
        image = cell.values[self.number].as_py()
        content: bytes | None = image["bytes"]
        return content or Path(image["path"])

    def open(self) -> Image.Image:
        """Upright RGB."""
        return open_image(self.source())

    def content(self) -> bytes:
        """The bytes of its file.

        Raises:
            UserError: its file is gone.
        """
        source = self.source()
        if isinstance(source, bytes):
            return source
        try:
            return source.read_bytes()
        except OSError as error:
            raise UserError(
                f"Image {self.number + 1} of row {self.row + 1} can't be read any more ({error}). "
                "Put it back, or build the rows again."
            ) from error


ImageLike = Path | str | Image.Image | RowImage

_arrow_views: weakref.WeakKeyDictionary[Dataset, Dataset] = weakref.WeakKeyDictionary()


def _as_arrow(rows: Dataset) -> Dataset:
    """Rows as Arrow tables; made once, since it copies all that is said about them."""
    if rows not in _arrow_views:
        _arrow_views[rows] = rows.with_format("arrow")
    return _arrow_views[rows]


def row_images(
    pictures: Dataset, row: int, count: int, column: str = "images"
) -> tuple[RowImage, ...]:
    """The `count` images of a row, none of them decoded yet.

    Args:
        pictures: the rows, with that column alone.
        row: its index.
        count: how many images it has.
        column: `images`, or another that holds pictures.
    """
    return tuple(RowImage(pictures, row, number, column) for number in range(count))


def image_key(image: ImageLike) -> str | int:
    """What tells two images apart without opening them: where it is, or the object itself."""
    if isinstance(image, RowImage):
        return f"{image.rows._fingerprint}/{image.column}/{image.row}/{image.number}"
    return id(image) if isinstance(image, Image.Image) else str(image)


def image_bytes_key(image: ImageLike) -> str:
    """A hash of what an image holds, whatever its name."""
    if isinstance(image, RowImage):
        content = image.content()
    elif isinstance(image, Image.Image):
        # The bytes alone are the same for pictures of one color and another shape.
        content = f"{image.mode} {image.width} x {image.height} ".encode() + image.tobytes()
    else:
        content = Path(image).read_bytes()
    return hashlib.sha256(content).hexdigest()


def load_image(image: ImageLike) -> Image.Image:
    """Upright RGB, from wherever the image is."""
    return image.open() if isinstance(image, RowImage) else open_image(image)


def size_of(image: ImageLike) -> tuple[int, int]:
    """Width and height of the upright image; its pixels are not decoded."""
    return upright_size(image.source() if isinstance(image, RowImage) else image)
