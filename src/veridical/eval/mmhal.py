"""MMHal-Bench: do answers to open questions hallucinate? A model rates them (Sun et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from veridical.data.text.thoughts import answer_of
from veridical.data.vocabulary import vocabulary_of
from veridical.eval.answers import raw_answer_rows, read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Remarks, Row
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
from veridical.eval.hub_files import HubSet
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    ask_all,
    check_files,
    image_files,
    json_objects,
    match_by_id,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

Rule: TypeAlias = Literal["corrected", "official", "exact"]
BEST, HONEST = 6, 3
"""The best rating; the lowest one of an answer without hallucination."""
FIELDS = ("question_type", "question_topic", "image_id", "question", "gt_answer")
ANSWER = "model_answer"
SHOWN = ("content", "question", "reference", "answer")
WORDS = """Rate how informative an assistant's answer to a question about an image is, and whether \
it hallucinates. An answer hallucinates if it says of the image what is not so. What the image \
holds is listed; the list and the reference answer may be incomplete, so an answer may rightly say \
more, and sound reasoning about what is seen is no hallucination.

Objects in the image: {content}
Question: {question}
Reference answer: {reference}
Answer to rate: {answer}

First explain your rating in a few sentences. Then end with one line of the form "Rating: N":
6: no hallucination, very informative, with good reasoning
5: no hallucination, very informative
4: no hallucination, somewhat informative
3: no hallucination, not informative
2: hallucination, very informative
1: hallucination, somewhat informative
0: hallucination, not informative"""


@dataclass(frozen=True)
class MmhalOptions:
    """What MMHal-Bench asks, and how answers are judged.

    Attributes:
        files: the response template, as published: a JSON list of 96 questions with
            `image_content`, `gt_answer` and an empty `model_answer`.
        judge_sees_image: show the judge the image too, as MMHal-V does; it needs --images.
        rule: `corrected` counts an answer in no score whose rating cannot be read; `official`
            gives it 0, and needs the exact text "rating: " before the number; `exact` needs no
            judge: it rates by the phrases of each row's `asked` and `false`, as the `mmhal.json` of
            `world make` has them.
        judge_prompt: a text file with {content}, {question}, {reference} and {answer} in it, what
            the judge is asked; our own words if not set.
    """

    files: Path
    judge_sees_image: bool = False
    rule: Rule = "corrected"
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        return read_mmhal(self.files, self.rule == "exact")

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_mmhal(path: Path, phrases: bool = False) -> list[PublishedQuestion]:
    """The questions of the response template; a question's id is its place, from 0.

    Args:
        path: the template.
        phrases: whether rows must have `asked` and `false`.

    Raises:
        UserError: a row is of another form.
    """
    found = []
    for number, row in enumerate(json_objects(path)):
        place = f"{path}, row {number + 1}"
        texts = text_fields(row, FIELDS, place)
        content = row.get("image_content")
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise UserError(f"{place}: image_content must be a list of names.")
        about: JsonObject = {"type": texts["question_type"], "topic": texts["question_topic"],
                 "content": ", ".join(content)}  # fmt: skip
        if phrases:
            about |= {name: _phrases(row, name, place) for name in ("asked", "false")}
        image = f"{texts['image_id']}.jpg"
        found.append(
            PublishedQuestion(
                str(number), image, texts["image_id"], texts["question"], texts["gt_answer"],
                about=about,
            )
        )  # fmt: skip
    return found


def _phrases(row: Row, name: str, place: str) -> list[str]:
    found = row.get(name)
    if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
        raise UserError(
            f"{place}: --rule exact needs {name}, a list of phrases, as the mmhal.json of `world "
            "make` has it."
        )
    if name == "asked" and not found:
        raise UserError(f"{place}: asked must name a phrase.")
    return found


def exact_rating(answer: str, asked: Sequence[str], false: Sequence[str]) -> int:
    """A rating on MMHal-Bench's scale by phrases alone.

    An answer with a false phrase hallucinates: 0 to 2, by the share of the asked phrases that it
    has; else 3 to 6. The longest phrase counts, so "red cup" is not the "cup" that is not there.

    Args:
        answer: what was said.
        asked: phrases that inform.
        false: phrases that hallucinate.
    """
    words = vocabulary_of({phrase: [] for phrase in [*asked, *false]})
    said = {mention.name for mention in words.mentions(answer)}
    share = len(said & set(asked)) / len(set(asked))
    return round(share * (HONEST - 1)) if said & set(false) else HONEST + round(share * HONEST)


def check_options(options: MmhalOptions, evaluation: Evaluation) -> None:
    """Read the file before anything is asked.

    Raises:
        UserError: it is not what it must be, or the images that the judge sees are missing.
    """
    check_files(options, evaluation)
    if options.rule == "exact" and evaluation.grading.given:
        raise UserError("--rule exact needs no judge. Leave --judge or --replies out, or --rule.")
    if options.judge_sees_image and evaluation.grading.judge is not None:
        folder = evaluation.subject.images
        if folder is None:
            raise UserError("--judge-sees-image needs --images, the folder of the images.")
        names = {question.image for question in options.questions}
        missing = sorted(names - image_files(names, folder).keys())
        if evaluation.model is None and missing:
            raise UserError(
                f"The judge cannot see {len(missing)} images that {folder} lacks, such as "
                f"{missing[0]}. Add them, or leave --judge-sees-image out."
            )


def match_answers(options: MmhalOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """Rows by our ids, or the template with each `model_answer`, in its order."""
        rows = raw_answer_rows(path)
        if not all_have(rows, ANSWER):
            return read_answer_rows(path, "question_id")
        found: list[JsonObject] = []
        for number, row in enumerate(rows):
            place = f"{path}, row {number + 1}"
            said = text_fields(row, ("question", ANSWER), place)
            asked = options.questions[number].text if number < len(options.questions) else None
            if said["question"] != asked:
                raise UserError(f"{place}: the template has another question there, {asked!r:.60}.")
            found.append({"question_id": str(number), "answer": answer_of(said[ANSWER])})
        return found

    return match_by_id(options.questions, evaluation, read=read)


_RATING = re.compile(
    r"\brating\b[\s*_`:=]*(?:[(\[]\s*\d+\s*(?:-|\u2013|to)\s*\d+\s*[)\]])?[\s*_`:=\[({\"]*"
    r"(?<![a-z])(\d+)(?![\d.]*\d)(?!\s*(?:-|\u2013|to)\s*\d)"
)


def ask_judge(options: MmhalOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """One question about each answer; with its image where the judge sees it."""
    values = {"content": row["content"], "question": row["question"],
              "reference": row["expected"], "answer": row["answer"]}  # fmt: skip
    files = image_files(
        [row["image"]], evaluation.subject.images if options.judge_sees_image else None
    )
    return [Asked(filled(options.words, values), list(files.values()))]


def read_reply(options: MmhalOptions, row: Row, number: int, reply: str) -> int:
    """The rating in a reply.

    Official: "rating: N", in any case, with exactly one of the numbers from 0 to 6. Corrected: the
    word "rating" before a number, with only layout, ":" and a range in brackets between them; one
    number only.

    Raises:
        UnreadableError: there is none, or more than one.
    """
    said = reply.lower()
    if options.rule == "official":
        found = {n for n in range(BEST + 1) if f"rating: {n}" in said}
    else:
        found = {int(n) for n in _RATING.findall(said)}
    if len(found) != 1 or max(found) > BEST:
        raise UnreadableError("it does not have one rating from 0 to 6")
    return found.pop()


def judge_rows(
    options: MmhalOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with their ratings; None where one could not be read, by the official rule 0."""
    judged = []
    for row in rows:
        if options.rule == "exact":
            rating = exact_rating(row["answer"], row["asked"], row["false"])
        else:
            rating = values_of(row)[0]
        unread = rating is None
        if unread and options.rule == "official" and not has_failed(row):
            rating = 0
        judged.append({**row, "rule": options.rule, "sees_image": options.judge_sees_image,
                       "rating": rating, "unread": unread})  # fmt: skip
    return judged


def remark(
    options: MmhalOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, and what the judge sees."""
    seen = "image and texts" if options.judge_sees_image else "texts"
    if options.rule == "exact":
        seen = "no judge: phrases"
    return Remarks({"rule": options.rule, "judge_sees": seen}, lines=[f"Rule: {options.rule}."])


def mmhal_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    rating = row["rating"]
    rated = rating is not None
    worth = 0 if rating is None else rating - HONEST if rating >= HONEST else rating
    return {
        "rows": 1.0,
        "unread": float(row["unread"]),
        "rated": float(rated),
        "rating": float(rating or 0),
        "hallucinated": float(rated and rating < HONEST),
        "informative": worth / (BEST - HONEST),
    }


def by_type(rows: Rows) -> dict[str, Rows]:
    """The rows of each type of question."""
    return {type: [row for row in rows if row["type"] == type]
            for type in dict.fromkeys(row["type"] for row in rows)}  # fmt: skip


MMHAL = BenchmarkDescription(
    name="mmhal",
    title="MMHal-Bench",
    done="Open questions were asked, and the answers rated",
    headline="score",
    meaning="the mean rating of the answers, from 0 to 6",
    asked="questions about",
    metrics=(
        MetricDescription(
            "score", "Mean rating, 0 to 6", "MMHal-Bench", unit="number", better="higher",
            shown="top",
        ),
        MetricDescription(
            "hallucination", "Answers with a hallucination", "MMHal-Bench", better="lower",
            shown="table",
        ),
        MetricDescription(
            "informativeness", "Informativeness", "MMHal-Bench, of 3 steps", better="higher",
            shown="table",
        ),
        MetricDescription(
            "unread", "Answers whose rating could not be read", "MMHal-Bench", better="lower",
            caution="By the corrected rule such answers count in no score, by the official as 0.",
        ),
    ),
)  # fmt: skip
"""What MMHal-Bench is called, and how its metrics are shown."""


HUB = HubSet(
    "Shengcao1006/MMHal-Bench", [(None, "test")],
    lambda row: {name: row[name] for name in (*FIELDS, "image_content")},
    lambda row: f"{row['image_id']}.jpg",
)  # fmt: skip

BENCHMARK = Benchmark(
    description=MMHAL,
    judged="answers.jsonl",
    sums=mmhal_sums,
    formulas=[
        Metric("score", Ratio("rating", "rated"), "rated", "mean", scale=(0.0, BEST)),
        Metric("hallucination", Ratio("hallucinated", "rated"), "rated"),
        Metric(
            "informativeness", Ratio("informative", "rated"), "rated", "mean", scale=(0.0, 1.0)
        ),
        Metric("unread", Ratio("unread", "rows"), "rows"),
    ],
    groups=by_type,
    same=("question_id", "question", "expected", "rule", "sees_image"),
    facts="questions, rules or judges",
    needs=("rating", "unread", "type"),
    asks=Asks(
        options=MmhalOptions,
        max_new_tokens=1024,
        label="questions",
        check=check_options,
        read=ask_all,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        grader=Grader(
            ask=ask_judge, read=read_reply, max_new_tokens=1024,
            template=lambda options: options.words,
            may_be_cut=lambda options: options.rule == "official",
            needed=lambda options: options.rule != "exact",
            unused=lambda options: options.rule == "exact",
        ),
        hub=HUB,
    ),
)  # fmt: skip


def eval_mmhal(
    mmhal: MmhalOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask open questions about images, and have the answers rated for hallucinations (MMHal-Bench).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (score, hallucination, informativeness,
    unread, also by type of question; 95 % intervals clustered by image) and `run.json`. Run again
    with the same settings, it continues. Answers have at most 1,024 tokens if not set. An image's
    file is called by its `image_id`. Answers made elsewhere are the template with each
    `model_answer`, or JSON Lines {"question_id": "0", "answer"}, by place from 0.

    Args:
        mmhal: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.
        grading: who judges the answers.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, mmhal, out, subject, asking, grading=grading)
