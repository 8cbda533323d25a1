"""MM-Vet: open questions that need several capabilities; a model scores them (Yu et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from veridical.data.text.thoughts import answer_of
from veridical.eval.answers import read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import (
    NOBODY,
    Asked,
    Grader,
    Grading,
    filled,
    has_failed,
    judge_words,
    values_of,
)
from veridical.eval.hub_files import HubSet, by_id, content_name
from veridical.eval.published import (
    PublishedQuestion,
    ask_all,
    check_files,
    match_by_id,
    name_rule,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_text
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

Rule: TypeAlias = Literal["corrected", "official"]
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
SHOWN = ("question", "reference", "answer")
WORDS = """Score how correct an answer to a question about an image is, from 0.0 (wrong) to 1.0 \
(right) in steps of 0.1. The reference says what a right answer holds: where parts are joined by \
<AND>, all of them; where they are joined by <OR>, any one of them. An answer with some of what it \
needs gets a part of the score.

Question: {question}
Reference: {reference}
Answer: {answer}

Reply with the number alone."""


@dataclass(frozen=True)
class MmvetOptions:
    """What MM-Vet asks, and how answers are judged.

    Attributes:
        files: mm-vet.json, as published.
        rule: `corrected` counts an answer in no score whose mark cannot be read; `official` reads
            the first word of a reply, and gives 0 where that is never a number from 0 to 1.
        judge_prompt: a text file with {question}, {reference} and {answer} in it, what the judge is
            asked; our own words if not set.
    """

    files: Path
    rule: Rule = "corrected"
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        return read_mmvet(self.files)

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_mmvet(path: Path) -> list[PublishedQuestion]:
    """The questions of mm-vet.json.

    Raises:
        UserError: a row is of another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path} must be JSON {{"v1_0": {{"imagename", "question", ...}}}}.')
    found = []
    for id, row in content.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}, {id}: must be an object with imagename, question, answer.")
        texts = text_fields(row, ("imagename", "question", "answer"), f"{path}, {id}")
        needed = row.get("capability")
        known = isinstance(needed, list) and all(name in CAPABILITIES for name in needed)
        if not needed or not known:
            raise UserError(f"{path}, {id}: capability must list {', '.join(CAPABILITIES)}.")
        stem = PurePosixPath(texts["imagename"]).stem
        found.append(
            PublishedQuestion(
                id, texts["imagename"], stem, texts["question"], texts["answer"],
                about={"capability": needed},
            )
        )  # fmt: skip
    return found


def match_answers(options: MmvetOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """JSON Lines or a list of rows by our ids, or MM-Vet's own {id: answer}."""
        if read_text(path).lstrip()[:1] != "{" or path.suffix == ".jsonl":
            return read_answer_rows(path, "question_id")
        content = read_json(path)
        if not content or not all(isinstance(answer, str) for answer in content.values()):
            raise UserError(f'{path} must be JSON {{"v1_0": "answer", ...}}.')
        return [{"question_id": id, "answer": answer_of(text)} for id, text in content.items()]

    return match_by_id(options.questions, evaluation, read=read)


def ask_judge(options: MmvetOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """One question about each answer; <AND> and <OR> stand between spaces, as in the original."""
    reference = row["expected"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    values = {"question": row["question"], "reference": reference, "answer": row["answer"]}
    return [Asked(filled(options.words, values))]


def read_reply(options: MmvetOptions, row: Row, number: int, reply: str) -> float:
    """The mark in a reply.

    Official: what stands before the first space. Corrected: the only number in the reply.

    Raises:
        UnreadableError: that is not a number from 0 to 1.
    """
    if options.rule == "official":
        words = [reply.split(" ")[0].strip()]
    else:
        words = sorted(set(re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)", reply)))
    try:
        marks = [float(word) for word in words]
    except ValueError:
        marks = []
    if len(marks) != 1 or not 0 <= marks[0] <= 1:
        raise UnreadableError("it is not a number from 0 to 1")
    return marks[0]


def judge_rows(
    options: MmvetOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with their marks; None where one could not be read, by the official rule 0."""
    judged = []
    for row in rows:
        mark = values_of(row)[0]
        unread = mark is None
        if unread and options.rule == "official" and not has_failed(row):
            mark = 0.0
        judged.append({**row, "rule": options.rule, "mark": mark, "unread": unread})
    return judged


def mmvet_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster(
        (
            row["image_id"],
            {
                "rows": 1.0,
                "unread": float(row["unread"]),
                "marked": float(row["mark"] is not None),
                "mark": float(row["mark"] or 0.0),
            },
        )
        for row in rows
    )


def by_capability(rows: Rows) -> dict[str, Rows]:
    """The rows that need each capability; a row counts in several."""
    groups = {name: [row for row in rows if name in row["capability"]] for name in CAPABILITIES}
    return {name: own for name, own in groups.items() if own}


MMVET = BenchmarkDescription(
    name="mmvet",
    title="MM-Vet",
    done="Open questions were asked, and the answers scored",
    headline="score",
    meaning="the mean score of the answers",
    asked="questions about",
    metrics=(
        MetricDescription("score", "Mean score", "MM-Vet", better="higher", shown="top"),
        MetricDescription(
            "unread", "Answers whose score could not be read", "MM-Vet", better="lower",
            caution="By the corrected rule such answers count in no score, by the official as 0.",
        ),
    ),
)  # fmt: skip
"""What MM-Vet is called, and how its metrics are shown."""


def _published(row: Row) -> tuple[str, JsonObject]:
    needed = row["capability"]
    needed = needed if isinstance(needed, list) else [one.strip() for one in needed.split(",")]
    return row["question_id"], {
        "imagename": content_name(row), "question": row["question"], "answer": row["answer"],
        "capability": needed,
    }  # fmt: skip


HUB = HubSet("lmms-lab/MMVet", [(None, "test")], _published, content_name, by_id)

BENCHMARK = Benchmark(
    description=MMVET,
    judged="answers.jsonl",
    sums=mmvet_sums,
    formulas=[
        Metric("score", Ratio("mark", "marked"), "marked"),
        Metric("unread", Ratio("unread", "rows"), "rows"),
    ],
    groups=by_capability,
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("mark", "unread", "capability"),
    asks=Asks(
        options=MmvetOptions,
        max_new_tokens=512,
        label="questions",
        check=check_files,
        read=ask_all,
        match=match_answers,
        judge=judge_rows,
        remark=name_rule,
        grader=Grader(
            ask=ask_judge,
            read=read_reply,
            max_new_tokens=16,
            template=lambda options: options.words,
            may_be_cut=lambda options: options.rule == "official",
        ),
        hub=HUB,
    ),
)


def eval_mmvet(
    mmvet: MmvetOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask open questions that need several capabilities, and have the answers scored (MM-Vet).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (score and unread, also of the questions
    that need each of rec, ocr, know, gen, spat and math; 95 % intervals clustered by image) and
    `run.json`. Run again with the same settings, it continues. Answers have at most 512 tokens if
    not set. Answers made elsewhere have MM-Vet's own form, {"v1_0": "answer"}, or are JSON Lines
    {"question_id", "answer"}.

    Args:
        mmvet: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.
        grading: who judges the answers.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, mmvet, out, subject, asking, grading=grading)
