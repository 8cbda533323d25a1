"""Object HalBench: objects that descriptions invent, by word lists or by a judge (Yu et al. 2024).

`response_hall` = descriptions with an invented object / descriptions that name one, `object_hall` =
invented / named, `chair_s` = descriptions with an invented object / descriptions, `recall` =
objects of the images that are named / all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.data.image_checks import find_images
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.text.thoughts import answer_of
from veridical.eval.answers import raw_answer_rows, read_answer_rows
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.embedded_images import write_embedded
from veridical.eval.english import (
    LEMMA_DATA,
    lemmas_of,
    nltk_version,
    open_pipeline,
    pipeline_version,
)
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import NOBODY, Asked, Grader, Grading, filled, judge_words
from veridical.eval.halbench_files import HalbenchRow, objects_of, read_coco, read_rows
from veridical.eval.halbench_scores import OBJECT_HALBENCH, halbench_sums
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    match_by_id,
    questions_for_model,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.json_types import JsonObject
from veridical.scoring.halbench_rules import (
    Named,
    Rule,
    SynonymTables,
    Tagged,
    is_short,
    listed_named,
    read_listed,
    tables_of,
    words_named,
)
from veridical.scoring.statistics import Estimate, Metric, Ratio

WHO = "Object HalBench's official rule"
SHOWN = ("question", "answer")
WORDS = """A question about an image was answered. List the things that the answer says can be \
seen in the image.

Question: {question}
Answer: {answer}

Take the answer for true. List only things that it names, each by its name alone, without color, \
material or number. Reply with one JSON list and nothing else, such as ["dog", "traffic light"]; \
with [] if it names none."""


@dataclass(frozen=True)
class HalbenchOptions:
    """What Object HalBench asks, and how answers are judged.

    Attributes:
        files: obj_halbench_300_with_image.jsonl, as published: JSON Lines {"image_id", "question",
            "image"}. Without `image`, --images has COCO's files.
        synonyms: synonyms_refine.txt, as published: a line has the words for an object.
        annotations: the folder of COCO 2014's annotations, instances and captions of train2014 and
            val2014: the objects of an image are those outlined in it and those in its captions.
        objects: JSON {image_id: [names of the objects in the image]}, instead of `annotations`.
        rule: `official` is the published rule, which needs NLTK, and spaCy where a judge lists the
            objects; `corrected` finds the same names in another way (see docs/benchmarks.md).
        tagger: the spaCy pipeline of the official rule.
        judge_prompt: a text file with {question} and {answer} in it, what the judge is asked; our
            own words if not set.
    """

    files: Path
    synonyms: Path
    annotations: Path | None = None
    objects: Path | None = None
    rule: Rule = "corrected"
    tagger: str = "en_core_web_trf"
    judge_prompt: Path | None = None

    @cached_property
    def tables(self) -> SynonymTables:
        """The words for each object."""
        lines = read_text(self.synonyms).splitlines()
        if not any(re.match(r"\w[\w ]*, \w", line) for line in lines):
            raise UserError(f'{self.synonyms} has no words: a line is "person, girl, boy, ...".')
        return tables_of(lines)

    @cached_property
    def rows(self) -> list[HalbenchRow]:
        """The rows of the file of questions."""
        return read_rows(self.files)

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file; what is expected are the image's objects."""
        truth = _truth(self)
        return [
            PublishedQuestion(
                row.image_id, f"{row.image_id}.jpg", row.image_id, row.question,
                truth[row.image_id],
            )
            for row in self.rows
        ]  # fmt: skip

    @cached_property
    def words(self) -> str:
        """What the judge is asked."""
        return judge_words(self.judge_prompt, WORDS, SHOWN)

    @cached_property
    def pipeline(self) -> tuple[Any, Any]:
        """The pipeline, and spaCy, of the official rule with a judge."""
        return open_pipeline(
            self.tagger, WHO, "the rule is defined by it",
            "or name another by --tagger: figures will differ",
        )  # fmt: skip

    def named_in(self, text: str) -> list[Named]:
        """The objects that a text names."""
        official = self.rule == "official"
        return words_named(text, self.tables, lemmas_of(text, WHO) if official else None)

    def tagged(self) -> Callable[[str], Sequence[Tagged]] | None:
        """How the words of a judge's list are read."""
        if self.rule != "official":
            return None
        _, pipeline = self.pipeline
        return lambda text: [(token.lemma_, token.tag_) for token in pipeline(text)]


def _truth(options: HalbenchOptions) -> Mapping[str, list[str]]:
    ids = [row.image_id for row in options.rows]
    if options.objects is not None:
        listed = objects_of(read_objects(options.objects), ids)
        return name_objects(listed, options.tables.vocabulary)
    assert options.annotations is not None
    coco, found = read_coco(options.annotations, set(ids)), {}
    for id, image in coco.items():
        unknown = sorted(image.classes - options.tables.objects.keys())
        if unknown:
            raise UserError(f"{options.synonyms} does not know COCO's {unknown[0]!r}.")
        objects = {options.tables.objects[name] for name in image.classes}
        objects |= {name for text in image.captions for _, name in options.named_in(text)}
        found[id] = sorted(objects)
    return found


def check_options(options: HalbenchOptions, evaluation: Evaluation) -> None:
    """Read the files, and find words, before anything is asked.

    Raises:
        UserError: a file is not what it must be, or what answers are read with is missing.
    """
    if (options.annotations is None) == (options.objects is None):
        found = "neither was given" if options.objects is None else "both were"
        raise UserError(f"Give either --annotations of COCO 2014 or --objects: {found}.")
    given = evaluation.grading.given
    if options.rule == "official":
        _ = options.named_in("A dog."), options.pipeline if given else None
    _ = options.questions, options.words
    images = evaluation.subject.images
    if evaluation.model is not None and images is None and not all(r.image for r in options.rows):
        raise UserError(f"{options.files} has no images: name COCO's folder with --images.")


def read_questions(options: HalbenchOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images; the file's own go into the run's folder."""
    names = [question.image for question in options.questions]
    if evaluation.subject.images is not None:
        found = find_images(evaluation.subject.images)
        ids = match_image_ids(found, {row.image_id for row in options.rows})
        files = {f"{id}.jpg": found[stem] for stem, id in ids.items() if id is not None}
    else:
        first = sorted(names, key=lambda name: int(name.removesuffix(".jpg")))
        own = {f"{row.image_id}.jpg": row.image for row in options.rows}
        some = {name: own[name] for name in first[: evaluation.subject.limit]}
        files = write_embedded(some, evaluation.out)
    return questions_for_model(options.questions, evaluation, files=files)


def match_answers(options: HalbenchOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""

    def read(path: Path) -> list[JsonObject]:
        """Rows by `image_id` or `question_id`, or without one in the order of the questions."""
        rows = raw_answer_rows(path)
        for name in ("question_id", "image_id"):
            if all_have(rows, name):
                return [
                    {**row, "question_id": str(row[name]).lstrip("0") or "0"}
                    for row in read_answer_rows(path, name)
                ]
        if len(rows) != len(options.questions):
            raise UserError(
                f"{path} has {len(rows)} answers without an image_id, to {len(options.questions)} "
                "questions. Give one to each, in their order."
            )
        field = "text" if all_have(rows, "text") else "answer"
        texts = [text_fields(row if isinstance(row, dict) else {}, (field,), f"{path}, row {n}")
                 for n, row in enumerate(rows, start=1)]  # fmt: skip
        return [
            {"question_id": question.question_id, "answer": answer_of(own[field])}
            for question, own in zip(options.questions, texts, strict=True)
        ]

    return match_by_id(options.questions, evaluation, read=read)


def _said(options: HalbenchOptions, row: Row) -> str:
    """An answer as its rule takes it: the published scorer removes "Assistant:" from all."""
    answer: str = row["answer"]
    return answer.replace("Assistant:", "").strip() if options.rule == "official" else answer


def ask_judge(options: HalbenchOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """One question about each answer; none about one that is too short to be asked about."""
    said = _said(options, row)
    short = is_short(said) if options.rule == "official" else not said.strip()
    values = {"question": row["question"], "answer": said}
    return [] if short else [Asked(filled(options.words, values))]


def read_reply(options: HalbenchOptions, row: Row, number: int, reply: str) -> list[str]:
    """The objects that the judge lists.

    Raises:
        UnreadableError: the reply has no list.
    """
    listed = read_listed(reply, options.rule)
    if listed is None:
        raise UnreadableError("it is not one JSON list of objects")
    return listed


def judge_rows(
    options: HalbenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with the objects that each answer names; None where the judge was not understood."""
    tag = options.tagged() if evaluation.grading.given else None
    return [{**row, "rule": options.rule, **_judged(options, row, tag)} for row in rows]


def _judged(
    options: HalbenchOptions, row: Row, tag: Callable[[str], Sequence[Tagged]] | None
) -> JsonObject:
    official, answer = options.rule == "official", _said(options, row)
    named: list[Named] | None
    if "judged" not in row:
        named = options.named_in(answer)
    elif any(one["read"] is None for one in row["judged"]):
        named = None
    else:
        listed = [name for one in row["judged"] for name in one["read"]]
        named = listed_named(listed, options.tables, tag)
    return {
        "by": "judge" if "judged" in row else "words",
        "named": named,
        "hallucinated": [word for word, name in named or [] if name not in row["expected"]],
        "words": len(answer.split(" ") if official else answer.split()),
    }


def remark(
    options: HalbenchOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, and what words were read with."""
    given = evaluation.grading.given
    about: dict[str, str | float] = {"rule": options.rule}
    if not given:
        about["judge"] = "none: objects are found by word lists"
    if options.rule == "official":
        about["words"] = nltk_version(LEMMA_DATA)
        if given:
            about["tagger"] = pipeline_version(*options.pipeline)
    return Remarks(about, lines=[f"Rule: {options.rule}."])


BENCHMARK = Benchmark(
    description=OBJECT_HALBENCH,
    judged="answers.jsonl",
    sums=halbench_sums,
    formulas=[
        Metric("response_hall", Ratio("wrong", "with_objects"), "with_objects"),
        Metric("object_hall", Ratio("hallucinated", "named"), "named"),
        Metric("chair_s", Ratio("wrong", "answers"), "answers"),
        Metric("recall", Ratio("recalled", "objects"), "objects"),
        Metric("mean_length", Ratio("words", "rows"), "rows", "mean", limit=0.0),
        Metric("without_objects", Ratio("without_objects", "answers"), "answers"),
        Metric("unread", Ratio("unread", "rows"), "rows"),
    ],
    same=("question_id", "question", "expected", "rule", "by"),
    facts="questions, objects, rules or judges",
    needs=("named", "hallucinated", "words"),
    asks=Asks(
        options=HalbenchOptions,
        max_new_tokens=512,
        label="descriptions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        sees_images=False,
        grader=Grader(
            ask=ask_judge,
            read=read_reply,
            max_new_tokens=512,
            template=lambda options: options.words,
            needed=lambda options: False,
        ),
    ),
)  # fmt: skip


def eval_object_halbench(
    halbench: HalbenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Have images described, and count the objects that are not there (Object HalBench).

    Writes `answers.jsonl` (with the objects that each description names), `scores.json`
    (response_hall, object_hall, chair_s, recall, mean_length, without_objects, unread; 95 %
    intervals clustered by image), with a judge `replies.jsonl`, and `run.json`. Run again with the
    same settings, it continues. Answers have at most 512 tokens if not set. Answers made elsewhere
    are JSON Lines {"image_id", "answer"}, or without an id in the order of the questions.

    Args:
        halbench: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers. The images may be in the file of questions.
        asking: how the model is asked.
        grading: who lists the objects of an answer; if no one, word lists find them.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, halbench, out, subject, asking, grading=grading)
