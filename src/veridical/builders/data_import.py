"""Foreign sets as records: from a file, a folder or the hub, whatever their form."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from veridical.data.importers.importing import imported
from veridical.data.importers.recognize import (
    AS_ASKED,
    AUTO,
    FIRST_ROWS,
    Recognized,
    find_set,
    mapping,
)
from veridical.data.importers.rules import Rules
from veridical.data.importers.sources import Place, Source, open_source
from veridical.data.messages import text_of
from veridical.data.record_checks import RowChecker
from veridical.data.record_rows import PartError, RowError
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow, ImageCell
from veridical.data.records import Kind, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_json, write_jsonl
from veridical.runtime.progress import are_in, counted, part_of, track
from veridical.runtime.run_files import SkippedRow

SHOWN = 5
AT_A_TIME = 64
_PARTICULAR = re.compile(r"\S*[\d/]\S*")


def data_import(
    source: str,
    out: Path | None = None,
    as_: str = AUTO,
    kind: Kind | None = None,
    images_root: Path | None = None,
    rules: Rules = Rules(),
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> None:
    """Convert SOURCE, a published set or another tool's file, into records for all commands.

    Rows are read and written a few at a time. `FILE.import.json` (the source, its hash or
    revision, the rules, counts) and `FILE.skipped.jsonl` (every row left out, with the reason)
    are written beside the output FILE.

    Args:
        source: a file (`.parquet`, `.jsonl`, `.json`), a folder, or a name on the hub.
        out: the file to write: `.parquet` holds the images' bytes; `.jsonl` holds paths, and copies
            of images that are not under its folder. Not needed for --dry-run.
        as_: a set or a shape of docs/data.md; `auto` recognizes it by the first rows and prints
            the reason.
        kind: kind of the records; the set's own kind if not set.
        images_root: the folder that image paths are relative to; SOURCE's own if not set.
        rules: how rows are converted.
        subset: subset of a set on the hub (a configuration, in Datasets' words).
        split: split of a folder or of a set on the hub.
        revision: commit, branch or tag of a set on the hub; the newest if not set.
        limit: read only the first N rows.
        dry_run: write nothing; print counts, the mapping, five records, and the rows left out.
    """
    rules.check()
    if not dry_run:
        out = _writable(out, source)
        if rules.images == "refer" and out.suffix.lower() != ".jsonl":
            raise UserError("--images refer goes with a .jsonl file; Parquet holds the bytes.")
    opened = open_source(source, subset, split, revision)
    first = list(islice(opened.rows(), FIRST_ROWS))
    if not first:
        raise UserError(f"{source} holds no rows.")
    found = find_set(as_, [row for _, row in first], source)
    work = Conversion(opened, found, rules, kind, images_root, limit)
    _tell(work, first)
    if dry_run or out is None:
        shown = list(islice(work.records(), SHOWN))
        _show(shown)
        deque(work.records(), maxlen=0)
        _tell_counts(work)
        return
    if work.rules.images == "refer":
        write_jsonl(out, _referring(work.records(), (images_root or opened.root).resolve()))
    else:
        write_records(work.records(), out, work.kind)
    _tell_counts(work)
    write_jsonl(_beside(out, "skipped.jsonl"), work.skipped + work.parts)
    write_json(_beside(out, "import.json"), work.recipe(as_, subset, split, images_root))
    print(are_in(work.made, f"{work.kind} records", out))


@dataclass
class Conversion:
    """The rows of a set on their way to records, with what is left out.

    Attributes:
        source: where the rows are.
        found: what they were taken for.
        given: the user's own rules.
        wanted: the kind that was asked for.
        images_root: what image paths are relative to, if not the source's folder.
        limit: read only so many rows.
        read: rows that were read so far.
        made: records that came of them.
        skipped: rows of `skipped.jsonl` that stand for a record that is left out.
        parts: those that stand for a response or a rating that a record was made without.
        ignored: columns that nothing is read from.
    """

    source: Source
    found: Recognized
    given: Rules
    wanted: Kind | None = None
    images_root: Path | None = None
    limit: int | None = None
    read: int = 0
    made: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    parts: list[SkippedRow] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kind: Kind = self.wanted or self.found.taken_for.kind
        self.rules = self.given.over(self.found.taken_for.rules)
        self._records = self._convert()

    def records(self) -> Iterator[CheckedRow]:
        """The records, each once, whoever asks.

        Raises:
            UserError: at their end, if there was none.
        """
        yield from self._records
        if not self.made:
            raise UserError(
                f"{self.source.name}: no row can be used. "
                f"{describe_skipped(self.skipped + self.parts)}"
            )

    def made_of(self, row: object) -> list[dict[str, object] | RowError]:
        """What comes of one row alone, not checked."""
        one, place = self.found.taken_for, Place(self.source.name, 1)
        return [made for _, made in imported([(place, row)], one, self.rules, self.kind)]

    def recipe(
        self, asked: str, subset: str | None, split: str, root: Path | None
    ) -> dict[str, object]:
        """What `import.json` says."""
        one = self.found.taken_for
        hashes = {str(path): hash_file(path) for path in self.source.files}
        rules = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.rules).items()}
        return {
            "source": self.source.name,
            "revision": self.source.revision,
            "files": hashes,
            "set": one.name,
            "asked": asked,
            "hub": one.hub,
            "license": one.license,
            "kind": self.kind,
            "subset": subset,
            "split": split,
            "images_root": None if root is None else str(root),
            "rules": rules,
            "rows": self.read,
            "records": self.made,
            "left_out": len(self.skipped),
            "parts_left_out": len(self.parts),
        }

    def _convert(self) -> Iterator[CheckedRow]:
        root = self.images_root or self.source.root
        checker = RowChecker(self.kind, root, repeats=True)
        chunk: list[tuple[Place, Any]] = []
        one = self.found.taken_for
        for placed in imported(self._counted(), one, self.rules, self.kind):
            chunk.append(placed)
            if len(chunk) >= AT_A_TIME:
                yield from self._check(checker, chunk)
                chunk = []
        yield from self._check(checker, chunk)
        self.ignored = checker.ignored
        checker.refuse_lost_images(self.source.name, self.read)

    def _counted(self) -> Iterator[tuple[Place, object]]:
        rows = islice(self.source.rows(), self.limit)
        for place, row in track(rows, f"importing {self.source.name}", self.limit):
            self.read += 1
            yield place, row

    def _check(
        self, checker: RowChecker, chunk: Sequence[tuple[Place, Any]]
    ) -> Iterator[CheckedRow]:
        good = checker.usable([(number, made) for number, (_, made) in enumerate(chunk)])
        for problem in checker.problems:
            place = chunk[problem.row][0]
            is_part = isinstance(chunk[problem.row][1], PartError)
            (self.parts if is_part else self.skipped).append(
                {
                    "id": problem.id,
                    "file": place.file,
                    "row": place.row,
                    "field": problem.field,
                    "reason": problem.reason,
                }
            )
        checker.problems.clear()
        checker.numbers.clear()
        self.made += len(good)
        yield from good


def describe_skipped(skipped: Sequence[SkippedRow]) -> str:
    """What was left out, by reason, with the first row of each."""
    reasons: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], SkippedRow] = {}
    for row in skipped:
        key = (row["field"], _PARTICULAR.sub("...", row["reason"]))
        reasons[key] += 1
        example.setdefault(key, row)
    told = []
    for key, count in reasons.most_common():
        row = example[key]
        told.append(f"{count} x {row['field']}: {row['reason']} (first: row {row['row']})")
    return "; ".join(told[:SHOWN]) + (f"; and {len(told) - SHOWN} more" * (len(told) > SHOWN))


def _referring(records: Iterable[CheckedRow], root: Path) -> Iterator[dict[str, object]]:
    """Records whose images are paths below a folder.

    Raises:
        UserError: an image is bytes.
    """
    for record in records:
        row: dict[str, object] = dict(record)
        for name in IMAGE_FIELDS:
            if name not in record:
                continue
            cells = record[name]
            paths = [cell["path"] for cell in cells if not cell["bytes"] and cell["path"]]
            if len(paths) < len(cells):
                raise UserError(
                    f"--images refer: {record['id']} has an image as bytes, not as a file. Set "
                    "--images copy."
                )
            row[name] = [Path(path).relative_to(root).as_posix() for path in paths]
        yield row


def _writable(out: Path | None, source: str) -> Path:
    if out is None:
        raise UserError("--out is missing: the file to write, .parquet or .jsonl.")
    if out.suffix.lower() not in (".parquet", ".jsonl"):
        raise UserError(f"--out {out} must end in .parquet or .jsonl; that decides its form.")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it.")
    if out.exists() and (
        out.resolve() == Path(source).resolve() or not _beside(out, "import.json").is_file()
    ):
        raise UserError(f"--out {out} exists, and no import wrote it. Name a new file.")
    return out


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def _tell(work: Conversion, first: Sequence[tuple[Place, object]]) -> None:
    """Print what the set is read as, why, and from which columns records are made."""
    one, reason = work.found.taken_for, work.found.reason
    note = f"\nNote: {one.note}." if one.note else ""
    about = "" if reason == AS_ASKED else f": {reason}"
    print(f"Read as {one.name} (shape {one.shape}){about}. It becomes {work.kind} records.{note}")
    rows = ((place, row) for place, row in first if isinstance(row, Mapping))
    made = ((row, new) for _, row in rows for new in work.made_of(row) if isinstance(new, dict))
    row, new = next(made, ({}, {}))
    known = mapping(row, new) | (work.rules.columns or {})
    if known:
        told = [
            ours if ours == theirs else f"{ours} from {theirs}" for ours, theirs in known.items()
        ]
        print(f"Read: {', '.join(told)}.")


def _tell_counts(work: Conversion) -> None:
    print(f"{counted(work.read, 'rows')} gave {counted(work.made, 'records')}.")
    if work.ignored:
        print(f"Not used: {', '.join(sorted(work.ignored))}.")
    if work.skipped:
        total = work.made + len(work.skipped)
        left = part_of(len(work.skipped), total, "records", "is", "are")
        print(f"{left} left out: {describe_skipped(work.skipped)}.")
    if work.parts:
        print(
            f"Records are made without {len(work.parts)} of their responses or ratings: "
            f"{describe_skipped(work.parts)}."
        )


def _show(records: Sequence[CheckedRow]) -> None:
    for record in records:
        told = {"id": record["id"], "images": [_image(one) for one in record["images"]]}
        for name in ("prompt", "messages", "chosen", "rejected"):
            if name in record:
                told[name] = text_of(record[name])[:200]
        if "responses" in record:
            told["responses"] = [text_of(one)[:100] for one in record["responses"]]
        print(json.dumps(told, ensure_ascii=False))


def _image(image: ImageCell) -> str:
    held = image["bytes"]
    return str(image["path"]) if not held else f"{len(held)} bytes"
