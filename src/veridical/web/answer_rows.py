"""Answers of evaluations as rows of a page: one row for a question, one answer for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.report.folders import Part
from veridical.report.pictures import find_image
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, real_path
from veridical.runtime.pages import answer_field
from veridical.runtime.run_files import DETAILS, SCORES, DescribedAnswerRow
from veridical.runtime.run_record import RECORD, read_fields
from veridical.web.answer_scores import scores_of_answers
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

ANSWERS = "answers.jsonl"
SAID = ("answer", "response", "reply", "text")
ASKED = ("prompt", "question")
SCORED = "metrics"
"""The key under which `_rows` puts an answer's metrics."""
OWN = ("key", "image", "mentions", "objects", *SAID, *ASKED)


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds the answers of an evaluation."""
    return (folder / ANSWERS).is_file()


def by_benchmark(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Evaluations by the title of their benchmark, since only answers to the same stand together.

    One that was cut off before it had scores belongs to the others if these are of one benchmark.

    Raises:
        UserError: a file can't be read.
    """
    titles = [
        SCORES.read(folder)["benchmark"]["title"] if (folder / SCORES.name).is_file() else ""
        for folder in folders
    ]
    known = {title for title in titles if title}
    default = known.pop() if len(known) == 1 else ""
    found: dict[str, list[Path]] = {}
    for folder, title in zip(folders, titles, strict=True):
        found.setdefault(title or default, []).append(folder)
    return found


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as many of its last parts as tell it from the others."""
    parts = [real_path(folder).parts for folder in folders]
    count = 1
    while len({own[-count:] for own in parts}) < len(parts):
        count += 1
        if count > max(map(len, parts)):
            raise UserError(f"{folders[0]} is named twice. Name each evaluation once.")
    # A name that all share at the end, such as the benchmark's, says nothing.
    short = [own[-count:] for own in parts]
    while count > 1 and len({own[:-1] for own in short}) == len(short) and len(short) > 1:
        if len({own[-1] for own in short}) > 1:
            break
        short, count = [own[:-1] for own in short], count - 1
    return ["/".join(own) for own in short]


def shown_answers(folders: Sequence[Path], root: Path | None) -> Iterator[ShownRow]:
    """A row for each question that any of the runs answered, in the order of the first.

    Args:
        folders: of evaluations by one benchmark.
        root: the folder of the images; if None, where the runs' records say they are.

    Raises:
        UserError: a file can't be read.
    """
    names = run_names(folders)
    runs = [_rows(folder) for folder in folders]
    for number, key in enumerate(dict.fromkeys(key for run in runs for key in run), start=1):
        own = {name: run[key] for name, run in zip(names, runs, strict=True) if key in run}
        place = next(i for i, run in enumerate(runs) if key in run)
        yield _row(number, key, own, names, folders[place], root)


def _rows(folder: Path) -> dict[str, dict[str, object]]:
    """Answers by what they are about, with the places of objects where they are known."""
    details: dict[str, DescribedAnswerRow] = {}
    if (folder / DETAILS.name).is_file():
        details = {row["image_id"]: row for row in DETAILS.read(folder)}
    found: dict[str, dict[str, object]] = {}
    rows = read_jsonl(folder / ANSWERS)
    scored = scores_of_answers(folder)
    if len(scored) != len(rows):  # a run that was cut off, or answers of another one
        scored = [{}] * len(rows)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UserError(f"{folder / ANSWERS}, line {number} is not a JSON object.")
        image = str(row.get("image_id", ""))
        key = _key(row)
        # One image may have been asked about twice, in benchmarks without ids of questions.
        while key in found:
            key += "'"
        more, said = details.get(image), _said(row)
        known = {} if more is None else {"objects": more["objects"]}
        same = more is not None and more.get("answer", said) == said
        marked = more["mentions"] if more is not None and same else []
        found[key] = {"objects": [], **known, **row, "mentions": marked, SCORED: scored[number - 1]}
    return found


def _key(row: Mapping[str, Any]) -> str:
    for name in ("question_id", "id"):
        if row.get(name) is not None:
            return str(row[name])
    return " / ".join(str(row[n]) for n in ("image_id", "question") if row.get(n) is not None)


def _said(row: Mapping[str, Any]) -> str:
    return next((str(row[name]) for name in SAID if isinstance(row.get(name), str)), "")


def _row(
    number: int,
    key: str,
    own: Mapping[str, Mapping[str, Any]],
    runs: Sequence[str],
    folder: Path,
    root: Path | None,
) -> ShownRow:
    first = next(iter(own.values()))
    answers = tuple(_answer(name, row) for name, row in own.items())
    fields: dict[str, FieldValue] = {"images": 1 if first.get("image") else 0}
    said = {k: v for k, v in first.items() if isinstance(v, str | int | float) and k not in OWN}
    fields |= named_fields(said, "answer")
    for answer, row in zip(answers, own.values(), strict=True):
        place = runs.index(answer.name)
        stem = _stem(place, len(runs), answer.name)
        fields[f"{stem}_words"] = count_words(answer.text)
        if row.get("mentions"):
            fields[f"{stem}_made_up"] = sum(m.kind == "made_up" for m in answer.marks)
        if place and isinstance(row.get("parsed"), str):
            fields[f"{stem}_parsed"] = row["parsed"]
    fields |= _metrics({name: row[SCORED] for name, row in own.items()}, runs)
    if len(answers) > 1:
        fields["answers_differ"] = len({answer.text for answer in answers}) > 1
    asked = next((str(first[n]) for n in ASKED if isinstance(first.get(n), str)), "")
    images = tuple(_images(first, folder, root))
    return ShownRow(
        number, key, images, (ShownTurn("user", asked),) if asked else (), answers, fields
    )


def _metrics(known: Mapping[str, Mapping[str, float]], runs: Sequence[str]) -> dict[str, float]:
    """The metrics of each answer alone, and of several runs the last minus the first."""
    first, last = known.get(runs[0], {}), known.get(runs[-1], {})
    found: dict[str, float] = {}
    if len(runs) > 1:
        found = {
            answer_field(metric, len(runs)): round(value - first[metric], 6)
            for metric, value in last.items()
            if metric in first
        }
    for place, name in enumerate(runs):
        for metric, value in known.get(name, {}).items():
            found[f"{_stem(place, len(runs), name)}_{metric}"] = value
    return found


def _stem(place: int, runs: int, name: str) -> str:
    """What the fields of a run's answers begin with."""
    if runs == 1:
        return "answer"
    return ("before", "after")[place] if runs == 2 else name


def _images(row: Mapping[str, Any], folder: Path, root: Path | None) -> Iterator[ShownImage]:
    reference = row.get("image")
    if not isinstance(reference, str) or not reference:
        return
    if root is None:
        record = read_fields(folder) if (folder / RECORD).is_file() else {}
        path = find_image(reference, Part(folder, folder, folder.name, "eval", record))
        reference = str(real_path(path)) if path is not None else reference
    yield ShownImage("Image", reference)


def _answer(name: str, row: Mapping[str, Any]) -> ShownAnswer:
    text = _said(row)
    marks = tuple(
        Mark(int(m["start"]), int(m["end"]), "made_up" if m["hallucinated"] else "real")
        for m in row["mentions"]
    )
    about = [
        f"{label}: {row[field]}"
        for field, label in (("label", "true answer"), ("parsed", "read as"), ("score", "score"))
        if row.get(field) is not None
    ]
    return ShownAnswer(name, name, text, marks, tuple(about))
