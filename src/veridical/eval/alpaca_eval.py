"""AlpacaEval: how often are answers to instructions preferred to a baseline's? (Li et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from veridical.data.text.thoughts import answer_of
from veridical.eval.alpaca_lengths import (
    NAME,
    STATISTIC,
    GamedBaselines,
    printed_at_equal_lengths,
    read_gamed,
    with_equal_lengths,
)
from veridical.eval.answers import read_answer_rows, read_json_rows
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import NOBODY, Asked, Grader, Grading, filled, judge_words, values_of
from veridical.eval.judge_agreement import with_judge_variance
from veridical.eval.judged_pairs import SHOWN, TIE, read_better
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    json_objects,
    match_by_id,
    questions_for_model,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

Rule: TypeAlias = Literal["corrected", "official"]
WORDS = """Two assistants answered an instruction. Decide which answer is better: which one \
follows the instruction, is right, and is as long as it needs to be. Their order does not count.

Instruction: {question}

--- Answer 1 begins ---
{first}
--- Answer 1 ends ---
--- Answer 2 begins ---
{second}
--- Answer 2 ends ---

Explain in a few sentences, then end with one line: "Better: 1" or "Better: 2"."""


@dataclass(frozen=True)
class AlpacaEvalOptions:
    """What AlpacaEval asks, and how answers are compared.

    Attributes:
        files: the baseline's answers, as published: a JSON list of {"instruction", "output",
            "generator"}. Not with `preferences`.
        preferences: annotations made elsewhere, as published: rows with a `preference`, 1 where the
            baseline is better and 2 where the model is, in between where it is weighted, 0 for
            none. They are scored as they are.
        rule: of `preferences`: `official` leaves out rows without a preference; `corrected` counts
            them as `unread` too, which is all that differs.
        length_controlled: df_gamed.csv as published, for the length-controlled win rate of
            AlpacaEval 2 as well; not computed if not set.
        judge_prompt: a text file with {question}, {first} and {second} in it, what the judge is
            asked; our own words if not set. Its replies must end with "Better: 1" or "Better: 2".
    """

    files: Path | None = None
    preferences: Path | None = None
    rule: Rule = "corrected"
    length_controlled: Path | None = None
    judge_prompt: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The instructions with the baseline's answers."""
        assert self.files is not None
        return read_baseline(self.files)

    @cached_property
    def gamed(self) -> GamedBaselines:
        """What lengths are controlled with."""
        assert self.length_controlled is not None
        return read_gamed(self.length_controlled)

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)


def read_baseline(path: Path) -> list[PublishedQuestion]:
    """The instructions; an instruction's id is its place, from 0.

    Raises:
        UserError: a row is of another form.
    """
    found = []
    for number, row in enumerate(json_objects(path)):
        texts = text_fields(row, ("instruction", "output"), f"{path}, row {number + 1}")
        about = {"baseline": str(row.get("generator") or "")}
        id = str(number)
        found.append(
            PublishedQuestion(id, "", id, texts["instruction"], texts["output"], about=about)
        )
    if not found:
        raise UserError(f"{path} has no instructions.")
    return found


def read_preferences(path: Path) -> list[JsonObject]:
    """Annotations as rows of `answers.jsonl`.

    Raises:
        UserError: a preference is neither a number from 1 to 2 nor 0.
    """
    found = []
    rows = read_json_rows(path)
    for number, row in enumerate(rows):
        own = row if isinstance(row, dict) else {}
        value, id = own.get("preference"), str(own.get("index", number))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = value is None or (is_number and (value == 0 or 1 <= value <= 2))
        if "preference" not in own or not fits:
            raise UserError(
                f"{path}, row {number + 1}: preference must be a number from 1 to 2, or 0 for a "
                f"tie, not {value!r:.40}."
            )
        texts = [str(own.get(f"output_{n}", "")) for n in (1, 2)]
        lengths = [own.get(f"length_{n}", len(text)) for n, text in enumerate(texts, start=1)]
        if not all(isinstance(length, int) for length in lengths):
            raise UserError(f"{path}, row {number + 1}: lengths must be whole numbers.")
        names = {name: own.get(f"generator_{n}") for name, n in (("baseline", 1), ("generator", 2))}
        found.append(
            {"question_id": id, "image_id": id, "question": str(own.get("instruction", "")),
             "expected": "", "answer": texts[1], "preference": value, "length": lengths[1],
             "baseline_length": lengths[0],
             **{name: text for name, text in names.items() if isinstance(text, str)}}
        )  # fmt: skip
    if not found:
        raise UserError(f"{path} has no preferences.")
    return found


def check_options(options: AlpacaEvalOptions, evaluation: Evaluation) -> None:
    """Read the files before anything is asked.

    Raises:
        UserError: one is missing or is not what it must be.
    """
    if options.length_controlled is not None:
        _ = options.gamed
    if (options.files is None) == (options.preferences is None):
        raise UserError("Give either --files, the baseline's answers, or --preferences.")
    if options.files is not None:
        _ = options.questions, options.words
        if options.rule == "official":
            raise UserError(
                "--rule official scores --preferences: AlpacaEval's annotators weigh preferences "
                "by log-probabilities, which replies in words do not have. Leave --rule out."
            )


def read_questions(options: AlpacaEvalOptions, evaluation: Evaluation) -> Questions:
    """The first instructions."""
    return questions_for_model(options.questions, evaluation)


def match_answers(options: AlpacaEvalOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its instruction; or annotations alone."""
    if options.preferences is not None:
        return GivenAnswers(read_preferences(options.preferences))
    by_text = {question.text: question.question_id for question in options.questions}

    def read(path: Path) -> list[JsonObject]:
        """AlpacaEval's {"instruction", "output"}, or rows by place."""
        rows = read_json_rows(path)
        if not all_have(rows, "instruction"):
            return read_answer_rows(path, "question_id")
        found: list[JsonObject] = []
        for number, row in enumerate(rows, start=1):
            texts = text_fields(row, ("instruction", "output"), f"{path}, row {number}")
            id = by_text.get(texts["instruction"], texts["instruction"][:60])
            found.append({"question_id": id, "answer": answer_of(texts["output"])})
        return found

    return match_by_id(options.questions, evaluation, read=read)


def ask_judge(options: AlpacaEvalOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """Both orders: the baseline first, and then second."""
    texts = [row["expected"], row["answer"]]
    return [
        Asked(filled(options.words, {"question": row["question"], "first": a, "second": b}))
        for a, b in (texts, texts[::-1])
    ]


def read_reply(options: AlpacaEvalOptions, row: Row, number: int, reply: str) -> int | str:
    """Which answer is better, by its place in the question."""
    return read_better(reply)


def judge_rows(
    options: AlpacaEvalOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with their preferences from 1 to 2, and 1.5 for none."""
    judged = []
    for row in rows:
        if "preference" in row:
            value = 1.5 if row["preference"] == 0 else row["preference"]
            judged.append({**row, "rule": options.rule, "preference": value})
            continue
        worth = _preferences(row)
        value = 1 + sum(worth) / len(worth) if worth else None
        lengths = {"length": len(row["answer"]), "baseline_length": len(row["expected"])}
        judged.append({**row, "rule": options.rule, "preference": value, **lengths})
    return with_equal_lengths(judged, options.gamed) if options.length_controlled else judged


def _preferences(row: Row) -> list[float]:
    """What each readable reply says for the model's answer: 1, 0, or half for a tie."""
    return [
        0.5 if said == TIE else float(abs(order - said) == 1)
        for order, said in enumerate(values_of(row))
        if said is not None
    ]


def remark(
    options: AlpacaEvalOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The standard error as the published leaderboards print it; how far the judge agrees."""
    about: dict[str, str | float] = {"rule": options.rule}
    about |= printed_figures([row["preference"] for row in judged])
    error = about.get("printed/standard_error")
    lines = (
        [f"As AlpacaEval prints it: {about['printed/win_rate']:.2f} +- {error:.2f}."]
        if error
        else []
    )
    controlled = printed_at_equal_lengths(judged)
    about |= controlled
    if controlled:
        value, error = controlled.values()
        lines.append(
            f"At equal lengths, as AlpacaEval prints it: {value:.2f} +- {error:.2f}. Its error "
            f"takes the regression as known; the interval of {NAME} does not."
        )
    replies = [_preferences(row) for row in judged if "judged" in row]
    return with_judge_variance(Remarks(about, lines=lines), replies)


def printed_figures(preferences: Sequence[float | None]) -> Mapping[str, float]:
    """Win rate and its standard error in percent; nothing of fewer than two preferences."""
    known = np.array([value - 1 for value in preferences if value is not None], dtype=np.float64)
    if len(known) < 2:
        return {}
    error = known.std(ddof=1) / math.sqrt(len(known))
    return {
        "printed/win_rate": float(100 * known.mean()),
        "printed/standard_error": float(100 * error),
    }


def alpaca_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, each an instruction of its own."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    value = row["preference"]
    known = value is not None
    return {
        "rows": 1.0,
        "unread": float(not known),
        "judged": float(known),
        "won": value - 1 if known else 0.0,
        "discrete": 0.0 if not known else 0.5 if value == 1.5 else float(value > 1.5),
        "length": float(row["length"]),
        "baseline_length": float(row["baseline_length"]),
    }


TITLE = "AlpacaEval"
BENCHMARK = Benchmark(
    description=BenchmarkDescription(
        name="alpaca_eval",
        title=TITLE,
        done="Instructions were answered, and the answers compared with a baseline's",
        headline="win_rate",
        meaning="the mean preference for the model over the baseline",
        asked="answers to",
        metrics=(
            MetricDescription(
                "win_rate", "Preferred to the baseline", f"{TITLE} win rate", better="higher",
                shown="top",
            ),
            MetricDescription(
                "discrete_win_rate", "Answers that win", f"{TITLE}, each whole", better="higher"
            ),
            MetricDescription(
                NAME, "Preferred to the baseline at equal lengths", TITLE, better="higher"
            ),
            MetricDescription("length", "Length of an answer, in characters", TITLE, unit="number"),
            MetricDescription(
                "baseline_length", "Length of a baseline's answer", TITLE, unit="number"
            ),
            MetricDescription(
                "unread", "Answers without a preference", f"{TITLE}, in no win rate",
                better="lower", caution="The win rate leaves such answers out.",
            ),
        ),
    ),
    judged="answers.jsonl",
    sums=alpaca_sums,
    formulas=[
        Metric("win_rate", Ratio("won", "judged"), "judged"),
        Metric("discrete_win_rate", Ratio("discrete", "judged"), "judged"),
        Metric("length", Ratio("length", "rows"), "rows", "mean"),
        Metric("baseline_length", Ratio("baseline_length", "rows"), "rows", "mean"),
        Metric("unread", Ratio("unread", "rows"), "rows"),
    ],
    statistics=[STATISTIC],
    same=("question_id", "question", "expected", "rule"),
    facts="instructions or baselines",
    needs=("preference", "length", "baseline_length"),
    asks=Asks(
        options=AlpacaEvalOptions,
        max_new_tokens=2048,
        label="instructions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        sees_images=False,
        answers_in_files=lambda options: options.preferences is not None,
        grader=Grader(
            ask=ask_judge, read=read_reply, max_new_tokens=512,
            template=lambda options: options.words,
            needed=lambda options: options.preferences is None,
        ),
    ),
)  # fmt: skip


def eval_alpaca_eval(
    alpaca_eval: AlpacaEvalOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Have answers to instructions compared with a baseline's, or score annotations (AlpacaEval).

    Writes `answers.jsonl`, with a judge `replies.jsonl`, `scores.json` (win_rate,
    discrete_win_rate, length, baseline_length, unread; 95 % intervals; the standard error as the
    leaderboards print it) and `run.json`. Run again with the same settings, it continues. Answers
    have at most 2,048 tokens if not set; the judge sees each pair in both orders. Answers made
    elsewhere are AlpacaEval's, a JSON list of {"instruction", "output"}.

    Args:
        alpaca_eval: what is asked, and how answers are compared.
        out: the folder to write.
        subject: whose answers; nobody's with --preferences.
        asking: how the model is asked.
        grading: who compares the answers.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, alpaca_eval, out, subject, asking, grading=grading)
