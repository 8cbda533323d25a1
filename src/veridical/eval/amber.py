"""AMBER: descriptions, and questions on objects, attributes and relations (Wang et al. 2023).

Descriptions: `chair` = nouns that are not in the image / nouns, `cover` = listed objects that are
mentioned / listed objects, `hal` = descriptions with a wrong noun / descriptions, `cog` = objects
that annotators expected to be invented and that are mentioned / those expected. Yes/no questions:
accuracy, and precision, recall and F1 of "no". `score` = (1 - chair + f1) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from veridical.eval.amber_files import (
    GENERATIVE,
    Halves,
    read_amber,
    read_lists,
)
from veridical.eval.amber_metrics import (
    AMBER,
    FORMULAS,
    IN_GROUPS,
    amber_sums,
    by_kind,
    official_figures,
)
from veridical.eval.amber_words import Vectors, find_nouns, open_vectors, words_used
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.published import PublishedQuestion, match_by_id, questions_for_model
from veridical.eval.run import run_benchmark
from veridical.runtime.json_types import JsonObject
from veridical.scoring.amber_rules import Rule, WordLists, judge_description, read_verdict
from veridical.scoring.statistics import Estimate


@dataclass(frozen=True)
class AmberOptions:
    """What AMBER asks, and how answers are judged.

    Attributes:
        files: the folder `data/` of AMBER's repository.
        halves: `generative` asks for descriptions, `yes_no` asks the questions, `both` does both.
        rule: `corrected` is the published rule without its defects (see docs/benchmarks.md);
            `official` is the published one, to compare with published figures.
        vectors: word vectors that decide which nouns are similar: a spaCy pipeline, or a text file
            with one word and its numbers per line. AMBER's figures use en_core_web_lg.
        instruction: text added after each yes/no question on its own line, such as "Answer yes or
            no." AMBER adds none, and its scorer accepts only "Yes" and "No".
    """

    files: Path
    halves: Halves = "both"
    rule: Rule = "corrected"
    vectors: str = "en_core_web_lg"
    instruction: str = ""

    @cached_property
    def lists(self) -> WordLists:
        """Associated and safe words."""
        return read_lists(self.files)

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the files."""
        return read_amber(self.files, self.halves, self.lists)

    @cached_property
    def words(self) -> Vectors:
        """The word vectors."""
        return open_vectors(self.vectors)


def check_options(options: AmberOptions, evaluation: Evaluation) -> None:
    """Read the files, and find nouns in a word, before anything is asked.

    Raises:
        UserError: a file is not what it must be, or what descriptions are read with is missing.
    """
    if any(question.about["type"] == GENERATIVE for question in options.questions):
        find_nouns(["A dog."], lower=True)
        _ = options.words


def read_questions(options: AmberOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images by name."""

    def instruction(question: PublishedQuestion) -> str:
        return "" if question.about["type"] == GENERATIVE else options.instruction

    return questions_for_model(options.questions, evaluation, instruction)


def match_answers(options: AmberOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    return match_by_id(options.questions, evaluation, "id")


def judge_rows(
    options: AmberOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with what each answer says."""
    described = [row for row in rows if row["type"] == GENERATIVE]
    nouns = find_nouns([row["answer"] for row in described], lower=options.rule == "corrected")
    by_id = {row["question_id"]: found for row, found in zip(described, nouns, strict=True)}
    return [
        {**row, "rule": options.rule, **_judged(options, row, by_id.get(row["question_id"], []))}
        for row in rows
    ]


def _judged(options: AmberOptions, row: Row, nouns: Sequence[str]) -> JsonObject:
    if row["type"] != GENERATIVE:
        return {"parsed": read_verdict(row["answer"], options.rule, row["question"])}
    truth, hallu = row["expected"]["truth"], row["expected"]["hallu"]
    similar = options.words.similar
    return asdict(judge_description(nouns, truth, hallu, options.lists, similar, options.rule))


def remark(
    options: AmberOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, what nouns were read with, and the figures as the published scorer prints them."""
    about: dict[str, str | float] = {"rule": options.rule}
    if any(row["type"] == GENERATIVE for row in rows):
        about |= words_used(options.words)
    lines = [f"Rule: {options.rule}."]
    if options.rule == "official":
        figures = official_figures(judged)
        about |= {f"printed/{name}": value for name, value in figures.items()}
        shown = ", ".join(f"{name} {value:g}" for name, value in figures.items() if "/" not in name)
        lines.append(f"As AMBER's scorer prints them, in percent: {shown}.")
    return Remarks(about, lines=lines)


BENCHMARK = Benchmark(
    description=AMBER,
    judged="answers.jsonl",
    sums=amber_sums,
    formulas=FORMULAS,
    groups=by_kind,
    in_groups=IN_GROUPS,
    same=("question_id", "type", "expected", "rule"),
    facts="questions or rules",
    asks=Asks(
        options=AmberOptions,
        max_new_tokens=512,
        label="questions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
    ),
)


def eval_amber(
    amber: AmberOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Score image descriptions and yes/no answers by AMBER; the answers are MODEL's or given.

    Writes `answers.jsonl` (with the nouns of each description, and those that are not in the
    image), `scores.json` (score; of descriptions chair, cover, hal, cog, without_nouns; of yes/no
    questions accuracy, precision, recall, f1, unparsed, also by type; 95 % intervals clustered by
    image; the tagger and word vectors that were used) and `run.json`. Run again with the same
    settings, it continues. The default length limit is 512 tokens. Answers made elsewhere have
    AMBER's own form, a JSON list of {"id", "response"}, or are JSON Lines. Descriptions need the
    extra `amber`, NLTK's data and the word vectors.

    Args:
        amber: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.

    Raises:
        UserError: a file is not what it must be, or what descriptions are read with is missing.
    """
    return run_benchmark(BENCHMARK, amber, out, subject, asking)
