"""Records into files: Parquet with the images inside, or JSON Lines that refer to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from veridical.data.record_types import IMAGE_FIELDS, CheckedRow, ImageCell
from veridical.runtime.errors import UserError
from veridical.runtime.files import (
    whole_file,
    write_jsonl,
    writing,
)


def write_parquet_records(
    chunks: Iterable[Sequence[CheckedRow]], path: Path, schema: pa.Schema
) -> None:
    """Write rows with their images' bytes; `path` gets the whole file or stays as it was."""
    tables = (pa.Table.from_pylist([embedded(row) for row in one], schema) for one in chunks)
    write_parquet_tables(tables, path, schema)


def write_parquet_tables(
    tables: Iterable[pa.Table], path: Path, schema: pa.Schema, place: Path | None = None
) -> None:
    """Write tables as row groups of a file, which is whole or not there; see `whole_file`."""
    with whole_file(path, place) as file, pq.ParquetWriter(file, schema) as writer:
        for table in tables:
            writer.write_table(table)


def embedded(row: CheckedRow) -> dict[str, object]:
    """The row with its images' bytes.

    Raises:
        UserError: an image's file is gone.
    """
    return _with_images(row, _embedded)


def _with_images(
    row: CheckedRow, change: Callable[[ImageCell], ImageCell | str]
) -> dict[str, object]:
    own: dict[str, list[ImageCell] | None] = {name: row.get(name) for name in IMAGE_FIELDS}
    changed = {name: [change(image) for image in cells] for name, cells in own.items() if cells}
    return {**row, **changed}


def _embedded(image: ImageCell) -> ImageCell:
    name = Path(image["path"]).name if image["path"] else None
    return {"bytes": image["bytes"] or _file_bytes(image["path"]), "path": name}


def write_jsonl_records(rows: Iterable[CheckedRow], path: Path) -> None:
    """Write rows with paths relative to the file; images from elsewhere are copied beside it."""
    write_jsonl(path, (_with_images(row, lambda cell: _referred(cell, path)) for row in rows))


def _referred(image: ImageCell, path: Path) -> str:
    folder = path.parent.resolve()
    if image["path"] and not image["bytes"]:
        place = Path(image["path"]).resolve()
        if place.is_relative_to(folder) and place.is_file():
            return place.relative_to(folder).as_posix()
    content = image["bytes"] or _file_bytes(image["path"])
    suffix = Path(image["path"] or "").suffix or ".png"
    copy = folder / f"{path.stem}_images" / f"{hashlib.sha256(content).hexdigest()[:20]}{suffix}"
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        partial = copy.with_name(f".{copy.name}.part")
        with writing(copy):
            partial.write_bytes(content)
        partial.replace(copy)
    return copy.relative_to(folder).as_posix()


def _file_bytes(reference: str | None) -> bytes:
    try:
        return Path(reference or "").read_bytes()
    except OSError as error:
        raise UserError(f"The image {reference} cannot be read: {error.strerror}.") from error
