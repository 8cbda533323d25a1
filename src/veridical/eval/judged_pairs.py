"""What benchmarks of judges share: pairs of answers of which people know the better one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from veridical.eval.asks import GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Rows
from veridical.eval.evaluation import Evaluation
from veridical.eval.grading import Asked, filled
from veridical.eval.judge_agreement import with_judge_variance
from veridical.eval.published import (
    Published,
    PublishedByRule,
    PublishedQuestion,
    check_files,
    image_files,
    natural,
)
from veridical.judges.prompts import UnreadableError
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import (
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    sum_by_cluster,
)

Rule: TypeAlias = Literal["corrected", "official"]
SHOWN = ("question", "first", "second")
WORDS = """Two answers to a question about an image were given. Decide which one is better: which \
one is right about the image, helpful, and free of invented detail. Neither their order nor their \
length counts.

Question: {question}

--- Answer 1 begins ---
{first}
--- Answer 1 ends ---
--- Answer 2 begins ---
{second}
--- Answer 2 ends ---

Explain in a few sentences, then end with one line: "Better: 1" or "Better: 2"."""
TIE = "tie"


def pair(
    id: str, image: str, text: str, answers: Sequence[str], better: int, about: Mapping[str, Any]
) -> PublishedQuestion:
    """A pair as a question whose right answer is the place of the better one, 0 or 1."""
    return PublishedQuestion(
        id, image, image or id, text, better, about={"answers": list(answers), **about}
    )


def with_distinct_ids(pairs: Sequence[PublishedQuestion]) -> list[PublishedQuestion]:
    """The pairs, of which the second with an id gets "#2" after it, and so on."""
    seen: dict[str, int] = {}
    found = []
    for one in pairs:
        seen[one.question_id] = seen.get(one.question_id, 0) + 1
        times = seen[one.question_id]
        found.append(one if times == 1 else replace(one, question_id=f"{one.question_id}#{times}"))
    return found


def all_pairs(pairs: Sequence[PublishedQuestion], evaluation: Evaluation) -> GivenAnswers:
    """The pairs of the first images by name, as rows to be judged.

    Raises:
        UserError: a judge is asked, and their images are missing.
    """
    subject = evaluation.subject
    first = set(sorted({one.image_id for one in pairs}, key=natural)[: subject.limit])
    asked = [one for one in pairs if one.image_id in first]
    if evaluation.grading.judge is not None:
        if subject.images is None:
            raise UserError("With --judge, --images must name the folder of the images.")
        names = {one.image for one in asked if one.image}
        missing = sorted(names - image_files(names, subject.images).keys())
        if missing:
            raise UserError(
                f"{subject.images} lacks {len(missing)} of {len(names)} images, such as "
                f"{missing[0]}. Add them; --limit asks about the first images only."
            )
    return GivenAnswers([{**one.row, "answer": ""} for one in asked])


class PairOptions(PublishedByRule, Protocol):
    """Options of such a benchmark."""

    @property
    def words(self) -> str:
        """What the judge is asked."""
        ...

    @property
    def judge_prompt(self) -> Path | None:
        """The file of the published words."""
        ...


def check_words(options: PairOptions, evaluation: Evaluation, reads: str) -> None:
    """Read the file before anything is asked.

    Args:
        options: the benchmark's own.
        evaluation: which knows whether a judge is asked.
        reads: what the official rule reads in replies, for the message.

    Raises:
        UserError: the file is not what it must be, or the published words are missing.
    """
    check_files(options, evaluation)
    asks = evaluation.grading.judge is not None
    if options.rule == "official" and asks and options.judge_prompt is None:
        raise UserError(
            f"--rule official reads {reads} as the published prompt asks for them. Name a file "
            "with that prompt by --judge-prompt, or leave --rule out."
        )


def no_questions(options: Published, evaluation: Evaluation) -> Questions:
    """Nothing: the answers are in the file."""
    return Questions([], [], "pairs")


def match_pairs(options: Published, evaluation: Evaluation) -> GivenAnswers:
    """The pairs of the first images by name."""
    return all_pairs(options.questions, evaluation)


def rule_and_baselines(
    options: PublishedByRule, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, what guessing gives, and how far the judge agrees with itself."""
    lines = [f"Rule: {options.rule}.", *baselines(judged)]
    replies = [
        [_worth(look["choice"], row["expected"]) for look in row["looks"]
         if look["choice"] is not None]
        for row in judged
    ]  # fmt: skip
    return with_judge_variance(Remarks({"rule": options.rule}, lines=lines), replies)


def _worth(choice: int | str, better: int) -> float:
    """1 for the better answer, half for a tie."""
    return 0.5 if choice == TIE else float(choice == better)


def ask_in_orders(
    words: str, evaluation: Evaluation, row: Row, orders: Sequence[int]
) -> list[Asked]:
    """The question to the judge, once for each order.

    Args:
        words: with {question}, {first} and {second}.
        evaluation: which knows the folder of images.
        row: the pair.
        orders: which answer is shown first, 0 or 1.
    """
    files = image_files([row["image"]], evaluation.subject.images)
    return [
        Asked(
            filled(words, {"question": row["question"], "first": row["answers"][order],
                           "second": row["answers"][1 - order]}),
            list(files.values()),
        )
        for order in orders
    ]  # fmt: skip


def read_better(reply: str) -> int | str:
    """Which answer a reply to our own words calls better, by its place there: 0, 1, or a tie.

    Raises:
        UnreadableError: none, or both.
    """
    found = set(re.findall(r"\bbetter\b\W{1,8}(?:answer\s*)?\[*(1|2|tie)\b", reply.lower()))
    if len(found) != 1:
        raise UnreadableError("it does not end with Better: 1 or Better: 2")
    said = found.pop()
    return TIE if said == TIE else int(said) - 1


def judged_in_both_orders(row: Row) -> JsonObject:
    """A pair's looks, and its share of right ones among those that could be read."""
    looks = []
    for order, one in enumerate(row["judged"]):
        said = one["read"]
        choice = said if said in (None, TIE) else abs(order - said)
        looks.append({"first": order, "choice": choice})
    worth = [
        _worth(look["choice"], row["expected"]) for look in looks if look["choice"] is not None
    ]
    return {"looks": looks, "right": sum(worth) / len(worth) if worth else None}


def pair_counts(row: Row) -> dict[str, float]:
    """What a judged pair adds to each column."""
    better, answers = row["expected"], row["answers"]
    words = [len(text.split()) for text in answers]
    looks = [look for look in row["looks"] if look["choice"] is not None]
    decided = [look for look in looks if look["choice"] != TIE]
    longer = None if words[0] == words[1] else int(words[1] > words[0])
    both = len(looks) == len(row["looks"]) == 2
    return {
        "pairs": 1.0,
        "judged": float(row["right"] is not None),
        "right": float(row["right"] or 0.0),
        "both": float(both),
        "consistent": float(both and all(look["choice"] == better for look in looks)),
        "looks": float(len(row["looks"])),
        "unread": float(len(row["looks"]) - len(looks)),
        "decided": float(len(decided)),
        "first": float(sum(look["choice"] == look["first"] for look in decided)),
        "unequal": float(len(decided) if longer is not None else 0),
        "longer": float(sum(look["choice"] == longer for look in decided)),
        "shorter_right": 0.5 if longer is None else float(longer != better),
        "first_right": float(better == 0),
        "left_out": float(row["right"] is None),
    }


def pair_sums(rows: Rows) -> ClusterSums:
    """Counts of judged pairs, added up by image."""
    return sum_by_cluster((row["image_id"], pair_counts(row)) for row in rows)


FORMULAS = (
    Metric("accuracy", Ratio("right", "judged"), "judged"),
    Metric("consistent", Ratio("consistent", "both"), "both"),
    Metric("first_preferred", Ratio("first", "decided"), "decided"),
    Metric("longer_preferred", Ratio("longer", "unequal"), "unequal"),
    Metric("unread", Ratio("unread", "looks"), "looks"),
    Metric("left_out", Ratio("left_out", "pairs"), "pairs"),
    Metric("shorter_right", Ratio("shorter_right", "pairs"), "pairs"),
    Metric("first_right", Ratio("first_right", "pairs"), "pairs"),
)


def mean_of(groups: Sequence[str]) -> Metric:
    """The mean of the groups' accuracies, as a formula on columns right/GROUP and judged/GROUP."""

    def formula(sums: Sums) -> FloatArray:
        parts = [Ratio(f"right/{group}", f"judged/{group}")(sums) for group in groups]
        total: FloatArray = sum(parts[1:], parts[0]) / len(parts)
        return total

    return Metric("macro", formula, "judged", "combination")


def descriptions(title: str) -> tuple[MetricDescription, ...]:
    """How these metrics are shown."""
    return (
        MetricDescription(
            "accuracy", "Pairs judged correctly", f"{title} accuracy", better="higher", shown="top"
        ),
        MetricDescription(
            "consistent", "Judged correctly in both orders", title, better="higher", shown="table"
        ),
        MetricDescription("first_preferred", "Answer shown first preferred", title, shown="table"),
        MetricDescription("longer_preferred", "Longer answer preferred", title),
        MetricDescription("unread", "Replies that could not be read", title, better="lower"),
        MetricDescription(
            "left_out", "Pairs that count in no accuracy", title, better="lower",
            caution="Accuracy leaves such pairs out, so that it does not compare like with like.",
        ),
        MetricDescription("shorter_right", "Baseline: the shorter answer", title),
        MetricDescription("first_right", "Baseline: the first answer of the file", title),
    )  # fmt: skip


def baselines(rows: Rows) -> list[str]:
    """The two baselines that need no judge, as a line."""
    counts = [pair_counts({**row, "looks": [], "right": None}) for row in rows]
    shorter = sum(one["shorter_right"] for one in counts) / max(len(counts), 1)
    first = sum(one["first_right"] for one in counts) / max(len(counts), 1)
    return [
        f"Without looking: the shorter answer is right for {shorter:.1%} of the pairs, the first "
        f"one of the file for {first:.1%}."
    ]
