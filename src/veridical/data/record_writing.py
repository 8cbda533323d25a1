"""Records are checked and written, as Parquet or JSON Lines."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image as PillowImage

from veridical.data.images import open_image
from veridical.data.messages import clean_messages
from veridical.data.record_columns import arrow_features
from veridical.data.record_files import ROWS_AT_A_TIME, chunks, plain_rows
from veridical.data.record_kinds import Kind, RowError
from veridical.data.record_output import write_jsonl_records, write_parquet_records
from veridical.data.record_rows import content_id, normalize
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow
from veridical.runtime.errors import UserError


def write_records(
    rows: Iterable[Mapping[str, object]] | Dataset, path: Path | str, kind: Kind
) -> None:
    """Write rows of a kind as Parquet or JSON Lines, by the suffix of `path`.

    Parquet holds the images' bytes and loads into TRL by `datasets.load_dataset("parquet", ...)`.
    JSON Lines hold paths: images under the file's folder are referred to, others are copied to
    `<stem>_images/` beside it. Images may be paths, Pillow images (stored as PNG), bytes, or
    what Datasets makes of them.

    Raises:
        UserError: a row is not of the kind (it is named), or the suffix is another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".parquet", ".jsonl"):
        raise UserError(f"{path} must end in .parquet or .jsonl; that decides how it is written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    checked = checked_rows(_undecoded(rows), kind)
    if path.suffix.lower() == ".jsonl":
        write_jsonl_records(checked, path)
    else:
        write_parquet_records(chunks(checked), path, arrow_features(kind).arrow_schema)


def _undecoded(rows: Iterable[Mapping[str, object]] | Dataset) -> Iterable[Mapping[str, object]]:
    """Rows of a Dataset with their images' bytes as they are, not decoded and packed again."""
    if not isinstance(rows, Dataset):
        yield from rows
        return
    for table in rows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME):
        yield from plain_rows(table)


def checked_rows(
    rows: Iterable[Mapping[str, object]], kind: Kind, first: int = 1
) -> Iterator[CheckedRow]:
    """Rows as they are written, each with an id.

    Args:
        rows: their images may be paths, Pillow images, bytes, or what Datasets makes of them.
        kind: of them.
        first: number of the first one, for messages.

    Raises:
        UserError: a row is not of the kind, or has the id of an earlier one.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows, start=first):
        try:
            record = normalize({**row, **_portable_images(row)}, kind)
            record["id"] = record["id"] or content_id(record)
            if record["id"] in seen:
                raise RowError("id", f"{record['id']} is that of an earlier row too")
        except RowError as bad:
            raise UserError(f"Row {number} cannot be written as {kind}: {bad}.") from bad
        seen.add(record["id"])
        yield record


def _portable_images(row: Mapping[str, object]) -> dict[str, object]:
    def portable(image: object) -> object:
        if isinstance(image, Path):
            return str(image)
        if isinstance(image, PillowImage.Image):
            memory = io.BytesIO()
            open_image(image).save(memory, format="PNG")
            return {"bytes": memory.getvalue(), "path": None}
        return image

    found: dict[str, object] = {}
    for name in IMAGE_FIELDS:
        images = row.get(name)
        if isinstance(images, Iterable):
            found[name] = [portable(image) for image in images]
    return found


def plain_record(row: Mapping[str, Any]) -> dict[str, object]:
    """A row as Arrow gives it, without what Arrow fills up with nulls."""
    record = {name: value for name, value in row.items() if value is not None}
    for name in ("prompt", "messages", "chosen", "rejected", "completion", "contrast_chosen"):
        if name in record:
            record[name] = clean_messages(record[name])
    for name in ("more_rejected", "responses"):
        if name in record:
            record[name] = [clean_messages(answer) for answer in record[name]]
    return record
