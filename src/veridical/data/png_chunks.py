"""A PNG file without what its pixels do not need."""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


_ORIENTED = b"eXIf"


def only_pixels(source: Path | str | bytes, with_exif: bool = False) -> bytes | None:
    """The PNG with the chunks that make its pixels alone; None if nothing can be left out.

    Text, color profiles, EXIF blocks and private chunks never change what is decoded, but a
    decoder may refuse a file for them: too long, torn inside, compressed wrongly. An orientation
    in such a block is lost with it.

    Args:
        source: a file, or the bytes of one.
        with_exif: keep the EXIF block too: it may be whole where another chunk is broken.
    """
    needed = (*_NEEDED, _ORIENTED) if with_exif else _NEEDED
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():
            return None  # who opens it says why
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError:
        return None
    if not content.startswith(_MAGIC):
        return None
    kept, dropped, at = [_MAGIC], False, len(_MAGIC)
    while at + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        end = at + 12 + length
        if end > len(content):
            return None  # torn: not a matter of the chunks that can be left out
        if name in needed:
            kept.append(content[at:end])
        else:
            dropped = True
        at = end
    return b"".join(kept) if dropped else None


def may_turn(source: Path | str | bytes) -> bool:
    """Whether a PNG may hold an orientation, in an EXIF block, a text or XMP.

    Such a block may stand behind the pixels, where Pillow finds it by decoding them all.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return any(name in content for name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
