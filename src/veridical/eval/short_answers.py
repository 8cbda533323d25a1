"""What benchmarks of short answers share: their prompt, their metrics, their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from veridical.eval.answers import read_json_rows
from veridical.eval.asks import Questions, Row
from veridical.eval.benchmark import Rows
from veridical.eval.evaluation import Evaluation
from veridical.eval.published import PublishedByRule, PublishedQuestion, questions_for_model
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import ClusterSums, Metric, Ratio, sum_by_cluster

INSTRUCTION = "Answer with a word or a short phrase."
FORMULAS = (
    Metric("accuracy", Ratio("right", "questions"), "questions"),
    Metric("empty", Ratio("empty", "questions"), "questions"),
)
"""Of VQA's answers some are partly right: accuracy is then a share of fractional counts."""


def describe_short_answers(name: str, title: str) -> BenchmarkDescription:
    """How such a benchmark is shown."""
    return BenchmarkDescription(
        name=name,
        title=title,
        done="Questions with short answers were asked",
        headline="accuracy",
        meaning="the mean accuracy of the answers",
        asked="questions about",
        metrics=(
            MetricDescription(
                "accuracy", "Short answers right", f"{title} accuracy", better="higher", shown="top"
            ),
            MetricDescription(
                "empty", "Answers without a word", f"{title}, counted as wrong", better="lower"
            ),
        ),
    )


class ShortOptions(PublishedByRule, Protocol):
    """Options of such a benchmark."""

    @property
    def prompts(self) -> Path | None:
        """A file of whole prompts."""
        ...

    @property
    def instruction(self) -> str:
        """What is put after a question that has no prompt."""
        ...


def ask_shortly(options: ShortOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images by name, each with the instruction or its prompt."""
    instruction = "" if options.prompts is not None else options.instruction
    return questions_for_model(options.questions, evaluation, lambda question: instruction)


def short_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster(
        (
            row["image_id"],
            {"questions": 1.0, "right": row["accuracy"], "empty": float(not row["compared"])},
        )
        for row in rows
    )


def by_fields(*names: str) -> Callable[[Rows], dict[str, Rows]]:
    """Groups by the values of some fields of judged rows."""

    def groups(rows: Rows) -> dict[str, Rows]:
        found: dict[str, list[Row]] = {}
        for name in names:
            for row in rows:
                if row.get(name):
                    found.setdefault(str(row[name]), []).append(row)
        return {**found}

    return groups


def with_prompts(
    questions: Sequence[PublishedQuestion], path: Path | None, ids: Callable[[Row], Sequence[str]]
) -> list[PublishedQuestion]:
    """Questions with the prompts of a file, such as LLaVA's question files.

    Args:
        questions: all of them.
        path: JSON Lines {"question_id", "text"}; None changes nothing.
        ids: which questions a row can be the prompt of: the one whose text it has in it.

    Raises:
        UserError: a row is of another form, or a question has no prompt.
    """
    if path is None:
        return list(questions)
    known = {question.question_id: question for question in questions}
    prompts: dict[str, str] = {}
    for number, row in enumerate(read_json_rows(path), start=1):
        own = row if isinstance(row, dict) else {}
        text = own.get("text")
        if not isinstance(text, str) or own.get("question_id") is None:
            raise UserError(f'{path}, row {number}: a prompt has {{"question_id", "text"}}.')
        lines = {line.strip().lower() for line in text.splitlines()}
        fitting = [id for id in ids(own) if id in known and known[id].text.strip().lower() in lines]
        prompts |= dict.fromkeys(fitting, text)
    missing = [id for id in known if id not in prompts]
    if missing:
        raise UserError(
            f"{path} has no prompt for question {missing[0]} and {len(missing) - 1} more."
        )
    return [replace(question, prompt=prompts[question.question_id]) for question in questions]


def rows_of(content: Any, name: str, path: Path) -> list[JsonObject]:
    """The rows of a JSON object that has them under a name.

    Raises:
        UserError: it has not.
    """
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path} must be JSON {{"{name}": [...]}}, a list of objects.')
    return rows
