"""VL-RewardBench: does a judge know which answer about an image is better? (Li et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.eval.asks import Asks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import NOBODY, Asked, Grader, Grading, judge_words, values_of
from veridical.eval.hub_files import HubSet, content_name
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
    mean_of,
    no_questions,
    pair,
    pair_counts,
    read_better,
    rule_and_baselines,
    with_distinct_ids,
)
from veridical.eval.published import PublishedQuestion, json_objects, text_fields
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.runtime.randomness import generator
from veridical.scoring.statistics import ClusterSums, Estimate, sum_by_cluster

GROUPS = ("hallucination", "reasoning", "general")
PREFIXES = {"hallucination_pair": "hallucination", "RLAIF-V": "hallucination",
            "RLHF-V": "hallucination", "mathverse": "reasoning", "mmmu": "reasoning"}  # fmt: skip
"""Which part an id belongs to; all others are general."""
_VERDICT = re.compile(
    r"(?:Overall Judgment|Therefore)\s*.*\s*-*\s*Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?"
    r"better",
    re.I,
)
NO_MATCH = "no match"


@dataclass(frozen=True)
class VlRewardbenchOptions:
    """Which pairs the judge sees, and how its replies are read.

    Attributes:
        files: data.json, as published.
        rule: `corrected` asks in both orders, and counts replies that cannot be read apart;
            `official` asks `times` times in random order, and counts the pairs of which more than
            half of all replies say the same.
        times: of the official rule.
        judge_prompt: a text file with {question}, {first} and {second} in it, what the judge is
            asked; our own words if not set. `official` needs the published words.
    """

    files: Path
    rule: Rule = "corrected"
    times: int = 10
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The pairs, in the order of the file."""
        return read_vl_rewardbench(self.files)

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_vl_rewardbench(path: Path) -> list[PublishedQuestion]:
    """The pairs of data.json; 25 of them have another's id.

    Raises:
        UserError: a row is of another form.
    """
    found = []
    for number, row in enumerate(json_objects(path), start=1):
        place = f"{path}, row {number}"
        texts = text_fields(row, ("id", "query", "image"), place)
        answers, ranking = row.get("response"), row.get("human_ranking")
        if (
            not isinstance(answers, list)
            or len(answers) != 2
            or not all(isinstance(a, str) for a in answers)
        ):
            raise UserError(f"{place}: response must be a list of two texts.")
        if ranking not in ([0, 1], [1, 0]):
            raise UserError(
                f"{place}: human_ranking must be [0, 1] or [1, 0], not {ranking!r:.40}."
            )
        group = next(
            (g for prefix, g in PREFIXES.items() if texts["id"].startswith(prefix)), GROUPS[2]
        )
        about = {"group": group, "judged_by": str(row.get("judge"))}
        found.append(
            pair(texts["id"], texts["image"], texts["query"], answers, ranking.index(0), about)
        )
    return with_distinct_ids(found)


def check_options(options: VlRewardbenchOptions, evaluation: Evaluation) -> None:
    """Read the file before anything is asked.

    Raises:
        UserError: it is not what it must be, or the published words are missing.
    """
    check_words(options, evaluation, "verdicts")


def orders_of(options: VlRewardbenchOptions, evaluation: Evaluation, row: Row) -> list[int]:
    """Which answer is shown first, for each question about a pair."""
    if options.rule == "corrected":
        return [0, 1]
    random = generator(evaluation.asking.seed, "vl_rewardbench order", row["question_id"])
    return [int(random.integers(2)) for _ in range(options.times)]


def ask_judge(options: VlRewardbenchOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """The question to the judge in every order."""
    return ask_in_orders(options.words, evaluation, row, orders_of(options, evaluation, row))


def read_reply(options: VlRewardbenchOptions, row: Row, number: int, reply: str) -> int | str:
    """Which answer a reply calls better, by its place in the question.

    Official: the number in the last sentence of the published form, whatever it is; without one the
    reply does not match. Corrected: see `read_better`.
    """
    if options.rule == "corrected":
        return read_better(reply)
    found = _VERDICT.search(reply.replace("\n", "").replace("*", ""))
    return int(found[1]) - 1 if found else NO_MATCH


def judge_rows(
    options: VlRewardbenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The pairs, with what the judge said of each in every order."""
    judged = []
    for row in rows:
        if options.rule == "official":
            drawn = orders_of(options, evaluation, row)
            orders = [
                one.get("first", order) for one, order in zip(row["judged"], drawn, strict=True)
            ]
            own = by_majority(row, values_of(row), orders)
        else:
            own = judged_in_both_orders(row)
        judged.append({**row, "rule": options.rule, **own})
    return judged


def by_majority(row: Row, said: Sequence[Any], orders: Sequence[int]) -> JsonObject:
    """The published rule: a place other than that of the worse answer agrees with people.

    The pair counts where more than half of all replies agree, or more than half do not; replies
    that do not match are in that total.
    """
    looks, agree, reject = [], 0, 0
    for order, place in zip(orders, said, strict=True):
        read = place is not None and place != NO_MATCH
        worse = abs(order - (1 - row["expected"]))
        agree += read and place != worse
        reject += read and place == worse
        choice = None if not read else row["expected"] if place != worse else 1 - row["expected"]
        looks.append({"first": order, "choice": choice})
    half = len(looks) / 2
    right = None if max(agree, reject) <= half else float(agree > half)
    return {"looks": looks, "right": right}


def sums(rows: Rows) -> ClusterSums:
    """Counts of judged pairs, added up by image, and for each part on its own."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    counts = pair_counts(row)
    for group in GROUPS:
        for name in ("right", "judged"):
            counts[f"{name}/{group}"] = counts[name] if row["group"] == group else 0.0
    return counts


def by_group(rows: Rows) -> dict[str, Rows]:
    """The pairs of each part."""
    found = {group: [row for row in rows if row["group"] == group] for group in GROUPS}
    return {group: own for group, own in found.items() if own}


NAME, TITLE = "vl_rewardbench", "VL-RewardBench"

HUB = HubSet(
    "MMInstruction/VL-RewardBench", [(None, "test")],
    lambda row: {"id": row["id"], "query": row["query"], "image": content_name(row),
                 "response": list(row["response"]), "human_ranking": list(row["human_ranking"]),
                 "judge": row.get("judge")},
    content_name,
)  # fmt: skip

BENCHMARK = Benchmark(
    description=BenchmarkDescription(
        name=NAME,
        title=TITLE,
        done="A judge compared pairs of answers",
        headline="accuracy",
        meaning="the share of pairs in which the judge prefers the answer that people prefer",
        asked="pairs about",
        metrics=(
            *descriptions(TITLE),
            MetricDescription(
                "macro", "Mean of the three parts", f"{TITLE} macro average", better="higher",
                shown="table",
            ),
        ),
    ),
    judged="answers.jsonl",
    sums=sums,
    formulas=(*FORMULAS, mean_of(GROUPS)),
    groups=by_group,
    in_groups=[metric.name for metric in FORMULAS],
    same=("question_id", "question", "answers", "expected", "rule"),
    facts="pairs or rules",
    needs=("right", "looks", "group"),
    asks=Asks(
        options=VlRewardbenchOptions,
        max_new_tokens=512,
        label="pairs",
        check=check_options,
        read=no_questions,
        match=match_pairs,
        judge=judge_rows,
        remark=rule_and_baselines,
        sees_images=False,
        answers_in_files=lambda options: True,
        hub=HUB,
        grader=Grader(
            ask=ask_judge, read=read_reply, max_new_tokens=2048,
            template=lambda options: options.words,
            temperature=lambda options: 0.2 if options.rule == "official" else 0.0,
            may_be_cut=lambda options: options.rule == "official",
            order_told=lambda options: options.rule == "official",
        ),
    ),
)  # fmt: skip


def eval_vl_rewardbench(
    vl_rewardbench: VlRewardbenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Have a judge compare pairs of answers, and score the judge (VL-RewardBench).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (accuracy, consistent, first_preferred,
    longer_preferred, unread, left_out, macro, and the baselines shorter_right and first_right; also
    by part; 95 % intervals clustered by image) and `run.json`. Run again with the same settings, it
    continues. The answers are in the file: neither a model nor --answers is given, only --judge.

    Args:
        vl_rewardbench: which pairs, and how replies are read.
        out: the folder to write.
        subject: its `images` is the folder that has `images/` of the file's names.
        asking: the seed, and how a judge on this machine is loaded.
        grading: the judge that is scored.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, vl_rewardbench, out, subject, asking, grading=grading)
