"""GQA: questions built from scene graphs, with one short answer each (Hudson & Manning 2019)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from veridical.eval.answers import raw_answer_rows, read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet, by_id
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    check_files,
    match_by_id,
    name_rule,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.eval.short_answers import (
    FORMULAS,
    INSTRUCTION,
    ask_shortly,
    by_fields,
    describe_short_answers,
    short_sums,
    with_prompts,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import Estimate
from veridical.scoring.vqa_rules import Rule


@dataclass(frozen=True)
class GqaOptions:
    """What GQA asks, and how answers are compared.

    Attributes:
        files: the questions, such as testdev_balanced_questions.json.
        rule: `official` takes an answer that equals GQA's in every character; `corrected` ignores
            case, punctuation at both ends and an article before it.
        prompts: whole prompts, JSON Lines {"question_id", "text"}.
        instruction: put after each question on a line of its own, where there are no `prompts`.
    """

    files: Path
    rule: Rule = "corrected"
    prompts: Path | None = None
    instruction: str = INSTRUCTION

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        questions = read_gqa(self.files)
        return with_prompts(questions, self.prompts, lambda row: [str(row["question_id"])])


def read_gqa(path: Path) -> list[PublishedQuestion]:
    """The questions of GQA's file.

    Raises:
        UserError: a row is of another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path} must be JSON {{"id": {{"question", "imageId", "answer"}}}}.')
    found = []
    for id, row in content.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}, {id}: must be an object with question, imageId and answer.")
        texts = text_fields(row, ("question", "imageId", "answer"), f"{path}, {id}")
        types = row.get("types")
        structural = str(types.get("structural") or "") if isinstance(types, dict) else ""
        kind = "" if not structural else "open" if structural == "query" else "binary"
        about = {"kind": kind, "structural": structural}
        image = texts["imageId"]
        found.append(
            PublishedQuestion(
                id, f"{image}.jpg", image, texts["question"], texts["answer"], about=about
            )
        )
    return found


def match_answers(options: GqaOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """Rows by `question_id`, or by GQA's `questionId`, with a `prediction`."""
        rows = raw_answer_rows(path)
        own = all_have(rows, "questionId")
        named = read_answer_rows(path, "questionId" if own else "question_id")
        return [{**row, "question_id": row["questionId"]} for row in named] if own else named

    return match_by_id(options.questions, evaluation, read=read)


def compared(text: str, rule: Rule) -> str:
    """An answer as it is compared."""
    if rule == "official":
        return text
    bare = re.sub(r"^\W+|\W+$", "", text.lower())
    return re.sub(r"^(?:an?|the)\s+(?=\w)", "", " ".join(bare.split()))


def judge_rows(
    options: GqaOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with whether each answer is right."""
    judged = []
    for row in rows:
        said = compared(row["answer"], options.rule)
        right = said == compared(row["expected"], options.rule)
        judged.append({**row, "rule": options.rule, "compared": said.strip(),
                       "accuracy": float(right)})  # fmt: skip
    return judged


def _published(row: Row) -> tuple[str, JsonObject] | None:
    """A question by its id; None for a row of the images alone."""
    if "imageId" not in row:
        return None
    return row["id"], {name: row[name] for name in ("question", "imageId", "answer", "types")}


HUB = HubSet(
    "lmms-lab/GQA",
    [("testdev_balanced_instructions", "testdev"), ("testdev_balanced_images", "testdev")],
    _published, lambda row: "" if "imageId" in row else f"{row['id']}.jpg", by_id,
)  # fmt: skip

BENCHMARK = Benchmark(
    description=describe_short_answers("gqa", "GQA"),
    judged="answers.jsonl",
    sums=short_sums,
    formulas=FORMULAS,
    groups=by_fields("kind", "structural"),
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("accuracy", "compared"),
    asks=Asks(
        options=GqaOptions,
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


def eval_gqa(
    gqa: GqaOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask questions built from scene graphs, and score the short answers (GQA).

    Writes `answers.jsonl`, `scores.json` (accuracy, empty, also of open and binary questions and by
    structure; 95 % intervals clustered by image) and `run.json`. Run again with the same settings,
    it continues. Answers have at most 128 tokens if not set. Answers made elsewhere are GQA's own,
    a JSON list of {"questionId", "prediction"}, or JSON Lines {"question_id", "answer"}.

    Args:
        gqa: what is asked, and how answers are compared.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, gqa, out, subject, asking)
