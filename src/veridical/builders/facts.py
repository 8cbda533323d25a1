"""Facts about images put beside records: captions, regions, object lists, options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from datasets import Dataset

from veridical.builders._parts import finish
from veridical.builders._rows import Skipped, write_skipped
from veridical.data.object_lists import match_image_id, match_image_ids
from veridical.data.reading import read
from veridical.data.record_types import NewRow
from veridical.data.records import RecordSet, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import part_of
from veridical.runtime.runs import start_run

FactsKind = Literal["preference", "sample", "prompt", "conversation"]


def build_facts(
    data: Path,
    facts: Path,
    out: Path,
    kind: FactsKind = "preference",
    reading: Reading = Reading(),
) -> None:
    """Put what is known about each image beside the records in DATA, as their `facts`.

    Judges and reward models read facts where they are told to; policies never do. Facts that a
    record has already stay, and these follow.

    Args:
        data: records, Parquet or JSON Lines.
        facts: JSON {image_id: [sentences, captions, names or options]}; an image is found by its
            file name without suffix, else by the record's id.
        out: folder for the run: `records.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the records are.
        reading: how DATA is read.
    """
    require_file(data, "--data")
    known = read_facts(facts)
    options = {"data": data, "facts": facts, "out": out, "kind": kind, "reading": reading}
    with start_run(out, "build facts", options, {"data": data, "facts": facts}) as run:
        records = read(data, kind, reading)
        found, left_out = _match(records, known)
        skipped = write_skipped(out, records, left_out, "new facts")
        if not found:
            raise UserError(
                f"{facts} has nothing about any image of {data}. Its keys have to be the images' "
                "file names without suffix, or the records' ids."
            )
        write_records(_rows(records.rows, found), out / "records.parquet", kind)
        summary = {"records": len(records.rows), "with_facts": len(found), "skipped": skipped}
        finish(run, summary)
        print(f"{part_of(len(found), len(records.rows), 'records')} got facts.")


def read_facts(path: Path) -> dict[str, list[str]]:
    """Read `{image_id: [facts]}`.

    Raises:
        UserError: the file is not of that form.
    """
    content = read_json(path)
    form = f'{path} must be a JSON object {{"image_id": ["fact", ...]}}'
    if not isinstance(content, dict) or not content:
        raise UserError(f"{form}.")
    for image, lines in content.items():
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{form}, but image {image!r} has {str(lines)[:60]!r}.")
    return content


def _match(
    records: RecordSet, known: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[str]], list[Skipped]]:
    """New facts by record, and the records for which there are none."""
    found: dict[str, list[str]] = {}
    left_out = []
    raw = records.rows.select_columns(["id", "images"]).with_format("arrow")
    stems: set[str] = set()
    for index in range(len(records.rows)):
        row = raw[index].to_pylist()[0]
        names = [Path(image["path"] or "").stem for image in row["images"]]
        stems |= set(names)
        keys = [key for name in names if (key := match_image_id(name, known)) is not None]
        keys = keys or [key for key in (match_image_id(row["id"], known),) if key is not None]
        lines = list(dict.fromkeys(line for key in keys for line in known[key]))
        if lines:
            found[row["id"]] = lines
        else:
            reason = "nothing is known of its images; it is kept without"
            left_out.append(Skipped(row["id"], "facts", reason))
    match_image_ids(sorted(stems), known)
    return found, left_out


def _rows(rows: Dataset, found: Mapping[str, Sequence[str]]) -> Iterator[NewRow]:
    raw = rows.with_format("arrow")
    for index in range(len(rows)):
        # In Arrow's form images are the bytes of their files, not decoded and packed again.
        row = raw[index].to_pylist()[0]
        lines = [*(row.get("facts") or []), *found.get(row["id"], [])]
        yield row | {"facts": list(dict.fromkeys(lines)) or None}
