"""Records in the formats of other tools, and as a data set of the hub with its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from veridical.builders._rows import Skipped, write_skipped
from veridical.data.exporters import verl
from veridical.data.exporters.card import describe_set, describe_source, write_card
from veridical.data.exporters.formats import FORMATS, Format
from veridical.data.exporters.licenses import license_identifier
from veridical.data.exporters.push import push
from veridical.data.exporters.writing import (
    ImageFiles,
    ImageMode,
    content_of,
    write_json_list,
    write_parquet_parts,
    write_shards,
)
from veridical.data.importers.recognize import recognize
from veridical.data.record_files import stream_rows
from veridical.data.record_kinds import Kind, RowError
from veridical.data.record_types import IMAGE_FIELDS
from veridical.data.record_writing import plain_record
from veridical.data.records import RecordSet, arrow_features, read_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_json, write_jsonl
from veridical.runtime.options import Reading
from veridical.runtime.progress import counted, track

Tool = Literal["trl", "llamafactory", "ms-swift", "llava", "openrlhf", "verl", "webdataset", "hub"]
KIND_ROWS = 100
"""Rows at a file's beginning, one of which says of what kind all are (our choice)."""
CHANGES_TRAINING = (
    "more_rejected", "beta_factor", "answer_prefix", "span_weights", "rejected_masked",
    "contrast_masked",
)  # fmt: skip
"""Columns that change what Veridical trains on, and that no other tool's trainer reads."""


def data_export(
    data: Path,
    to: Tool,
    out: Path,
    kind: Kind | None = None,
    images: ImageMode = "copy",
    reading: Reading = Reading(),
    repo: str | None = None,
    private: bool = True,
    license: str | None = None,
) -> None:
    """Write DATA in the format of another tool, into a new folder.

    `veridical data import FOLDER` gives the same records back: fields that a format lacks are
    kept in a column `veridical` that the tool ignores. Records that a format can't hold are
    listed in `skipped.jsonl`. `export.json` has counts and hashes.

    Args:
        data: records.
        to: the tool: `trl`, `llamafactory`, `ms-swift`, `llava`; `openrlhf` and `verl` take
            prompts (--kind prompt reads those of pairs); `webdataset` writes tar files; `hub`
            writes Parquet with a data card.
        out: a folder that does not exist or is empty.
        kind: kind of the records; recognized by their columns if not set.
        images: `copy` puts images into `images/`; `refer` points to the original files (images
            that DATA holds as bytes are still copied). Parquet and tar files hold the bytes.
        reading: how DATA is read.
        repo: with `hub`: push to this data set (owner/name). Texts and images leave this machine.
        private: with --repo: create the data set as a private one.
        license: with `hub`: license of the data, as the hub names it (cc-by-4.0; `other` for one
            that it does not list); taken from its sources if not set.
    """
    form = FORMATS[to]
    if repo is not None and to != "hub":
        raise UserError(f"--repo goes with --to hub, not with --to {to}.")
    if license is not None and to != "hub":
        raise UserError(f"--license goes with --to hub, not with --to {to}.")
    stated = None if license is None else license_identifier(license)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not an empty folder. Name a new one.")
    kind = kind or kind_of(data)
    if kind not in form.kinds:
        takes = " and ".join(form.kinds)
        prompts = " --kind prompt exports their prompts." if "prompt" in form.kinds else ""
        raise UserError(f"{to} has a form for {takes} records, not for {kind} records.{prompts}")
    records = read_records(data, kind, reading.images_root, reading.max_bad_fraction)
    out.mkdir(parents=True, exist_ok=True)
    export = Export(form, kind, out, images)
    written = export.write(records, reading.limit)
    if not export.count:
        raise UserError(f"{data}: {to} can hold none of its records. {export.first_refusal()}")
    skipped = write_skipped(out, records, export.left_out, f"row for {to}")
    about = {
        "data": str(data),
        "sha256": hash_file(data),
        "kind": kind,
        "to": to,
        "records": export.count,
        "left_out": skipped,
        "files": {str(path.relative_to(out)): hash_file(path) for path in written},
    }
    write_json(out / "export.json", about)
    told = form.use.format(file=written[0], folder=out)
    print(f"{counted(export.count, f'{kind} records')} for {to}{': ' + told if told else '.'}")
    if export.unused:
        lost = [name for name in CHANGES_TRAINING if name in export.unused]
        named = ", ".join(f"{name} ({export.unused[name]})" for name in lost)
        print(
            f"Note: {to} trains without these columns, and an import has them back (records with "
            f"them): {named}."
        )
    if to != "hub":
        return
    described = describe_set(data, export.sources, about, stated)
    write_card(out / "README.md", described)
    if repo is not None:
        print(push(out, repo, private, described))


def kind_of(path: Path) -> Kind:
    """The kind of a file's records, by the columns of the first of its rows that say one.

    Raises:
        UserError: none of the first does.
    """
    first = list(islice(stream_rows(path), KIND_ROWS))
    if not first:
        raise UserError(f"{path} holds no rows.")
    readable = [row for _, row in first if isinstance(row, Mapping)]
    if not readable:
        number, row = first[0]
        reason = row.reason if isinstance(row, RowError) else "is not an object with named fields"
        raise UserError(f"{path}: none of its rows can be read. Row {number} {reason}.")
    found = next((known for row in readable if (known := recognize([row]))), None)
    if found is None:
        raise UserError(f"{path}: its columns don't say of what kind its records are. Set --kind.")
    return found.taken_for.kind


class Export:
    """Records on their way into a format's files."""

    def __init__(self, form: Format, kind: Kind, out: Path, images: ImageMode) -> None:
        self.form, self.kind, self.out = form, kind, out
        self.files = ImageFiles(out, images)
        self.count = 0
        self.left_out: list[Skipped] = []
        self.sources: dict[str, int] = {}
        self.unused: dict[str, int] = {}

    def write(self, records: RecordSet, limit: int | None) -> list[Path]:
        """Write all files; gives those that hold rows."""
        count = len(records.rows) if limit is None else min(limit, len(records.rows))
        rows = self._rows(_records(records, count))
        for name, content in self.form.beside(self.kind).items():
            write_json(self.out / name, content)
        return _WRITERS[self.form.container](self, rows)

    def first_refusal(self) -> str:
        """The first reason why a record has no row."""
        return f"{self.left_out[0].reason}." if self.left_out else ""

    def _rows(self, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, object]]:
        by_path = self.form.container in ("jsonl", "json")
        for record in records:
            for field in IMAGE_FIELDS:
                if record.get(field) is None:
                    continue
                if by_path:
                    record[field] = [self.files.reference(one) for one in record[field]]
                else:
                    record[field] = [_embedded(one) for one in record[field]]
            try:
                row = self.form.row(record, self.kind)
            except RowError as error:
                self.left_out.append(Skipped(record["id"], error.field, error.reason))
                continue
            self.count += 1
            name = describe_source(record.get("source"))
            self.sources[name] = self.sources.get(name, 0) + 1
            for name in () if self.form.ours else CHANGES_TRAINING:
                if record.get(name) is not None:
                    self.unused[name] = self.unused.get(name, 0) + 1
            yield row


def _embedded(image: Mapping[str, Any]) -> dict[str, object]:
    name = Path(image["path"]).name if image["path"] else None
    return {"bytes": content_of(image), "path": name}


def _records(records: RecordSet, count: int) -> Iterator[dict[str, object]]:
    """The rows, images as they lie in files; without columns that hold nothing."""
    raw = records.rows.with_format("arrow")
    for index in track(range(count), "exporting", count):
        yield plain_record(raw[index].to_pylist()[0])


def _write_jsonl(export: Export, rows: Iterable[dict[str, object]]) -> list[Path]:
    write_jsonl(export.out / "data.jsonl", rows)
    return [export.out / "data.jsonl"]


def _write_json(export: Export, rows: Iterable[dict[str, object]]) -> list[Path]:
    write_json_list(export.out / "data.json", rows)
    return [export.out / "data.json"]


def _write_records(export: Export, rows: Iterable[dict[str, object]]) -> list[Path]:
    return write_parquet_parts(export.out, rows, arrow_features(export.kind).arrow_schema)


def _write_parquet(export: Export, rows: Iterable[dict[str, object]]) -> list[Path]:
    return write_parquet_parts(export.out, rows, verl.SCHEMA)


def _write_shards(export: Export, rows: Iterable[dict[str, object]]) -> list[Path]:
    return write_shards(export.out, rows)


_WRITERS: dict[str, Callable[[Export, Iterable[dict[str, object]]], list[Path]]] = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "records": _write_records,
    "parquet": _write_parquet,
    "shards": _write_shards,
}
