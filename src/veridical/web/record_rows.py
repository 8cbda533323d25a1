"""Rows of a file of records as a page shows them, without the bytes of their images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from veridical.data.messages import Message, text_of
from veridical.data.record_checks import Ids
from veridical.data.record_files import BUFFER, stream_rows
from veridical.data.record_kinds import Kind
from veridical.data.record_rows import content_id
from veridical.data.record_spans import places_of
from veridical.data.record_types import IMAGE_FIELDS
from veridical.inspection.rows import Row, read_row, source_fields
from veridical.report.pictures import mark_completions
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import JSON_ERRORS
from veridical.web.shown_rows import (
    FieldValue,
    Mark,
    ShownAnswer,
    ShownImage,
    ShownRow,
    ShownTurn,
    count_words,
    named_fields,
)

HELD = b"held"
"""Stands for the bytes of an image that were not read."""
LONGEST_FIELD = 200  # letters; longer values are texts, and no fields
BATCH = 256
LABELS = {"images": "Image", "rejected_images": "Rejected image", "contrast_images": "Contrast"}
TITLES = {"chosen": "Chosen", "rejected": "Rejected", "answer": "Answer"}

Marking = Callable[[str, list[str]], tuple[Mark, ...]]
"""Marks of objects in a text, given names by which its image may be listed."""


def light_rows(path: Path, kind: Kind) -> Iterator[tuple[int, object]]:
    """Rows with their numbers, as `stream_rows`; images in Parquet have `HELD` for their bytes.

    Where rows of Parquet have no id, an id is made of the images' bytes, so they are read.

    Raises:
        UserError: the file can't be read.
    """
    if path.suffix.lower() != ".parquet":
        yield from stream_rows(path)
        return
    try:
        # Not mapped into memory: a file that is cut while it is read would end the process.
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            if "id" not in file.schema_arrow.names:
                yield from stream_rows(path)
                return
            yield from enumerate(_light_parquet(file), start=1)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read as Parquet: {reason_of(error)}.") from error


def _light_parquet(file: pq.ParquetFile) -> Iterator[object]:
    names = [file.schema.column(i).path for i in range(len(file.schema))]
    for group in range(file.num_row_groups):
        columns, held = [], set()
        for place, name in enumerate(names):
            field, _, leaf = name.rpartition(".")
            root = name.partition(".")[0]
            if root in (*IMAGE_FIELDS, "image") and leaf == "bytes":
                if _is_whole(file.metadata.row_group(group).column(place)):
                    held.add(root)
                    # A list of structs of which no field is read would be gone.
                    if f"{field}.path" in names:
                        continue
                columns.append(name)
            else:
                columns.append(name)
        missing = file.metadata.row_group(group).num_rows
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns):
            missing -= len(batch)
            for row in batch.to_pylist():
                yield {**row, **{name: _held(row.get(name)) for name in held}}
        if missing:  # a buffer that meets the end of a file says nothing
            raise OSError("it ends early")


def _is_whole(column: pq.ColumnChunkMetaData) -> bool:
    """Whether every image of a row group has its bytes there."""
    statistics = column.statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == 0


def _held(value: object) -> object:
    if isinstance(value, list):
        return [_held(one) for one in value]
    return {**value, "bytes": HELD} if isinstance(value, Mapping) else value


def shown_records(path: Path, kind: Kind, marking: Marking | None) -> Iterator[ShownRow]:
    """Every row of a file, usable or not, with the id that commands know it by.

    Args:
        path: the file.
        kind: of its records.
        marking: marks objects in the answers; None where no list of objects is known.
    """
    ids = Ids()
    for number, raw in light_rows(path, kind):
        row = read_row(number, raw, kind)
        converses = isinstance(raw, Mapping) and raw.get("conversations") is not None
        yield shown_record(row, *_identity(row, ids, converses), marking)


def _identity(row: Row, ids: Ids, may_repeat: bool) -> tuple[str, str]:
    """The row's id as `read_records` gives it, and what is wrong with the row."""
    if row.refusal is not None:
        return row.id, str(row.refusal)
    assert row.record is not None
    own = str(row.record["id"])
    content: Any = row.record
    name = own or content_id(content)
    if not own or may_repeat:
        return ids.unused(name, row.number), ""
    if not ids.take(name, row.number):
        return name, f"id: is that of row {ids.rows[name]} too"
    return name, ""


def shown_record(row: Row, id: str, problem: str, marking: Marking | None) -> ShownRow:
    """One row, as `shown_records` gives it."""
    images = tuple(_images(row))
    source = _source(row)
    listed = [Path(image.path).stem for image in images if image.path] + [id]
    answers = tuple(_answers(row, source, listed, marking))
    fields: dict[str, FieldValue] = {"images": len(images)}
    fields |= {f"{_short(answer.name)}_words": count_words(answer.text) for answer in answers}
    if row.kind == "preference" and len(answers) > 1:
        fields["words_difference"] = int(str(fields["chosen_words"])) - int(
            str(fields["rejected_words"])
        )
    fields |= _made_up(answers, marking)
    fields |= {
        f"{rating['answer']}.{rating['aspect']}": float(rating["value"])
        for rating in (row.record or {}).get("ratings") or []
    }
    record: Mapping[str, object] = row.record or {}
    for name in (
        "label", "beta_factor", "expected_answer", "answer_prefix", "rejected_masked",
        "contrast_masked",
    ):  # fmt: skip
        value = record.get(name)
        if isinstance(value, str | float | int):
            fields[name] = value
    told = {name: value for name, value in source_fields(row).items() if _is_field(value)}
    fields |= named_fields(told, "source")  # type: ignore[arg-type]
    fields |= _gap(fields)
    return ShownRow(row.number, id, images, tuple(_prompt(row)), answers, fields, problem)


def _short(name: str) -> str:
    return name.replace("responses/", "response_").replace("more_rejected/", "rejected_")


def _is_field(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_FIELD
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _gap(fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    """The log-probability of chosen minus that of rejected, where something has scored both."""
    for first in fields:
        if "logp" in first and "chosen" in first:
            one, other = fields[first], fields.get(first.replace("chosen", "rejected"))
            if isinstance(one, int | float) and isinstance(other, int | float):
                return {"logp_gap": one - other}
    return {}


def _made_up(answers: tuple[ShownAnswer, ...], marking: Marking | None) -> dict[str, FieldValue]:
    if marking is None:
        return {}
    return {
        f"{_short(answer.name)}_made_up": sum(mark.kind == "made_up" for mark in answer.marks)
        for answer in answers
    }


def _images(row: Row) -> Iterator[ShownImage]:
    for column in IMAGE_FIELDS:
        cells = (row.record or {}).get(column) or []
        for number, cell in enumerate(cells):
            label = f"{LABELS[column]} {number + 1}" if len(cells) > 1 else LABELS[column]
            held = column if cell["bytes"] else ""
            yield ShownImage(label, cell["path"], held, number)


def _source(row: Row) -> Mapping[str, Any]:
    source = row.named.get("source")
    try:
        value = json.loads(source) if isinstance(source, str) else source
    except JSON_ERRORS:
        return {}
    return value if isinstance(value, Mapping) else {}


def _prompt(row: Row) -> Iterator[ShownTurn]:
    if row.record is None:
        if row.prompt:
            yield ShownTurn("user", row.prompt)
        return
    several = len(row.record["images"]) > 1
    turns: list[Message] = row.record.get("prompt") or row.record["messages"][:-1]
    for turn in turns:
        yield ShownTurn(turn["role"], _turn_text(turn, several))


def _turn_text(turn: Message, several: bool) -> str:
    """What a turn says; where a row has several images, with their places."""
    parts: list[str] = []
    for is_image, blocks in groupby(turn["content"], lambda block: block["type"] == "image"):
        own = [*blocks]
        if not is_image:
            parts += [block["text"] for block in own if block.get("text")]
        elif several:
            parts.append("[image]" if len(own) == 1 else f"[{len(own)} images]")
    return "\n".join(parts)


def _answers(
    row: Row, source: Mapping[str, Any], listed: list[str], marking: Marking | None
) -> Iterator[ShownAnswer]:
    record = row.record or {}
    texts = dict(row.answers)
    for number, answer in enumerate(record.get("more_rejected") or []):
        texts[f"more_rejected/{number}"] = text_of(answer)
    if record.get("contrast_chosen"):
        texts["contrast_chosen"] = text_of(record["contrast_chosen"])
    for name, text in texts.items():
        marks = list(marking(text, listed)) if marking else []
        if name == "rejected":
            marks += _completions(text, source)
        spans = places_of(record.get("span_weights") or [], name, len(text))
        marks += [Mark(start, end, "weighted") for start, end, _ in spans]
        about = [
            f"{rating['aspect']}: {rating['value']:g}"
            for rating in record.get("ratings") or []
            if rating["answer"] == name
        ]
        about += [f"weight {weight:g}: {text[start:end][:60]}" for start, end, weight in spans]
        yield ShownAnswer(name, _title(name), text, tuple(marks), tuple(about))


def _title(name: str) -> str:
    kind, _, number = name.partition("/")
    if not number:
        return TITLES.get(name, name)
    return f"{'Response' if kind == 'responses' else 'Also rejected'} {int(number) + 1}"


def _completions(text: str, source: Mapping[str, Any]) -> Iterator[Mark]:
    """What BDHS had the model write without seeing; the rest was kept from the true answer."""
    cuts = source.get("cuts")
    if not isinstance(cuts, list):
        return
    place = 0
    for segment in mark_completions(text, [cut for cut in cuts if isinstance(cut, Mapping)]):
        if segment.kind == "completed":
            yield Mark(place, place + len(segment.text), "completed")
        place += len(segment.text)
