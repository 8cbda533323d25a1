"""Foreign sets as records: from a file, a folder or the hub, whatever their form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter

from veridical.builders._parts import KEY
from veridical.builders._row_parts import RowParts
from veridical.builders.importing.asked import check_asked, check_columns
from veridical.builders.importing.conversion import Conversion, ImportReport
from veridical.builders.importing.next_steps import command_for
from veridical.builders.importing.telling import (
    is_refused,
    shown,
    told_after,
    told_before,
    too_many,
)
from veridical.data.importers.recognize import AUTO, FIRST_ROWS, find_set
from veridical.data.importers.rules import Rules
from veridical.data.importers.sources import open_source
from veridical.data.own_pairs import how_to_measure
from veridical.data.record_checks import Ids
from veridical.data.record_output import embedded, write_jsonl_records
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow
from veridical.data.records import Kind
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_writable, hash_file, write_json, write_jsonl
from veridical.runtime.progress import are_in
from veridical.runtime.ranges import SHARE
from veridical.runtime.unchanged import state_of, unchanged

SHOWN = 5
SPLIT = "train"
_REPORTS = TypeAdapter(ImportReport)


def data_import(
    source: str,
    out: Path | None = None,
    as_: str = AUTO,
    kind: Kind | None = None,
    images_root: Path | None = None,
    rules: Rules = Rules(),
    subset: str | None = None,
    split: str = SPLIT,
    revision: str | None = None,
    limit: int | None = None,
    max_bad_fraction: float = 0.01,
    dry_run: bool = False,
) -> None:
    """Convert SOURCE, a published set or another tool's file, into records for all commands.

    Rows are read and written a few at a time. `FILE.import.json` (the source, its hash or
    revision, the rules, counts) and `FILE.skipped.jsonl` (every row left out, with the reason)
    are written beside the output FILE. An interrupted import goes on when the command is given
    again: until it is done, what is converted lies in the folder `FILE.parts`.

    Args:
        source: a file (`.parquet`, `.jsonl`, `.json`, `.csv`, `.tsv`), a folder, or a name on the
            hub.
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
        max_bad_fraction: share of records that can't be made above which nothing is written; rows
            that the set's own rule leaves out don't count.
        dry_run: write nothing; print counts, the mapping, five records, and the rows left out. The
            exit status is that of the import.
    """
    given = {
        "source": source, "out": out, "as_": as_, "kind": kind, "images_root": images_root,
        "rules": rules, "subset": subset, "split": split, "revision": revision, "limit": limit,
        "max_bad_fraction": max_bad_fraction, "dry_run": dry_run,
    }  # fmt: skip
    rules.check()
    SHARE.check("max_bad_fraction", max_bad_fraction)
    if not dry_run:
        out = _writable(out, source)
    if rules.images == "refer" and out is not None and out.suffix.lower() != ".jsonl":
        raise UserError("--images refer goes with a .jsonl file; Parquet holds the bytes.")
    _check_parts(Path(source), subset, split, revision)
    opened = open_source(source, subset, split, revision, images_root)
    since = {path: state_of(path) for path in opened.files}
    first = [row for _, row in islice(opened.rows(), FIRST_ROWS)]
    if not first:
        raise UserError(f"{source} holds no rows.")
    check_columns(source, rules.columns or {}, first)
    found = find_set(as_, first, source, rules.columns)
    work = Conversion(opened, found, rules, kind, images_root, limit)
    check_asked(work, first)
    print("\n".join(told_before(work, first)))
    if dry_run or out is None:
        _show(work, first, max_bad_fraction)
        print(f"To import it: {command_for(source, given, data_import)}")
        return
    recipe = work.recipe() | {
        "source": source, "revision": opened.revision, "asked": as_, "subset": subset,
        "split": split, "images_root": None if images_root is None else str(images_root),
        "files": {str(path): hash_file(path) for path in opened.files},
    }  # fmt: skip
    parts = RowParts(_beside(out, "parts"), {**recipe, "suffix": out.suffix.lower()}, work.kind)
    with unchanged(since=since):
        numbers = _convert(work, parts, out.suffix.lower() == ".parquet")
    if is_refused(work, max_bad_fraction):
        parts.refuse()
        raise UserError(too_many(work, max_bad_fraction, parts.folder if numbers else None))
    _write(work, parts, numbers, out)
    print("\n".join(told_after(work, first)))
    report = work.report
    write_jsonl(_beside(out, "skipped.jsonl"), [*report.skipped, *report.by_rule, *report.parts])
    write_json(_beside(out, "import.json"), recipe | _counts(work))
    parts.forget()
    if work.rules.images == "refer" and work.root != out.parent.resolve():
        print(f"Its images are below {work.root}: give --images-root {work.root} to read it.")
    root = work.root if work.rules.images == "refer" and work.root != out.parent.resolve() else None
    if told := how_to_measure(work.kind, out, root):
        print(told)
    print(are_in(report.made, f"{work.kind} records", out))


def _convert(work: Conversion, parts: RowParts, with_bytes: bool) -> list[int]:
    """Convert what an interrupted import has not; gives the numbers of all parts."""

    def known(number: int) -> ImportReport | None:
        about = parts.known(number)
        return None if about is None else _REPORTS.validate_python(about)

    numbers = []
    for number, report, records in work.records(known):
        if records is not None:
            rows = (embedded(row) for row in records) if with_bytes else records
            about = _REPORTS.dump_python(report, mode="json")
            parts.write(number, cast(Iterable[CheckedRow], rows), about)
        numbers.append(number)
    return numbers


def _write(work: Conversion, parts: RowParts, numbers: Sequence[int], out: Path) -> None:
    """Put the parts together; repeated ids get a number."""
    ids = Ids()
    if out.suffix.lower() == ".parquet":
        parts.write_set(out, numbers, ids.unused)
    elif work.rules.images == "refer":
        write_jsonl(out, _referring(parts.rows(numbers, ids.unused), work.root))
    else:
        write_jsonl_records(parts.rows(numbers, ids.unused), out)


def _show(work: Conversion, first: Sequence[object], most: float) -> None:
    """Convert everything and write nothing; print what would come out."""
    left = SHOWN
    for _, _, records in work.records():
        if left and records:
            print("\n".join(shown(records[:left])))
            left -= len(records[:left])
    if not work.report.made:
        raise UserError(too_many(work, most, None))
    print("\n".join(told_after(work, first)))
    if is_refused(work, most):
        raise UserError(
            f"An import would write nothing: that is more than --max-bad-fraction {most:g} allows. "
            "Fix the rows, or set it higher."
        )


def _counts(work: Conversion) -> dict[str, object]:
    """What `import.json` says of the records, beside the recipe."""
    one, report = work.found.taken_for, work.report
    return {
        "hub": one.hub,
        "license": one.license,
        "rows": work.read,
        "records": report.made,
        "left_out": len(report.skipped) + len(report.by_rule),
        "left_out_by_rule": len(report.by_rule),
        "parts_left_out": len(report.parts),
        "questions_without_text": len(report.silent),
    }


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


def _check_parts(source: Path, subset: str | None, split: str, revision: str | None) -> None:
    """Refuse options that say which part of a set is read, where the source has no parts."""
    if source.exists() and revision is not None:
        raise UserError(f"--revision goes with a set on the hub; {source} is here.")
    if source.is_file() and (subset is not None or split != SPLIT):
        option = f"--split {split}" if subset is None else f"--subset {subset}"
        raise UserError(f"{option} goes with a folder or a set on the hub; {source} is a file.")


def _writable(out: Path | None, source: str) -> Path:
    if out is None:
        raise UserError("--out is missing: the file to write, .parquet or .jsonl.")
    if out.suffix.lower() not in (".parquet", ".jsonl"):
        raise UserError(f"--out {out} must end in .parquet or .jsonl; that decides its form.")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it.")
    own = _beside(out, "import.json").is_file() or (_beside(out, "parts") / KEY).is_file()
    if out.exists() and (out.resolve() == Path(source).resolve() or not own):
        raise UserError(f"--out {out} exists, and no import wrote it. Name a new file.")
    check_writable(out)
    return out


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")
