"""HallusionBench: the same questions about figures and their edited copies (Guan et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from veridical.data.text.thoughts import answer_of
from veridical.eval.answers import raw_answer_rows, read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Remarks, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import NOBODY, Asked, Grader, Grading, filled, judge_words, values_of
from veridical.eval.hallusion_metrics import (
    FORMULAS,
    HALLUSIONBENCH,
    Outcome,
    Rule,
    by_question_kind,
    hallusion_sums,
    is_right,
    unit_sizes,
)
from veridical.eval.harness_logs import is_lmms_log, of_lmms_log
from veridical.eval.hub_files import HubSet
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    ask_all,
    check_files,
    json_objects,
    match_by_id,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import Estimate
from veridical.scoring.yes_no_answers import parse_answer

PLACE = ("category", "subcategory", "visual_input", "set_id", "figure_id")
FIELDS = (*PLACE, "question_id", "question", "gt_answer", "gt_answer_details")
PREDICTION = "model_prediction"
SHOWN = ("question", "reference", "answer")
WORDS = """A question was answered. Compare the answer with the reference answer.

Question: {question}
Reference answer: {reference}
Answer: {answer}

Reply with one of three words and nothing else:
correct, if the answer agrees with the reference answer;
incorrect, if it contradicts it;
unclear, if it does not decide the question."""


@dataclass(frozen=True)
class HallusionOptions:
    """What HallusionBench asks, and how answers are judged.

    Attributes:
        files: HallusionBench.json, as published.
        rule: `corrected` reads yes and no itself, or the replies of a judge strictly; `official`
            needs a judge, and takes every reply without "correct" in it for "unclear".
        judge_prompt: a text file with {question}, {reference} and {answer} in it, what the judge is
            asked; our own words if not set.
    """

    files: Path
    rule: Rule = "corrected"
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        return read_hallusionbench(self.files)

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_hallusionbench(path: Path) -> list[PublishedQuestion]:
    """The questions of HallusionBench.json.

    Raises:
        UserError: a row is of another form.
    """
    found = {}
    for number, row in enumerate(json_objects(path), start=1):
        place = f"{path}, row {number}"
        texts = text_fields(row, FIELDS, place)
        if "filename" not in row:
            raise UserError(f"{place}: filename is missing; it is null where no image is shown.")
        name = _image_name(row["filename"], texts["visual_input"], place)
        if texts["gt_answer"] not in ("0", "1"):
            raise UserError(f"{place}: gt_answer must be 0 or 1, not {row['gt_answer']!r:.40}.")
        id = _id(texts)
        if id in found:
            raise UserError(f"{place}: the question {id} is there twice.")
        about = {"question_number": texts["question_id"], **{n: texts[n] for n in PLACE},
                 "reference": texts["gt_answer_details"]}  # fmt: skip
        # Figures of a set share their questions, so the set is the unit.
        unit = "/".join(texts[n] for n in ("category", "subcategory", "set_id"))
        found[id] = PublishedQuestion(
            id, name, unit, texts["question"],
            "yes" if texts["gt_answer"] == "1" else "no", about=about,
        )  # fmt: skip
    return _with_sizes(list(found.values()))


def _image_name(name: object, visual_input: str, place: str) -> str:
    """The image's path; "" where no image is shown, which is so where `visual_input` is 0.

    Raises:
        UserError: there is a name where none must be, or the reverse.
    """
    if visual_input == "0" and not name:
        return ""
    if visual_input != "0" and isinstance(name, str) and name:
        return name.removeprefix("./")
    wanted = "null" if visual_input == "0" else "a text"
    raise UserError(
        f"{place}: filename must be {wanted} where visual_input is {visual_input}, not "
        f"{name!r:.40}."
    )


def _with_sizes(questions: Sequence[PublishedQuestion]) -> list[PublishedQuestion]:
    """Each with the size of its pair and its figure, of all and of those like it in its image."""
    sizes = unit_sizes([question.row for question in questions])
    here: dict[str, dict[str, int]] = {}
    for shown in (True, False):
        some = [question for question in questions if bool(question.image) == shown]
        counted = unit_sizes([question.row for question in some])
        here |= {one.question_id: own for one, own in zip(some, counted, strict=True)}
    return [
        replace(one, about={**one.about, "unit_sizes": own,
                            "unit_sizes_here": here[one.question_id]})
        for one, own in zip(questions, sizes, strict=True)
    ]  # fmt: skip


def _id(row: Row) -> str:
    return (
        f"{row.get('category')}/{row.get('subcategory')}/{row.get('set_id')}_{row.get('figure_id')}"
        f"_{row.get('question_id')}"
    )


def match_answers(options: HallusionOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """Rows by our ids, or HallusionBench's own records with a `model_prediction`."""
        rows = raw_answer_rows(path)
        if is_lmms_log(rows):  # whose documents number questions within their sets
            said = of_lmms_log(rows, "question_id", path)
            return [
                {"question_id": _id(row["doc"]), "answer": answer_of(str(one["answer"]))}
                for row, one in zip(rows, said, strict=True)
            ]
        if not all_have(rows, "set_id"):
            return read_answer_rows(path, "question_id")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get(PREDICTION), str):
                raise UserError(f"{path}, row {number}: {PREDICTION} must be a text.")
        return [{"question_id": _id(row), "answer": answer_of(row[PREDICTION])} for row in rows]

    return match_by_id(options.questions, evaluation, read=read)


def ask_judge(options: HallusionOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """One question about each answer."""
    values = {name: row[name] for name in SHOWN}
    return [Asked(filled(options.words, values))]


def read_reply(options: HallusionOptions, row: Row, number: int, reply: str) -> Outcome:
    """What the judge says of an answer.

    Official: a reply with "incorrect" in it is that, else one with "correct"; all others are
    "unclear". Corrected: exactly one of the three words, without a "not".

    Raises:
        UnreadableError: it has none of them, several, or denies one.
    """
    said = reply.lower()
    if options.rule == "official":
        return "incorrect" if "incorrect" in said else "correct" if "correct" in said else "unclear"
    found = set(re.findall(r"\b(?:incorrect|correct|unclear)\b", said))
    if len(found) != 1 or re.search(r"\b(?:not|neither|isn't)\b", said):
        raise UnreadableError("it is not one of correct, incorrect and unclear")
    only: Outcome = found.pop()
    return only


def judge_rows(
    options: HallusionOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with the outcome of each: None where the judge's reply could not be read."""
    judged = []
    for row in rows:
        outcome = values_of(row)[0] if "judged" in row else _read_answer(row)
        right = None if outcome is None else is_right(outcome, row)
        judged.append({**row, "rule": options.rule, "outcome": outcome, "right": right})
    return judged


def _read_answer(row: Row) -> Outcome:
    """What an answer says without a judge, read as yes or no."""
    said = parse_answer(row["answer"], "strict", row["question"])
    return "unclear" if said is None else "correct" if said == row["expected"] else "incorrect"


def remark(
    options: HallusionOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, and who read the answers."""
    about: dict[str, str | float] = {"rule": options.rule}
    if not evaluation.grading.given:
        about["judge"] = "none: yes and no are read from the answers"
    return Remarks(about, lines=[f"Rule: {options.rule}."])


HUB = HubSet(
    "lmms-lab/HallusionBench", [(None, "image"), (None, "non_image")],
    lambda row: {name: row[name] for name in (*FIELDS, "filename")},
    lambda row: (row["filename"] or "").removeprefix("./"),
)  # fmt: skip

BENCHMARK = Benchmark(
    description=HALLUSIONBENCH,
    judged="answers.jsonl",
    sums=hallusion_sums,
    formulas=FORMULAS,
    groups=by_question_kind,
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("right", "outcome", *PLACE),
    asks=Asks(
        options=HallusionOptions,
        max_new_tokens=256,
        label="questions",
        check=check_files,
        read=ask_all,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        grader=Grader(
            ask=ask_judge,
            read=read_reply,
            max_new_tokens=128,
            template=lambda options: options.words,
            needed=lambda options: options.rule == "official",
            may_be_cut=lambda options: options.rule == "official",
        ),
        hub=HUB,
    ),
)


def eval_hallusionbench(
    hallusion: HallusionOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask the same questions about figures and their edited copies, and score the answers.

    Writes `answers.jsonl`, `scores.json` (aAcc, qAcc, fAcc, easy, hard, unclear, unread,
    yes_difference, false_yes, also of VD, VS, with_image and without_image; 95 % intervals
    clustered by set of figures), with a judge `replies.jsonl`, and `run.json`. Run again with the
    same settings, it continues. Answers have at most 256 tokens if not set. Answers made elsewhere
    are HallusionBench's own records with a `model_prediction`, or JSON Lines {"question_id":
    "VS/chart/0_1_0", "answer"}.

    Args:
        hallusion: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers. Its folder of images has `VD` and `VS` in it.
        asking: how the model is asked.
        grading: who judges the answers; if no one, yes and no are read from them.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, hallusion, out, subject, asking, grading=grading)
