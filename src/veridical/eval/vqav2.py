"""VQAv2: short answers about images, compared with ten people's (Goyal et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.eval.asks import Asks, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet
from veridical.eval.published import PublishedQuestion, check_files, match_all, name_rule
from veridical.eval.run import run_benchmark
from veridical.eval.short_answers import (
    FORMULAS,
    INSTRUCTION,
    ask_shortly,
    by_fields,
    describe_short_answers,
    rows_of,
    short_sums,
    with_prompts,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import Estimate
from veridical.scoring.vqa_rules import Rule, agreement, normalized_pair


@dataclass(frozen=True)
class Vqav2Options:
    """What VQAv2 asks, and how answers are compared.

    Attributes:
        files: the annotations, v2_mscoco_val2014_annotations.json.
        questions_file: the questions, v2_OpenEnded_mscoco_val2014_questions.json; a copy on the hub
            is named for both.
        rule: `corrected` normalizes people's answers as it does the model's; `official` removes
            only their punctuation, and only where they differ.
        image_name: how an image's file is called; {id} stands for its number, as {id:012d}.
        prompts: whole prompts, JSON Lines {"question_id", "text"}.
        instruction: put after each question on a line of its own, where there are no `prompts`.
    """

    files: Path
    questions_file: Path
    rule: Rule = "corrected"
    image_name: str = "COCO_val2014_{id:012d}.jpg"
    prompts: Path | None = None
    instruction: str = INSTRUCTION

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of their file."""
        questions = read_vqav2(self.questions_file, self.files, self.image_name)
        return with_prompts(questions, self.prompts, lambda row: [str(row["question_id"])])


def read_vqav2(questions: Path, annotations: Path, image_name: str) -> list[PublishedQuestion]:
    """The questions with their ten answers.

    Raises:
        UserError: a file is of another form, or a question has no annotation.
    """
    answers = {}
    for number, row in enumerate(rows_of(read_json(annotations), "annotations", annotations), 1):
        given = row.get("answers")
        texts = [one.get("answer") for one in given if isinstance(one, dict)] if isinstance(given, list) else []  # noqa: E501  # fmt: skip
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f'{annotations}, row {number}: answers must be [{{"answer": "text"}}].')
        answers[str(row.get("question_id"))] = texts, str(row.get("answer_type") or "")
    found = []
    for number, row in enumerate(rows_of(read_json(questions), "questions", questions), 1):
        id, image, text = str(row.get("question_id")), row.get("image_id"), row.get("question")
        if not isinstance(image, int) or not isinstance(text, str):
            raise UserError(f"{questions}, row {number}: needs question_id, image_id and question.")
        if id not in answers:
            raise UserError(f"{annotations} has no answers to question {id} of {questions}.")
        people, type = answers[id]
        name = _image_name(image_name, image)
        about = {"answer_type": type}
        found.append(PublishedQuestion(id, name, str(image), text, people, about=about))
    return found


def _image_name(pattern: str, image: int) -> str:
    try:
        return pattern.format(id=image)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"--image-name {pattern!r} must have {{id}} or {{id:012d}} in it, and no other braces."
        ) from error


def judge_rows(
    options: Vqav2Options, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with the accuracy of each answer."""
    judged = []
    for row in rows:
        said, people = normalized_pair(row["answer"], row["expected"], options.rule)
        judged.append({**row, "rule": options.rule, "compared": said,
                       "accuracy": agreement(said, people)})  # fmt: skip
    return judged


ANNOTATED = ("question_id", "image_id", "answer_type", "answers")


def _write_both(path: Path, rows: list[Any]) -> None:
    """Annotations and questions in one file, for both options."""
    annotations = [{name: row[name] for name in ANNOTATED} for row in rows]
    asked = [{name: row[name] for name in ("question_id", "image_id", "question")} for row in rows]
    write_json(path, {"annotations": annotations, "questions": asked})


HUB = HubSet(
    "lmms-lab/VQAv2", [(None, "validation")],
    lambda row: {name: row[name] for name in (*ANNOTATED, "question")},
    lambda row: f"COCO_val2014_{row['image_id']:012d}.jpg",
    _write_both,
)  # fmt: skip

BENCHMARK = Benchmark(
    description=describe_short_answers("vqav2", "VQAv2"),
    judged="answers.jsonl",
    sums=short_sums,
    formulas=FORMULAS,
    groups=by_fields("answer_type"),
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("accuracy", "compared", "answer_type"),
    asks=Asks(
        options=Vqav2Options,
        max_new_tokens=128,
        label="questions",
        check=check_files,
        read=ask_shortly,
        match=match_all,
        judge=judge_rows,
        remark=name_rule,
        hub=HUB,
    ),
)


def eval_vqav2(
    vqav2: Vqav2Options,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask questions about images, and compare the short answers with ten people's (VQAv2).

    Writes `answers.jsonl`, `scores.json` (accuracy, empty, also by type of answer; 95 % intervals
    clustered by image) and `run.json`. Run again with the same settings, it continues. Answers have
    at most 128 tokens if not set. Answers made elsewhere are VQA's result file, a JSON list of
    {"question_id", "answer"}, or JSON Lines.

    Args:
        vqav2: what is asked, and how answers are compared.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, vqav2, out, subject, asking)
