"""Writing rows into the files of a format, a few at a time, with images beside or within them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
from PIL import Image

from veridical.data.record_files import bytes_in
from veridical.data.record_output import write_parquet_records
from veridical.data.record_types import CheckedRow
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_texts_atomic, writing

ImageMode = Literal["copy", "refer"]
PART_ROWS, PART_BYTES = 10_000, 500_000_000
"""What a Parquet file or a shard holds at most, but for its last rows (our choice)."""
AT_A_TIME = 64
IMAGE_FIELDS = {"images": "", "rejected_images": "rejected.", "contrast_images": "contrast."}


class ImageFiles:
    """Images that rows name by their paths."""

    def __init__(self, folder: Path, mode: ImageMode) -> None:
        """Start without images.

        Args:
            folder: of the rows' file; copies go into `images/` in it, named by their content.
            mode: `refer` names an image's own file where there is one.
        """
        self.folder, self.mode = folder, mode

    def reference(self, image: Mapping[str, Any]) -> str:
        """The path of an image, relative to the folder; absolute where it stays where it is."""
        if self.mode == "refer" and not image["bytes"]:
            return str(Path(image["path"]).resolve())
        content = content_of(image)
        name = f"{hashlib.sha256(content).hexdigest()[:20]}{suffix_of(content)}"
        copy = self.folder / "images" / name
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            partial = copy.with_name(f".{name}.part")
            with writing(copy):
                partial.write_bytes(content)
            partial.replace(copy)
        return f"images/{name}"


def content_of(image: Mapping[str, Any]) -> bytes:
    """The bytes of an image's file.

    Raises:
        UserError: its file is gone.
    """
    held: bytes | None = image["bytes"]
    if held:
        return held
    try:
        return Path(image["path"]).read_bytes()
    except OSError as error:
        raise UserError(f"The image {image['path']} can't be read: {error.strerror}.") from error


def suffix_of(content: bytes) -> str:
    """The suffix of an image by what its file holds."""
    with Image.open(io.BytesIO(content)) as image:
        known = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
        return known.get(str(image.format), f".{str(image.format).lower()}")


def write_json_list(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON list, a row a line."""

    def texts() -> Iterator[str]:
        for number, row in enumerate(rows):
            yield "[\n" if number == 0 else ",\n"
            yield json.dumps(row, ensure_ascii=False, allow_nan=False)
        yield "\n]\n"

    write_texts_atomic(path, texts())


def write_parquet_parts(
    folder: Path, rows: Iterable[Mapping[str, object]], schema: pa.Schema
) -> list[Path]:
    """Write `train-00000.parquet` and so on, with the images' bytes."""
    written = []
    for number, part in enumerate(_parts(rows)):
        path = folder / f"train-{number:05d}.parquet"
        write_parquet_records(cast(Iterator[list[CheckedRow]], _chunks(part)), path, schema)
        written.append(path)
    return written


def write_shards(folder: Path, rows: Iterable[Mapping[str, object]]) -> list[Path]:
    """Write `train-000000.tar` and so on: `KEY.json` and `KEY.0.jpg`, ... for each row."""
    written, key = [], 0
    for number, part in enumerate(_parts(rows)):
        path = folder / f"train-{number:06d}.tar"
        partial = path.with_name(f".{path.name}.part")
        with writing(path), tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in part:
                _add_row(tar, f"{key:09d}", row)
                key += 1
        partial.replace(path)
        written.append(path)
    return written


def _add_row(tar: tarfile.TarFile, key: str, row: Mapping[str, Any]) -> None:
    told = {name: value for name, value in row.items() if name not in IMAGE_FIELDS}
    _add_file(tar, f"{key}.json", json.dumps(told, ensure_ascii=False).encode())
    for field, infix in IMAGE_FIELDS.items():
        for number, image in enumerate(row.get(field) or []):
            content = content_of(image)
            _add_file(tar, f"{key}.{infix}{number}{suffix_of(content)}", content)


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))


def _parts(rows: Iterable[Mapping[str, object]]) -> Iterator[Iterator[Mapping[str, object]]]:
    """Rows in parts of a limited size; each part has to be used up before the next."""
    waiting = iter(rows)
    first = next(waiting, None)

    def part(row: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        nonlocal first
        held, count, one = 0, 0, row
        while True:
            yield one
            held, count = held + bytes_in(one), count + 1
            following = next(waiting, None)
            if following is None or held >= PART_BYTES or count >= PART_ROWS:
                first = following
                return
            one = following

    while first is not None:
        yield part(first)


def _chunks(rows: Iterable[Mapping[str, object]]) -> Iterator[list[dict[str, object]]]:
    chunk: list[dict[str, object]] = []
    held = 0
    for row in rows:
        chunk.append(dict(row))
        held += bytes_in(row)
        if len(chunk) >= AT_A_TIME or held >= 64 * 2**20:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
