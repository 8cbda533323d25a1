"""`veridical data check`: what is wrong with which row of a set, before anything is trained."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from veridical.data.own_pairs import how_to_measure
from veridical.data.record_kinds import Kind
from veridical.inspection.benchmark_files import read_benchmarks
from veridical.inspection.checks.leakage import leakage_check
from veridical.inspection.checks.truncation import truncation_check
from veridical.inspection.extra import require_packages
from veridical.inspection.findings import Finding, are_findings, by_check, finding_lines
from veridical.inspection.inspecting import Inspection, inspect_file, with_pictures
from veridical.inspection.pictures import Album
from veridical.inspection.repair import RowChange, changes_file, write_repaired
from veridical.inspection.rows import read_rows, recognize_kind
from veridical.inspection.table import RowCheck
from veridical.runtime.errors import FindingsError, UserError
from veridical.runtime.files import check_file, refuse_to_replace, write_jsonl
from veridical.runtime.progress import counted
from veridical.runtime.unchanged import state_of, unchanged

SHOWN = 3
"""Findings of a check that are printed; --out has all of them."""
FORMS = {
    ".parquet": "Parquet",
    ".json": "a JSON list",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
}
NAMES = {
    "preference": "preference pairs",
    "unpaired": "answers without a pair",
    "conversation": "conversations",
    "prompt": "prompts",
    "sample": "sampled responses",
}


def data_check(
    file: Path,
    kind: Literal["auto", "preference", "unpaired", "conversation", "prompt", "sample"] = "auto",
    images_root: Path | None = None,
    images: bool = True,
    model: str | None = None,
    max_length: int | None = None,
    benchmarks: list[Path] | None = None,
    fix: Path | None = None,
    out: Path | None = None,
    fail_on: Literal["error", "warning"] = "error",
) -> None:
    """Check a data set: its format, and what is wrong with which row.

    Exit status: 0 without findings or with warnings only; 1 if a row has an error (commands would
    leave it out, or it would make a benchmark's score invalid); 2 if the file or an option can't
    be used.

    Args:
        file: Records to check: Parquet, JSON Lines or a JSON list.
        kind: What its rows are; `auto` looks at the first ones.
        images_root: The folder that image paths are relative to; the file's own if not set.
        images: Open every image. With false, images are compared by name and not decoded.
        model: Count tokens with this model's processor and template; its weights are not loaded.
        max_length: The longest row in tokens, for --model; the model's own limit if not set.
        benchmarks: Files of benchmarks (JSON, JSON Lines, or folders that have their images), whose
            images and questions must not be in the data.
        fix: Write a copy (.parquet or .jsonl) with what can be fixed safely, and say what changed.
        out: Write all findings into this JSON Lines file.
        fail_on: The lowest level of a finding that makes the exit status 1.
    """
    require_packages("veridical data check", ("datasketch", "imagehash"))
    check_file(file)
    _check_options(file, model, max_length, fix, out)
    known = recognize_kind(file) if kind == "auto" else kind
    root = images_root or file.parent
    more: list[RowCheck] = []
    if benchmarks:
        more.append(leakage_check(read_benchmarks(benchmarks)))
    if model is not None:
        more.append(_truncation(file, known, root, model, max_length))
    since = {file: state_of(file)}
    found = inspect_file(file, known, root, images, tuple(more))
    print("\n".join(report_lines(file, found, fix)))
    if out is not None:
        with unchanged(since=since):
            lines = list(finding_lines(file, found.findings))
        write_jsonl(out, lines)
        print("\n".join(_told_of_findings(file, images_root, found, out)))
    if fix is not None:
        written, changes = write_repaired(file, known, root, found.findings, fix, since)
        print("\n".join(_changes(fix, written, changes)))
    usable = found.bad_rows < found.rows
    measured = (file, images_root) if fix is None else (fix, None)
    if usable and (told := how_to_measure(found.kind, *measured)):
        print(told)
    if any(fail_on in (finding.level, "warning") for finding in found.findings):
        raise FindingsError


def report_lines(file: Path, found: Inspection, fix: Path | None = None) -> Iterator[str]:
    """What was found, for the terminal.

    Args:
        file: that was checked.
        found: in it.
        fix: where the repaired copy goes, if one was asked for.
    """
    form = FORMS[file.suffix.lower()]
    yield f"{file}: {form}, {counted(found.rows, 'rows')} of {NAMES[found.kind]}."
    yield f"  read from the columns {', '.join(sorted(found.columns))}"
    if found.unread:
        yield f"  not read: {', '.join(sorted(found.unread))}"
    for (level, check), findings in by_check(found.findings).items():
        yield ""
        yield f"{level}: {check}, {counted(len(findings), 'findings')}"
        yield from (f"  {finding.place}: {finding.what}" for finding in findings[:SHOWN])
        if len(findings) > SHOWN:
            yield f"  and {len(findings) - SHOWN:,} more"
        yield from (f"  to fix: {fix}" for fix in dict.fromkeys(f.fix for f in findings[:SHOWN]))
    yield ""
    yield _summary(found, fix)


def _summary(found: Inspection, fix: Path | None) -> str:
    if not found.findings:
        return "No findings."
    levels = Counter(finding.level for finding in found.findings)
    parts = [
        f"{counted(levels['error'], 'errors')} in {counted(found.bad_rows, 'rows')}",
        counted(levels["warning"], "warnings"),
    ]
    repairs = _repairs(found.findings)
    said = f". {f'In {fix}' if fix else 'With --fix OUT'}: {', '.join(repairs)}" if repairs else ""
    return f"{', '.join(parts)}{said}."


def _repairs(findings: Sequence[Finding]) -> list[str]:
    """What --fix does for findings, in words: rows are left out, ids and answers changed."""
    left_out = {finding.row for finding in findings if finding.repair == "drop"}
    ids = {finding.row for finding in findings if finding.repair == "rename"} - left_out
    told = [f"{counted(len(left_out), 'rows')} left out"] if left_out else []
    told += [f"{counted(len(ids), 'ids')} changed"] if ids else []
    strips = any(finding.repair == "strip" for finding in findings)
    return told + (["ends of answers changed"] if strips else [])


def _told_of_findings(
    file: Path, images_root: Path | None, found: Inspection, out: Path
) -> Iterator[str]:
    """Where the findings are, and how to leave their rows out."""
    rows = {finding.row for finding in found.findings} - {0}
    yield f"{counted(len(found.findings), 'findings')} in {out}."
    if rows and found.kind == "preference":
        root = "" if images_root is None else f" --images-root {shlex.quote(str(images_root))}"
        yield (
            f"To leave their {counted(len(rows), 'rows')} out: veridical build compose "
            f"{shlex.quote(str(file))} --without-flagged {shlex.quote(str(out))}{root} --out FOLDER"
        )


def _changes(out: Path, written: int, changes: Sequence[RowChange]) -> Iterator[str]:
    yield f"{counted(written, 'rows')} written to {out}. What changed is in {changes_file(out)}:"
    counts = Counter((change.check, change.done.partition(":")[0]) for change in changes)
    if not counts:
        yield "  nothing"
    for (check, done), number in counts.most_common():
        what = "id changed" if check == "ids" else done
        yield f"  {check}: {counted(number, 'rows')}, {what}"


def _check_options(
    file: Path, model: str | None, max_length: int | None, fix: Path | None, out: Path | None
) -> None:
    """Refuse what can't be done before anything is read."""
    if max_length is not None and model is None:
        raise UserError("--max-length is in tokens: name the --model that counts them.")
    for option, path in (("--fix", fix), ("--out", out)):
        if path is not None and path.exists() and path.samefile(file):
            raise UserError(f"{option} {path} is the file that is checked. Name another one.")
    if fix is not None and fix.suffix.lower() not in (".parquet", ".jsonl"):
        raise UserError(f"--fix {fix} must end in .parquet or .jsonl.")
    if fix is not None:
        refuse_to_replace(fix, changes_file(fix).is_file, "a set that --fix wrote", "--fix")
    if out is not None:
        refuse_to_replace(out, lambda: are_findings(out), "a file of findings")


def _truncation(file: Path, kind: Kind, root: Path, model: str, max_length: int | None) -> RowCheck:
    """The check of lengths; PyTorch and Transformers are imported for it alone."""
    from veridical.inspection.lengths import FIRST, measuring, own_limit
    from veridical.models.load import load_without_weights

    policy = load_without_weights(model)
    limit = max_length or own_limit(policy)
    if limit is None:
        raise UserError(f"{model} has no limit of its own. Set --max-length.")
    rows = list(islice(with_pictures(read_rows(file, kind), Album(root)), FIRST))
    usable = [row for row in rows if not any(picture.problem for picture in row.pictures)]
    measure, slow = measuring(policy, usable, limit)
    if slow:
        print(f"Lengths are measured picture by picture, which takes longer: {slow}.")
    return truncation_check(measure, limit, model)
