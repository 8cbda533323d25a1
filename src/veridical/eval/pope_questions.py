"""POPE's questions, read from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from veridical.data.object_questions import SPLITS, ObjectQuestion
from veridical.eval.answers import read_json_rows
from veridical.runtime.errors import UserError

OTHER_SOURCES = ("aokvqa", "gqa")
"""Where POPE's questions are from that are not COCO's; their ids begin at 1 too."""


def read_questions(paths: Sequence[Path]) -> list[ObjectQuestion]:
    """Read POPE's files: JSON Lines {"question_id", "image", "text", "label"}.

    The split is the row's `split`, else the one that the file's name has in it
    (`coco_pope_popular.json`), else the file's name. POPE's files of A-OKVQA and GQA are JSON lists
    of the same rows, and splits of their own: `aokvqa_popular`, `gqa_popular`.

    Raises:
        UserError: a line is not of that form; it is named.
    """
    questions = []
    for path in paths:
        named = split_of(path.stem)
        for number, row in enumerate(read_json_rows(path), start=1):
            questions.append(_question(row, named, f"{path}, row {number}"))
    if not questions:
        raise UserError(f"No questions in {', '.join(map(str, paths))}.")
    return questions


def split_of(stem: str) -> str:
    """The split that a file's name says."""
    split = next((split for split in SPLITS if split in stem), stem)
    source = next((name for name in OTHER_SOURCES if stem.startswith(f"{name}_")), "")
    return f"{source}_{split}" if source and split != stem else split


Relabels: TypeAlias = Mapping[tuple[str, str], str]
"""Other labels, by split and question id."""


def read_relabels(paths: Sequence[Path], questions: Sequence[ObjectQuestion]) -> Relabels:
    """Read corrected labels of the same questions: RePOPE's files, which have POPE's form.

    A question that they lack was taken out.

    Raises:
        UserError: a line is not of that form, or is another question than the one of its id.
    """
    asked = {(question.split, question.question_id): question for question in questions}
    found = {}
    for label in read_questions(paths):
        question = asked.get((label.split, label.question_id))
        own = label.text, label.image
        if question is None or own != (question.text, question.image):
            raise UserError(
                f"--relabeled has question {label.question_id} ({label.split}), {label.text!r} on "
                f"{label.image}, which --questions lacks. Give the files of the same splits."
            )
        found[label.split, label.question_id] = label.label
    return found


def _question(row: Any, split: str, place: str) -> ObjectQuestion:
    fields = ("question_id", "image", "text", "label")
    if not isinstance(row, dict) or any(field not in row for field in fields):
        has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{place}: a POPE question has {', '.join(fields)}; this has {has}.")
    label = str(row["label"]).strip().lower()
    if label not in ("yes", "no"):
        raise UserError(f"{place}: label must be yes or no, not {row['label']!r}.")
    image = str(row["image"])
    return ObjectQuestion(
        question_id=str(row["question_id"]),
        image=image,
        image_id=str(row.get("image_id", Path(image).stem)),
        split=str(row.get("split", split)),
        text=str(row["text"]),
        label="yes" if label == "yes" else "no",
    )
