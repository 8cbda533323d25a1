"""MMBench: multiple choice, right only in every order of the options (Liu et al. 2023)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from veridical.eval.answers import raw_answer_rows, read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.embedded_images import write_embedded
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet, image_bytes
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    match_by_id,
    natural,
    questions_for_model,
)
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.json_types import JsonObject
from veridical.scoring.option_letters import official_option, read_option
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

Rule: TypeAlias = Literal["corrected", "official"]
LETTERS = "ABCD"
ROTATION = 1_000_000
"""What the index of a question grows by with each rotation of its options."""
LONGEST_INDEX = 12
INSTRUCTION = "Reply with the letter of the right option."


@dataclass(frozen=True)
class MmbenchOptions:
    """What MMBench asks, and how answers are read.

    Attributes:
        files: a TSV with answers, such as mmbench_dev.tsv: index, question, hint, A to D, answer,
            category, l2-category and image (base64).
        circular: ask every question once for each rotation of its options; false asks it once.
        rule: `corrected` reads a letter or an option's text, and counts what is unclear apart;
            `official` is VLMEvalKit's exact matching.
        instruction: put after the options on a line of its own.
    """

    files: Path
    circular: bool = True
    rule: Rule = "corrected"
    instruction: str = INSTRUCTION

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the file."""
        return read_tsv(self.files)

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """Every rotation of every question, or the questions alone."""
        return rotated(self.rows, self.circular, self.files)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of a TSV, by the names of its first line.

    Raises:
        UserError: a column is missing, or a row has no index, options or answer.
    """
    csv.field_size_limit(sys.maxsize)  # an image is one field
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    except csv.Error as error:
        raise UserError(f"{path} is not a TSV: {error}.") from error
    if not rows:
        raise UserError(f"{path} has no questions.")
    missing = [
        name for name in ("index", "question", "answer", "image", "A", "B") if name not in rows[0]
    ]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}. Give a TSV that has answers.")
    for number, row in enumerate(rows, start=2):
        index, answer = row["index"] or "", (row["answer"] or "").strip()
        if not (index.isascii() and index.isdecimal() and len(index) <= LONGEST_INDEX):
            raise UserError(f"{path}, line {number}: index must be a number, not {index!r:.40}.")
        if answer not in options_of(row):
            raise UserError(
                f"{path}, line {number}: answer is {answer!r:.40}, which is not an option. "
                "MMBench's test split has no answers."
            )
    return rows


def options_of(row: Mapping[str, str | None]) -> dict[str, str]:
    """The options that a row has, by letter."""
    found = {}
    for letter in LETTERS:
        text = (row.get(letter) or "").strip()
        if not text or text.lower() == "nan":
            break
        found[letter] = text
    return found


def rotated(
    rows: Sequence[Mapping[str, str]], circular: bool, path: Path
) -> list[PublishedQuestion]:
    """The questions, each with the rotations of its options.

    A file that has the rotations already keeps them. A row whose image is a number has the image of
    the row with that index.

    Raises:
        UserError: an index is there twice.
    """
    images = {row["index"]: row.get("image") or "" for row in rows}
    own = any(int(row["index"]) >= ROTATION for row in rows)
    found: dict[str, PublishedQuestion] = {}
    for row in rows:
        options, base = options_of(row), int(row["index"]) % ROTATION
        if own and not circular and int(row["index"]) >= ROTATION:
            continue
        turns = range(len(options)) if circular and not own else range(1)
        for turn in turns:
            question = _question(row, options, base, turn, images)
            if question.question_id in found:
                raise UserError(f"{path}: the index {question.question_id} is there twice.")
            found[question.question_id] = question
    counts: dict[int, int] = {}
    for question in found.values():
        base = question.about["base"]
        counts[base] = counts.get(base, 0) + 1
    return [
        replace(question, about={**question.about, "rotations": counts[question.about["base"]]})
        for question in found.values()
    ]


def _question(
    row: Mapping[str, str],
    options: Mapping[str, str],
    base: int,
    turn: int,
    images: Mapping[str, str],
) -> PublishedQuestion:
    letters, texts = list(options), list(options.values())
    right = letters.index(row["answer"].strip())
    turned = dict(zip(letters, texts[turn:] + texts[:turn], strict=True))
    answer = letters[(right - turn) % len(letters)]
    hint = (row.get("hint") or "").strip()
    pieces = [hint] if hint and hint.lower() != "nan" else []
    pieces += [row["question"] or "", *(f"{letter}. {text}" for letter, text in turned.items())]
    image = image_of(row["index"], images)
    name = hashlib.sha256(image.encode()).hexdigest()[:16]
    about = {
        "base": base, "options": turned, "category": row.get("category") or "",
        "l2_category": row.get("l2-category") or "",
    }  # fmt: skip
    id = str(int(row["index"]) + turn * ROTATION)
    return PublishedQuestion(
        id, f"{name}.jpg", name, row["question"] or "", answer, "\n".join(pieces), about
    )


def image_of(index: str, images: Mapping[str, str]) -> str:
    """The image of a row, which may be that of another."""
    image, seen = images.get(index, ""), {index}
    while image in images and image not in seen:
        seen.add(image)
        image = images[image]
    return image or images.get(str(int(index) % ROTATION), "")


def check_options(options: MmbenchOptions, evaluation: Evaluation) -> None:
    """Read the file before anything is asked.

    Raises:
        UserError: it is not what it must be.
    """
    _ = options.questions


def read_questions(options: MmbenchOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images; their files are written into the run's folder."""
    images = {row["index"]: row.get("image") or "" for row in options.rows}
    found = {image_of(index, images) for index in images}
    named = {f"{hashlib.sha256(image.encode()).hexdigest()[:16]}.jpg": image for image in found}
    names = sorted({question.image for question in options.questions}, key=natural)
    first = names[: evaluation.subject.limit]
    files = write_embedded({name: named[name] for name in first}, evaluation.out)
    return questions_for_model(
        options.questions, evaluation, lambda question: options.instruction, files
    )


def match_answers(options: MmbenchOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """Rows by `index` or `question_id`."""
        rows = raw_answer_rows(path)
        own = all_have(rows, "index")
        named = read_answer_rows(path, "index" if own else "question_id")
        return [{**row, "question_id": row["index"]} for row in named] if own else named

    return match_by_id(options.questions, evaluation, read=read)


def judge_rows(
    options: MmbenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with the letter that each answer names."""
    read = official_option if options.rule == "official" else read_option
    return [
        {**row, "rule": options.rule, "parsed": read(row["answer"], row["options"])} for row in rows
    ]


def remark(
    options: MmbenchOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule."""
    return Remarks({"rule": options.rule}, lines=[f"Rule: {options.rule}."])


def mmbench_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows and of whole questions, added up by image.

    A question of which a rotation was not asked counts for no accuracy.
    """
    nothing = dict.fromkeys(
        ("answers", "unparsed", "right_answers", "questions", "right", "vanilla"), 0.0
    )
    counted: list[tuple[Any, dict[str, float]]] = []
    whole: dict[int, list[Row]] = {}
    for row in rows:
        right = row["parsed"] == row["expected"]
        own = {
            "answers": 1.0,
            "unparsed": float(row["parsed"] is None),
            "right_answers": float(right),
        }
        counted.append((row["image_id"], nothing | own))
        whole.setdefault(row["base"], []).append(row)
    for own_rows in whole.values():
        if len(own_rows) == own_rows[0]["rotations"]:
            right_ones = [row["parsed"] == row["expected"] for row in own_rows]
            first = min(own_rows, key=lambda row: int(row["question_id"]))
            unit = {"questions": 1.0, "right": float(all(right_ones)),
                    "vanilla": float(first["parsed"] == first["expected"])}  # fmt: skip
            counted.append((first["image_id"], nothing | unit))
    return sum_by_cluster(counted)


def by_category(rows: Rows) -> dict[str, Rows]:
    """The rows of each wider and each narrower category."""
    found: dict[str, list[Row]] = {}
    for name in ("l2_category", "category"):
        for row in rows:
            if row[name]:
                found.setdefault(row[name], []).append(row)
    return {**found}


MMBENCH = BenchmarkDescription(
    name="mmbench",
    title="MMBench",
    done="Multiple-choice questions were asked in every rotation of their options",
    headline="accuracy",
    meaning="the share of questions that were answered correctly in every rotation",
    asked="answers about",
    metrics=(
        MetricDescription(
            "accuracy", "Questions right in every rotation", "MMBench, circular", better="higher",
            shown="top",
        ),
        MetricDescription(
            "vanilla", "Questions right in the first order", "MMBench", better="higher",
            shown="table",
        ),
        MetricDescription("answer_accuracy", "Answers right", "MMBench", better="higher"),
        MetricDescription(
            "unparsed", "Answers that name no option", "MMBench, counted as wrong", better="lower"
        ),
    ),
)  # fmt: skip
"""What MMBench is called, and how its metrics are shown."""


def _published(row: Row) -> JsonObject:
    names = ("index", "question", "hint", *LETTERS, "answer", "category", "l2-category")
    image = base64.b64encode(image_bytes(row)).decode()
    return {**{name: row[name] for name in names}, "image": image}


def _write_tsv(path: Path, rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


HUB = HubSet("lmms-lab/MMBench", [("en", "dev")], _published, lambda row: "", _write_tsv)

BENCHMARK = Benchmark(
    description=MMBENCH,
    judged="answers.jsonl",
    sums=mmbench_sums,
    formulas=[
        Metric("accuracy", Ratio("right", "questions"), "questions"),
        Metric("vanilla", Ratio("vanilla", "questions"), "questions"),
        Metric("answer_accuracy", Ratio("right_answers", "answers"), "answers"),
        Metric("unparsed", Ratio("unparsed", "answers"), "answers"),
    ],
    groups=by_category,
    same=("question_id", "question", "expected", "options", "rule"),
    facts="questions or rules",
    needs=("parsed", "base", "rotations"),
    asks=Asks(
        options=MmbenchOptions,
        max_new_tokens=32,
        label="questions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        sees_images=False,
        hub=HUB,
    ),
)


def eval_mmbench(
    mmbench: MmbenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask multiple-choice questions in every rotation of their options, and score them (MMBench).

    Writes the file's images into `question_images`, `answers.jsonl`, `scores.json` (accuracy,
    vanilla, answer_accuracy, unparsed, also by category; 95 % intervals clustered by image) and
    `run.json`. Run again with the same settings, it continues. Answers have at most 32 tokens if
    not set. Answers made elsewhere are JSON Lines {"index", "answer"}; a rotation's index is the
    question's plus 1,000,000 for each step.

    Args:
        mmbench: what is asked, and how answers are read.
        out: the folder to write.
        subject: whose answers. The images are in the file.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, mmbench, out, subject, asking)
