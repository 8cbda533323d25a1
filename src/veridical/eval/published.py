"""Questions of published files: put to a model, or matched with answers made elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from veridical.data.image_checks import find_images
from veridical.data.prompts import Prompt, image_question
from veridical.eval.answers import read_answer_rows, refuse_many
from veridical.eval.asks import AskedItem, GivenAnswers, Questions, Remarks, Row, SkippedQuestion
from veridical.eval.evaluation import Evaluation
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import part_of


class Published(Protocol):
    """Options of a benchmark whose questions are in its files."""

    @property
    def questions(self) -> Sequence[PublishedQuestion]:
        """In the order of the files."""
        ...


class PublishedByRule(Published, Protocol):
    """The same, of a benchmark that is scored by one of several rules."""

    @property
    def rule(self) -> str:
        """Its name."""
        ...


@dataclass(frozen=True)
class PublishedQuestion:
    """One question of a benchmark's files.

    Attributes:
        question_id: distinct within the benchmark.
        image: path of its image in the folder of images, with / between names; "" for none.
        image_id: what is a unit of its own in the statistics: mostly the image.
        text: as published.
        expected: what is right.
        prompt: what a model is asked, where that is not `text`.
        about: further fields of its row in `answers.jsonl`.
    """

    question_id: str
    image: str
    image_id: str
    text: str
    expected: Any
    prompt: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> JsonObject:
        """Its fields of a row of `answers.jsonl`."""
        return {
            "question_id": self.question_id,
            "image_id": self.image_id,
            "image": self.image,
            "question": self.text,
            "expected": self.expected,
            **self.about,
        }

    def asked(self, file: Path | None, instruction: str) -> Prompt:
        """What a model is asked."""
        text = self.prompt or self.text
        return image_question(
            self.question_id, file, f"{text}\n{instruction}" if instruction else text
        )


def questions_for_model(
    questions: Sequence[PublishedQuestion],
    evaluation: Evaluation,
    instruction: Callable[[PublishedQuestion], str] = lambda question: "",
    files: Mapping[str, Path] | None = None,
) -> Questions:
    """The questions about the first images by name, with their images.

    Args:
        questions: all of them, in order.
        evaluation: whose model is asked, about which images.
        instruction: what is put after a question on a line of its own.
        files: the images' files by name; those of the folder of images if not given.
    """
    names = sorted({question.image_id for question in questions}, key=natural)
    first = set(names[: evaluation.subject.limit])
    asked = [question for question in questions if question.image_id in first]
    if files is None:
        files = image_files({question.image for question in asked}, evaluation.subject.images)
    broken = evaluation.asked.unusable_images(files.values())
    items, skipped = [], []
    for question in asked:
        file = files.get(question.image)
        reason = "" if file is None else broken.get(file, "")
        if question.image and file is None:
            reason = "the folder has no such image"
        named = question.question_id, question.image or "image"
        if reason:
            skipped.append({"id": named[0], "field": named[1], "reason": reason})
        else:
            items.append(
                AskedItem(question.asked(file, instruction(question)), question.row, named)
            )
    return Questions(items, skipped, "questions")


def check_files(options: Published, evaluation: Evaluation) -> None:
    """Read the files, and the words of a judge where there are some, before anything is asked.

    Raises:
        UserError: one is not what it must be.
    """
    _ = options.questions, getattr(options, "words", None)


def ask_all(options: Published, evaluation: Evaluation) -> Questions:
    """The questions about the first images by name."""
    return questions_for_model(options.questions, evaluation)


def match_all(options: Published, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    return match_by_id(options.questions, evaluation)


def name_rule(
    options: PublishedByRule, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, beside the scores and on the screen."""
    return Remarks({"rule": options.rule}, lines=[f"Rule: {options.rule}."])


def natural(name: str) -> list[str | int]:
    """A key that sorts names with numbers as people count: 9 before 10."""
    return [int(part) if n % 2 else part for n, part in enumerate(re.split(r"(\d+)", name))]


def image_files(names: Iterable[str], folder: Path | None) -> dict[str, Path]:
    """The files of images that are there, by their names in a benchmark.

    A name with folders is a path within the folder; one without is found whatever its suffix.

    Raises:
        UserError: the folder is none, or a name leads out of it.
    """
    wanted = sorted(name for name in names if name)
    if folder is None or not wanted:
        return {}
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images. Name one with --images.")
    flat = {} if all("/" in name for name in wanted) else find_images(folder)
    found = {}
    for name in wanted:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"The image {name!r} is outside the folder of images. Correct its name."
            )
        file = folder / path if len(path.parts) > 1 else flat.get(path.stem)
        if file is not None and file.is_file():
            found[name] = file
    return found


def match_by_id(
    questions: Sequence[PublishedQuestion],
    evaluation: Evaluation,
    id_field: str = "question_id",
    read: Callable[[Path], Sequence[JsonObject]] | None = None,
) -> GivenAnswers:
    """Answers made elsewhere, each with its question.

    Args:
        questions: all of them, in order.
        evaluation: whose answers are scored.
        id_field: what a question's id is called in files of answers.
        read: reads a file into rows with `id_field` and `answer`; of the usual forms if not given.

    Raises:
        UserError: an id is not a question's or is there twice, or too many questions lack answers.
    """
    paths = evaluation.subject.answers or []
    given = [
        (str(row[id_field]), row["answer"])
        for path in paths
        for row in (read(path) if read else read_answer_rows(path, id_field))
    ]
    known = {question.question_id: question for question in questions}
    twice = [id for id, n in Counter(id for id, _ in given).items() if n > 1]
    if twice:
        raise UserError(f"Several answers have the same id: {', '.join(twice[:5])}. Keep one each.")
    unknown = [id for id, _ in given if id not in known]
    if unknown:
        raise UserError(
            f"{part_of(len(unknown), len(given), 'answers', 'is', 'are')} to no question: "
            f"{', '.join(unknown[:5])}. The files have {len(known)} questions, such as "
            f"{next(iter(known), '')}."
        )
    answers = dict(given)
    skipped: list[SkippedQuestion] = [
        {"id": id, "field": question.image or "answer", "reason": "no answer"}
        for id, question in known.items()
        if id not in answers
    ]
    refuse_many(len(skipped), len(known), "questions", skipped, evaluation.subject.max_bad_fraction)
    rows: list[Row] = [
        {**question.row, "answer": answers[id]} for id, question in known.items() if id in answers
    ]
    return GivenAnswers(rows, skipped)


def all_have(rows: Sequence[Any], name: str) -> bool:
    """Whether there are rows, and every one is an object with a field of this name."""
    return bool(rows) and all(isinstance(row, dict) and name in row for row in rows)


def json_objects(path: Path) -> list[JsonObject]:
    """The rows of a JSON list of objects.

    Raises:
        UserError: the file is missing or is something else.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be a JSON list of objects.")
    return rows


def text_fields(row: Mapping[str, Any], names: Sequence[str], place: str) -> dict[str, str]:
    """Some fields of a row, which must be texts.

    Args:
        row: which has more.
        names: the fields.
        place: names the row in messages.

    Raises:
        UserError: one is missing or is not text.
    """
    for name in names:
        if not isinstance(row.get(name), str):
            raise UserError(f"{place}: {name} must be a text, not {row.get(name)!r:.40}.")
    return {name: row[name] for name in names}
