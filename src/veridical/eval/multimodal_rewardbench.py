"""Multimodal RewardBench: does a judge know the better of two answers? (Yasunaga et al. 2025)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from veridical.eval.asks import Asks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import (
    NOBODY,
    Asked,
    Grader,
    Grading,
    has_failed,
    judge_words,
    values_of,
)
from veridical.eval.judged_pairs import (
    FORMULAS,
    SHOWN,
    WORDS,
    Rule,
    ask_in_orders,
    check_words,
    descriptions,
    judged_in_both_orders,
    match_pairs,
    no_questions,
    pair,
    pair_sums,
    read_better,
    rule_and_baselines,
    with_distinct_ids,
)
from veridical.eval.published import PublishedQuestion, json_objects, text_fields
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import Estimate

FIELDS = ("ID", "Text", "Image", "Output1", "Output2", "Better", "Category")
OUTPUTS = ("Output1", "Output2")
SEED = 123
"""Of the published scorer's coins."""


@dataclass(frozen=True)
class MultimodalRewardbenchOptions:
    """Which pairs the judge sees, and how its replies are read.

    Attributes:
        files: the published JSON list with ID, Text, Image, Output1, Output2, Better, Category.
        rule: `corrected` asks in both orders, and counts replies that cannot be read apart;
            `official` asks in the file's order alone, reads [[A]] before [[B]], and throws a coin
            for a reply that has neither.
        judge_prompt: a text file with {question}, {first} and {second} in it, what the judge is
            asked; our own words if not set. `official` needs the published words.
    """

    files: Path
    rule: Rule = "corrected"
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The pairs, in the order of the file."""
        return read_multimodal_rewardbench(self.files)

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_multimodal_rewardbench(path: Path) -> list[PublishedQuestion]:
    """The pairs of the published file.

    Raises:
        UserError: a row is of another form.
    """
    found = []
    for number, row in enumerate(json_objects(path), start=1):
        place = f"{path}, row {number}"
        texts = text_fields(row, FIELDS, place)
        if texts["Better"] not in OUTPUTS:
            raise UserError(
                f"{place}: Better must be Output1 or Output2, not {row['Better']!r:.40}."
            )
        about = {"category": category_of(texts["Category"], texts["ID"])}
        answers = [texts[name] for name in OUTPUTS]
        better = OUTPUTS.index(texts["Better"])
        found.append(pair(texts["ID"], texts["Image"], texts["Text"], answers, better, about))
    return with_distinct_ids(found)


def category_of(category: str, id: str) -> str:
    """The category as it is scored: safety and reasoning have two parts, which the id tells."""
    start = id.lower()
    if category == "safety":
        return "safety/bias" if start.startswith("pairs") else "safety/toxicity"
    if category == "reasoning":
        return "reasoning/math" if start.startswith("math") else "reasoning/coding"
    return category


def check_options(options: MultimodalRewardbenchOptions, evaluation: Evaluation) -> None:
    """Read the file before anything is asked.

    Raises:
        UserError: it is not what it must be, or the published words are missing.
    """
    check_words(options, evaluation, "[[A]] and [[B]],")


def ask_judge(
    options: MultimodalRewardbenchOptions, evaluation: Evaluation, row: Row
) -> list[Asked]:
    """The question to the judge in both orders, or in the file's."""
    orders = [0] if options.rule == "official" else [0, 1]
    return ask_in_orders(options.words, evaluation, row, orders)


def read_reply(
    options: MultimodalRewardbenchOptions, row: Row, number: int, reply: str
) -> int | str | None:
    """Which answer a reply calls better, by its place in the question.

    Official: 0 where "[[A]]" is in it, else 1 where "[[B]]" is, else "neither".
    """
    if options.rule == "corrected":
        return read_better(reply)
    return 0 if "[[A]]" in reply else 1 if "[[B]]" in reply else "neither"


def judge_rows(
    options: MultimodalRewardbenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The pairs, with what the judge said of each."""
    coins = random.Random(SEED)
    judged = []
    for row in rows:
        if options.rule == "corrected":
            own = judged_in_both_orders(row)
        else:
            said = values_of(row)[0]
            unread = said in (None, "neither")
            choice = int(coins.random() >= 0.5) if unread else said
            looks = [{"first": 0, "choice": None if unread else choice}]
            right = None if has_failed(row) else float(choice == row["expected"])
            own = {"looks": looks, "right": right}
        judged.append({**row, "rule": options.rule, **own})
    return judged


def by_category(rows: Rows) -> dict[str, Rows]:
    """The pairs of each category."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["category"], []).append(row)
    return {**found}


NAME, TITLE = "multimodal_rewardbench", "Multimodal RewardBench"
BENCHMARK = Benchmark(
    description=BenchmarkDescription(
        name=NAME,
        title=TITLE,
        done="A judge compared pairs of answers",
        headline="accuracy",
        meaning="the share of pairs in which the judge prefers the better answer",
        asked="pairs about",
        metrics=descriptions(TITLE),
    ),
    judged="answers.jsonl",
    sums=pair_sums,
    formulas=FORMULAS,
    groups=by_category,
    same=("question_id", "question", "answers", "expected", "rule"),
    facts="pairs or rules",
    needs=("right", "looks", "category"),
    asks=Asks(
        options=MultimodalRewardbenchOptions,
        max_new_tokens=1024,
        label="pairs",
        check=check_options,
        read=no_questions,
        match=match_pairs,
        judge=judge_rows,
        remark=rule_and_baselines,
        sees_images=False,
        answers_in_files=lambda options: True,
        grader=Grader(
            ask=ask_judge,
            read=read_reply,
            max_new_tokens=1024,
            template=lambda options: options.words,
            may_be_cut=lambda options: options.rule == "official",
        ),
    ),
)


def eval_multimodal_rewardbench(
    multimodal_rewardbench: MultimodalRewardbenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Have a judge compare pairs of answers, and score the judge (Multimodal RewardBench).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (accuracy, consistent, first_preferred,
    longer_preferred, unread, left_out, and the baselines shorter_right and first_right; also by
    category; 95 % intervals clustered by image) and `run.json`. Run again with the same settings,
    it continues. The answers are in the file: neither a model nor --answers is given, only --judge.

    Args:
        multimodal_rewardbench: which pairs, and how replies are read.
        out: the folder to write.
        subject: its `images` is the folder of the images.
        asking: how a judge on this machine is loaded.
        grading: the judge that is scored.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, multimodal_rewardbench, out, subject, asking, grading=grading)
