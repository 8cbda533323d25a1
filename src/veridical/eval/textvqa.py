"""TextVQA: short answers that take reading the text in the image (Singh et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.eval.answers import read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet
from veridical.eval.published import PublishedQuestion, check_files, match_by_id, name_rule
from veridical.eval.run import run_benchmark
from veridical.eval.short_answers import (
    FORMULAS,
    INSTRUCTION,
    ask_shortly,
    describe_short_answers,
    rows_of,
    short_sums,
    with_prompts,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import Estimate
from veridical.scoring.vqa_rules import Rule, agreement, normalized


@dataclass(frozen=True)
class TextvqaOptions:
    """What TextVQA asks, and how answers are compared.

    Attributes:
        files: TextVQA_0.5.1_val.json, as published.
        rule: `official` removes the first 32 periods of an answer only; `corrected` all of them.
            Else both are the published rule.
        prompts: whole prompts, JSON Lines {"question_id", "text"} by image, such as LLaVA's file
            with OCR tokens (llava_textvqa_val_v051_ocr.jsonl).
        instruction: put after each question on a line of its own, where there are no `prompts`.
    """

    files: Path
    rule: Rule = "corrected"
    prompts: Path | None = None
    instruction: str = INSTRUCTION

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        questions = read_textvqa(self.files)
        by_image = ids_by_image(questions)
        return with_prompts(questions, self.prompts, lambda row: by_image[str(row["question_id"])])


def read_textvqa(path: Path) -> list[PublishedQuestion]:
    """The questions of TextVQA's file of annotations.

    Raises:
        UserError: a row is of another form.
    """
    found = []
    for number, row in enumerate(rows_of(read_json(path), "data", path), start=1):
        answers, text, image = row.get("answers"), row.get("question"), row.get("image_id")
        place = f"{path}, row {number}"
        if not isinstance(text, str) or not isinstance(image, str) or not row.get("question_id"):
            raise UserError(f"{place}: needs question_id, image_id and question.")
        if not isinstance(answers, list) or not answers or not all(map(_is_text, answers)):
            raise UserError(f"{place}: answers must be a list of texts.")
        found.append(
            PublishedQuestion(str(row["question_id"]), f"{image}.jpg", image, text, answers)
        )
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def ids_by_image(questions: Sequence[PublishedQuestion]) -> defaultdict[str, list[str]]:
    """The ids of the questions about each image."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for question in questions:
        found[question.image_id].append(question.question_id)
    return found


def match_answers(options: TextvqaOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    texts = {question.question_id: question.text.strip().lower() for question in options.questions}
    by_image = ids_by_image(options.questions)

    def read(path: Path) -> list[JsonObject]:
        """Rows by TextVQA's ids, or as LLaVA's: the image's id, and the prompt."""
        rows = read_answer_rows(path, "question_id")
        return [{**row, "question_id": _id(row)} for row in rows]

    def _id(row: JsonObject) -> str:
        id, prompt = str(row["question_id"]), row.get("prompt")
        if id in texts or not isinstance(prompt, str):
            return id
        lines = {line.strip().lower() for line in prompt.splitlines()}
        return next((one for one in by_image.get(id, []) if texts[one] in lines), id)

    return match_by_id(options.questions, evaluation, read=read)


def judge_rows(
    options: TextvqaOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with the accuracy of each answer."""
    judged = []
    for row in rows:
        said = normalized(row["answer"], options.rule)
        people = [normalized(one, options.rule) for one in row["expected"]]
        judged.append({**row, "rule": options.rule, "compared": said,
                       "accuracy": agreement(said, people)})  # fmt: skip
    return judged


HUB = HubSet(
    "lmms-lab/textvqa", [(None, "validation")],
    lambda row: {name: row[name] for name in ("question_id", "image_id", "question", "answers")},
    lambda row: f"{row['image_id']}.jpg",
    lambda path, rows: write_json(path, {"data": rows}),
)  # fmt: skip

BENCHMARK = Benchmark(
    description=describe_short_answers("textvqa", "TextVQA"),
    judged="answers.jsonl",
    sums=short_sums,
    formulas=FORMULAS,
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("accuracy", "compared"),
    asks=Asks(
        options=TextvqaOptions,
        max_new_tokens=128,
        label="questions",
        check=check_files,
        read=ask_shortly,
        match=match_answers,
        judge=judge_rows,
        remark=name_rule,
        hub=HUB,
    ),
)


def eval_textvqa(
    textvqa: TextvqaOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask questions about the text in images, and score the short answers (TextVQA).

    Writes `answers.jsonl`, `scores.json` (accuracy, empty; 95 % intervals clustered by image) and
    `run.json`. Run again with the same settings, it continues. Answers have at most 128 tokens if
    not set. Answers made elsewhere are JSON Lines {"question_id", "answer"}, or LLaVA's.

    Args:
        textvqa: what is asked, and how answers are compared.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, textvqa, out, subject, asking)
