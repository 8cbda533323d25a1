"""MT-Bench: two-turn questions in text; a model rates every answer (Zheng et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard

from veridical.data.messages import assistant_message, user_message
from veridical.data.prompts import Prompt
from veridical.data.text.thoughts import answer_of
from veridical.eval.answers import read_answer_rows, read_json_rows
from veridical.eval.asks import AskedItem, Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import NOBODY, Asked, Grader, Grading, filled, values_of
from veridical.eval.hub_files import HubSet
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    match_by_id,
    questions_for_model,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

Rule: TypeAlias = Literal["corrected", "official"]
WITH_REFERENCE = ("math", "reasoning", "coding")
"""The categories whose judge sees reference answers."""
LOWEST, HIGHEST = 1, 10
OWN: Mapping[str, str] = {
    "single-v1": "{task}\n\nQuestion: {question}\n\n{answer_part}\n\n{form}",
    "single-math-v1": "{task}\n\nQuestion: {question}\n\nReference answer: {ref_answer_1}\n\n"
    "{answer_part}\n\n{form}",
    "single-v1-multi-turn": "{task} Rate only the second answer.\n\n{turns}\n\n{form}",
    "single-math-v1-multi-turn": "{task} Rate only the second answer.\n\n{turns}\n\n"
    "Reference answer to the first question: {ref_answer_1}\n"
    "Reference answer to the second question: {ref_answer_2}\n\n{form}",
}
PIECES = {
    "task": "Rate an assistant's answer from 1 (worst) to 10 (best) for how helpful, relevant, "
    "accurate, deep, creative and detailed it is. Where there is a reference answer, compare with "
    "it and look for mistakes.",
    "answer_part": "--- Answer begins ---\n{answer}\n--- Answer ends ---",
    "turns": "First question: {question_1}\n\n--- First answer begins ---\n{answer_1}\n"
    "--- First answer ends ---\n\nSecond question: {question_2}\n\n--- Second answer begins ---\n"
    "{answer_2}\n--- Second answer ends ---",
    "form": "Explain in a few sentences, then end with the rating in double brackets, such as "
    "[[5]].",
}


@dataclass(frozen=True)
class MtBenchOptions:
    """What MT-Bench asks, and how answers are rated.

    Attributes:
        files: question.jsonl, as published.
        references: reference_answer_gpt-4.jsonl, which the judge sees for math, reasoning and
            coding; without it they are rated like the rest.
        judge_prompts: FastChat's judge_prompts.jsonl, whose words the judge is asked with; our own
            if not set.
        rule: `official` reads the first [[rating]], else the first [rating], whatever number it
            is; `corrected` needs one rating from 1 to 10 in double brackets. What has none counts
            in no score.
    """

    files: Path
    references: Path | None = None
    judge_prompts: Path | None = None
    rule: Rule = "corrected"

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """Both turns of every question."""
        return read_mt_bench(self.files, self.references)

    @cached_property
    def words(self) -> Mapping[str, str]:
        """What the judge is asked, by the published names of its prompts."""
        if self.judge_prompts is None:
            return {name: filled(text, PIECES) for name, text in OWN.items()}
        return read_judge_prompts(self.judge_prompts)


def read_judge_prompts(path: Path) -> dict[str, str]:
    """FastChat's prompts for rating single answers; the system's words come first.

    Raises:
        UserError: one is missing, or a row is of another form.
    """
    found = {}
    for number, row in enumerate(_objects(path), start=1):
        if row.get("name") in OWN:
            names = ("name", "system_prompt", "prompt_template")
            texts = text_fields(row, names, f"{path}, row {number}")
            found[texts["name"]] = f"{texts['system_prompt']}\n\n{texts['prompt_template']}".strip()
    missing = [name for name in OWN if name not in found]
    if missing:
        raise UserError(f"{path} has no prompt {', '.join(missing)}.")
    return found


def _objects(path: Path) -> list[JsonObject]:
    rows = read_json_rows(path)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be JSON Lines of objects.")
    return rows


def read_mt_bench(path: Path, references: Path | None) -> list[PublishedQuestion]:
    """Both turns of every question, as "81/1" and "81/2".

    Raises:
        UserError: a row is of another form.
    """
    known = {} if references is None else read_references(references)
    found = []
    for number, row in enumerate(_objects(path), start=1):
        place, turns = f"{path}, row {number}", row.get("turns")
        category = text_fields(row, ("category",), place)["category"]
        if not _are_two(turns) or row.get("question_id") is None:
            raise UserError(f"{place}: needs question_id and turns, a list of two texts.")
        id = str(row["question_id"])
        expected = known.get(id, []) if category in WITH_REFERENCE else []
        for n, text in enumerate(turns, start=1):
            about = {"category": category, "turn": n}
            found.append(PublishedQuestion(f"{id}/{n}", "", id, text, expected, about=about))
    return found


def read_references(path: Path) -> dict[str, list[str]]:
    """The reference answers to both turns, by question.

    Raises:
        UserError: a row is of another form.
    """
    found = {}
    for number, row in enumerate(_objects(path), start=1):
        turns = _turns_of(row)
        if row.get("question_id") is None or not turns:
            raise UserError(f"{path}, row {number}: needs question_id and choices of two turns.")
        found[str(row["question_id"])] = turns
    return found


def _turns_of(row: Mapping[str, Any]) -> list[str]:
    """The two answers in a row of FastChat's; empty if it has none."""
    choices = row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    turns = first.get("turns") if isinstance(first, dict) else None
    return list(turns) if isinstance(turns, list) and _are_two(turns) else []


def _are_two(turns: object) -> TypeGuard[list[str]]:
    return isinstance(turns, list) and len(turns) == 2 and all(isinstance(t, str) for t in turns)


def check_options(options: MtBenchOptions, evaluation: Evaluation) -> None:
    """Read the files before anything is asked.

    Raises:
        UserError: one is not what it must be.
    """
    _ = options.questions, options.words


def read_questions(options: MtBenchOptions, evaluation: Evaluation) -> Questions:
    """The first turns of the first questions."""
    first = [question for question in options.questions if question.about["turn"] == 1]
    return questions_for_model(first, evaluation)


def second_turn(options: MtBenchOptions, row: Row) -> AskedItem | None:
    """The second question, after the model's answer to the first."""
    if row["turn"] != 1:
        return None
    id = f"{row['image_id']}/2"
    question = next(one for one in options.questions if one.question_id == id)
    said = [row["question"], answer_of(row["answer"])]
    first, second = user_message(said[0], 0), user_message(question.text, 0)
    messages = [first, assistant_message(said[1]), second]
    return AskedItem(Prompt(id, [], messages), {**question.row, "history": [said]}, (id, "answer"))


def match_answers(options: MtBenchOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question, and the second with the first turn."""

    def read(path: Path) -> list[JsonObject]:
        """FastChat's {"question_id", "choices": [{"turns"}]}, or rows by our ids."""
        rows = read_json_rows(path)
        if not all_have(rows, "choices"):
            return read_answer_rows(path, "question_id")
        found: list[JsonObject] = []
        for number, row in enumerate(rows, start=1):
            turns = _turns_of(row)
            if not turns:
                raise UserError(f"{path}, row {number}: choices must have turns, two texts.")
            found += [
                {"question_id": f"{row.get('question_id')}/{n}", "answer": answer_of(text)}
                for n, text in enumerate(turns, start=1)
            ]
        return found

    given = match_by_id(options.questions, evaluation, read=read)
    first = {row["image_id"]: row for row in given.rows if row["turn"] == 1}
    kept, skipped = [], list(given.skipped)
    for row in given.rows:
        before = first.get(row["image_id"])
        if row["turn"] == 1:
            kept.append(row)
        elif before is not None:
            kept.append({**row, "history": [[before["question"], before["answer"]]]})
        else:
            reason = "no answer to the first turn"
            skipped.append({"id": row["question_id"], "field": "answer", "reason": reason})
    return GivenAnswers(kept, skipped, given.results)


def ask_judge(options: MtBenchOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """One question about each turn's answer; with references where there are any."""
    kind = "single-math-v1" if row["expected"] else "single-v1"
    values = {f"ref_answer_{n}": text for n, text in enumerate(row["expected"], start=1)}
    if row["turn"] == 1:
        values |= {"question": row["question"], "answer": row["answer"]}
        return [Asked(filled(options.words[kind], values))]
    (first, said), *_ = row["history"]
    values |= {"question_1": first, "answer_1": said, "question_2": row["question"],
               "answer_2": row["answer"]}  # fmt: skip
    return [Asked(filled(options.words[f"{kind}-multi-turn"], values))]


def read_reply(options: MtBenchOptions, row: Row, number: int, reply: str) -> float:
    """The rating in a reply.

    Raises:
        UnreadableError: there is none, or by the corrected rule several or one out of range.
    """
    if options.rule == "official":
        number_ = r"(\d+\.?\d*)"
        found = re.search(rf"\[\[{number_}\]\]", reply) or re.search(rf"\[{number_}\]", reply)
        if found is None:
            raise UnreadableError("it has no rating in brackets")
        return float(found[1])
    ratings = {float(text) for text in re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]", reply)}
    if len(ratings) != 1 or not LOWEST <= max(ratings) <= HIGHEST:
        raise UnreadableError("it does not have one rating from 1 to 10 in double brackets")
    return ratings.pop()


def judge_rows(
    options: MtBenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with their ratings; None where one could not be read."""
    return [{**row, "rule": options.rule, "rating": values_of(row)[0]} for row in rows]


def remark(
    options: MtBenchOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, and how many answers were rated beside references."""
    beside = float(sum(bool(row["expected"]) for row in rows))
    about: dict[str, str | float] = {"rule": options.rule, "rated_beside_references": beside}
    return Remarks(about, lines=[f"Rule: {options.rule}."])


def mt_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by question."""
    return sum_by_cluster(
        (
            row["image_id"],
            {
                "answers": 1.0,
                "unread": float(row["rating"] is None),
                "rated": float(row["rating"] is not None),
                "rating": float(row["rating"] or 0.0),
            },
        )
        for row in rows
    )


def by_turn(rows: Rows) -> dict[str, Rows]:
    """The rows of each turn, and of each category."""
    groups = {f"turn_{n}": [row for row in rows if row["turn"] == n] for n in (1, 2)}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    return {name: own for name, own in groups.items() if own}


TITLE = "MT-Bench"

HUB = HubSet(
    "HuggingFaceH4/mt_bench_prompts", [(None, "train")],
    lambda row: {"question_id": row["prompt_id"], "category": row["category"],
                 "turns": list(row["prompt"])},
    lambda row: "",
)  # fmt: skip

BENCHMARK = Benchmark(
    description=BenchmarkDescription(
        name="mt_bench",
        title=TITLE,
        done="Two-turn questions were asked, and the answers rated",
        headline="score",
        meaning="the mean rating of the answers, from 1 to 10",
        asked="answers to",
        metrics=(
            MetricDescription(
                "score", "Mean rating, 1 to 10", TITLE, unit="number", better="higher", shown="top"
            ),
            MetricDescription(
                "unread", "Answers whose rating could not be read", TITLE, better="lower",
                caution="Such answers count in no score.",
            ),
        ),
    ),
    judged="answers.jsonl",
    sums=mt_sums,
    formulas=[
        Metric("score", Ratio("rating", "rated"), "rated", "mean", scale=(1.0, 10.0)),
        Metric("unread", Ratio("unread", "answers"), "answers"),
    ],
    groups=by_turn,
    same=("question_id", "question", "expected", "rule"),
    facts="questions, references or rules",
    needs=("rating", "turn", "category"),
    asks=Asks(
        options=MtBenchOptions,
        max_new_tokens=1024,
        label="questions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        follow_up=second_turn,
        sees_images=False,
        hub=HUB,
        grader=Grader(
            ask=ask_judge, read=read_reply, max_new_tokens=2048,
            template=lambda options: "\n".join(options.words[name] for name in OWN),
            may_be_cut=lambda options: options.rule == "official",
        ),
    ),
)  # fmt: skip


def eval_mt_bench(
    mt_bench: MtBenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask two-turn questions in text, and have the answers rated (MT-Bench).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (score, unread, also by turn and by
    category; 95 % intervals clustered by question) and `run.json`. Run again with the same
    settings, it continues. Answers have at most 1,024 tokens if not set. Answers made elsewhere are
    FastChat's {"question_id", "choices": [{"turns"}]}, or JSON Lines {"question_id": "81/2",
    "answer"}.

    Args:
        mt_bench: what is asked, and how answers are rated.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.
        grading: who rates the answers.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, mt_bench, out, subject, asking, grading=grading)
