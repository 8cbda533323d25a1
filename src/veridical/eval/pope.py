"""POPE: yes/no questions about objects that are, or are not, in the image (Li et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.data.object_lists import match_image_ids, read_objects
from veridical.data.object_questions import SPLITS, ObjectQuestion, build_questions
from veridical.data.prompts import Prompt, image_question
from veridical.data.vocabulary import read_vocabulary
from veridical.eval.answers import refuse_many
from veridical.eval.asks import AskedItem, Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows, Statistic
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet
from veridical.eval.pope_auc import auc_difference, auc_estimate, yes_margins
from veridical.eval.pope_matching import answered_questions, match_answers, read_given_answers
from veridical.eval.pope_questions import Relabels, read_questions, read_relabels
from veridical.eval.published import natural
from veridical.eval.run import run_benchmark
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import counted, part_of
from veridical.scoring.object_scores import POPE, POPE_FORMULAS, pope_counts
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, sum_by_cluster
from veridical.scoring.yes_no_answers import Parsing, parse_answer

UNPARSED_WITHOUT_A_WORD = 0.05  # share of answers
ABOUT_ANSWER = ("margin", "prompt", "stop_reason", "key", "decoding")
"""What a row of answers made elsewhere may have, as ours do."""


@dataclass(frozen=True)
class PopeOptions:
    """What POPE asks, and how answers are read.

    Attributes:
        questions: POPE's files, of COCO, A-OKVQA or GQA: JSON Lines or lists {"question_id",
            "image", "text", "label"}. Default: the three splits are built from `objects`.
        objects: JSON {image_id: [names of the objects in the image]}, to build questions from.
        vocabulary: of built questions, names that may be absent besides those in the lists of the
            images asked about: JSON as for `eval chair`, or `coco` for COCO's 80 classes.
        per_image: objects asked about of either kind, present and absent, in each built split.
        auc: also compute how likely "Yes" is against "No" as the first word, and report the area
            under the ROC curve, which does not depend on how readily a model says yes.
        instruction: put after each question on a line of its own, such as "Answer yes or no."
        parsing: `strict` counts answers that say neither yes nor no as unparsed and wrong;
            `official` is POPE's own rule, which takes all but "no" and "not" for a yes.
        relabeled: RePOPE's files, corrected labels of the same `questions`: the same answers are
            scored by them too, as repope/accuracy and, by split, repope_random/accuracy.
    """

    questions: list[Path] | None = None
    objects: Path | None = None
    vocabulary: Path | None = None
    per_image: int = 3
    auc: bool = False
    instruction: str = ""
    parsing: Parsing = "strict"
    relabeled: list[Path] | None = None

    @cached_property
    def relabels(self) -> Relabels:
        """The corrected labels; a question without one was taken out."""
        return read_relabels(self.relabeled or [], read_questions(self.questions or []))


def pope_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows (`image_id`, `label`, `parsed`), added up by image."""
    return sum_by_cluster(
        (row["image_id"], pope_counts(row["label"], row["parsed"])) for row in rows
    )


def by_split(rows: Rows) -> dict[str, Rows]:
    """Rows of each split, in the order in which splits appear, and then by corrected labels."""
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(row["split"], []).append(row)
    for row in rows:
        if row.get("relabeled") is not None:
            for name in ("repope", f"repope_{row['split']}"):
                splits.setdefault(name, []).append({**row, "label": row["relabeled"]})
    return {**splits}


def have_margins(rows: Rows) -> bool:
    """Whether every answer has a margin of yes over no."""
    return bool(rows) and all("margin" in row for row in rows)


def check_options(options: PopeOptions, evaluation: Evaluation) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: they don't.
    """
    if evaluation.model is None:
        if not options.questions:
            raise UserError("With --answers, --questions must name the file or files they answer.")
        if options.auc:
            raise UserError(
                "--auc asks a model. For answers made elsewhere leave it out and give each of them "
                "a `margin`, log p(Yes) - log p(No): then the scores have an auc."
            )
    elif (options.questions is None) == (options.objects is None):
        found = "neither was given" if options.questions is None else "both were"
        raise UserError(f"Give either --questions, or --objects to build questions from: {found}.")
    if options.relabeled:
        if not options.questions:
            raise UserError("--relabeled corrects the labels of --questions; name their files too.")
        _ = options.relabels
    if options.vocabulary is not None:
        if options.objects is None:
            raise UserError("--vocabulary is for questions that are built from --objects.")
        _ = _names(options)  # a vocabulary that can't be read is refused before anything is written


def questions_to_ask(options: PopeOptions, evaluation: Evaluation) -> Questions:
    """The questions of the files, or those built from the object lists."""
    images = evaluation.find_images()
    broken = evaluation.asked.unusable_images(images.values())
    if options.objects is not None:
        return _build(options, options.objects, evaluation, images, broken)
    asked = _first_images(read_questions(options.questions or []), evaluation.subject.limit)
    reasons = {path.stem: reason for path, reason in broken.items()}
    absent = "the folder has no such image"
    reasons |= {stem: absent for q in asked if (stem := Path(q.image).stem) not in images}
    skipped = [
        {"id": question.question_id, "field": question.image, "reason": reasons[stem]}
        for question in asked
        if (stem := Path(question.image).stem) in reasons
    ]
    items = [
        _item(question, images, options.instruction, (question.question_id, question.image))
        for question in asked
        if Path(question.image).stem not in reasons
    ]
    return Questions(items, skipped, "questions")


def _build(
    options: PopeOptions,
    objects: Path,
    evaluation: Evaluation,
    images: Mapping[str, Path],
    broken: Mapping[Path, str],
) -> Questions:
    listed, subject = read_objects(objects), evaluation.subject
    used, files, skipped = {}, {}, []
    some = dict(list(images.items())[: subject.limit])
    ids = match_image_ids(some, listed)
    for stem, path in some.items():
        image_id = ids[stem]
        if image_id is None or path in broken:
            reason = broken.get(path, "the image has no object list")
            skipped.append({"id": stem, "field": "image", "reason": reason})
        else:
            used[image_id], files[image_id] = listed[image_id], path.name
    # Before questions are built: of no image none can be.
    refuse_many(len(skipped), len(some), "images", skipped, subject.max_bad_fraction)
    built = build_questions(used, files, options.per_image, evaluation.asking.seed, _names(options))
    reason = "nothing to ask: no object is there, or none is absent"
    empty = [{"id": i, "field": "objects", "reason": reason} for i in built.skipped]
    counts = {"images_without_questions": len(built.skipped), "images_asked_less": len(built.short)}
    items = [
        _item(question, images, options.instruction, (Path(question.image).stem, "image"))
        for question in built.questions
    ]
    return Questions(items, skipped, "images", empty, counts)


def _item(
    question: ObjectQuestion, images: Mapping[str, Path], instruction: str, named: tuple[str, str]
) -> AskedItem:
    """A question as it is asked; one that is in several splits is asked once."""
    prompt = f"{question.text}\n{instruction}" if instruction else question.text
    name = f"{question.image_id}/{question.text}"
    return AskedItem(
        image_question(name, images[Path(question.image).stem], prompt), _row(question), named
    )


def _row(question: ObjectQuestion) -> JsonObject:
    """What a row of `answers.jsonl` has of its question."""
    return {
        "question_id": question.question_id,
        "image_id": question.image_id,
        "image": question.image,
        "split": question.split,
        "question": question.text,
        "label": question.label,
    }


def _names(options: PopeOptions) -> list[str]:
    if options.vocabulary is None:
        return []
    return sorted(read_vocabulary(options.vocabulary).names)


def _first_images(questions: Sequence[ObjectQuestion], limit: int | None) -> list[ObjectQuestion]:
    kept = set(sorted({question.image_id for question in questions}, key=natural)[:limit])
    return [question for question in questions if question.image_id in kept]


def match_given(options: PopeOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    given = [row for path in evaluation.subject.answers or () for row in read_given_answers(path)]
    every = read_questions(options.questions or [])
    asked, skipped = answered_questions(every, given, evaluation.subject.max_bad_fraction)
    rows = [
        {
            **_row(question),
            "answer": answer["answer"],
            **{name: answer[name] for name in ABOUT_ANSWER if name in answer},
        }
        for question, answer in zip(asked, match_answers(asked, given), strict=True)
    ]
    return GivenAnswers(rows, skipped)


def judge_rows(
    options: PopeOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with what each answer says, and with the corrected label where one is asked for.

    It is None where the question was taken out.
    """
    judged = [
        {**row, "parsed": parse_answer(row["answer"], options.parsing, row["question"])}
        for row in rows
    ]
    if not options.relabeled:
        return judged
    labels = options.relabels
    return [{**row, "relabeled": labels.get((row["split"], row["question_id"]))} for row in judged]


def measure_margins(
    options: PopeOptions, evaluation: Evaluation, prompts: Sequence[Prompt]
) -> list[dict[str, float]]:
    """The margin of "Yes" over "No" for each prompt, where it is asked for."""
    if not options.auc:
        return [{} for _ in prompts]
    return [{"margin": margin} for margin in yes_margins(prompts, evaluation.settings)]


def remark(
    options: PopeOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The questions that were asked, and what to do where too many answers are unparsed."""
    names = {"question_id": "question_id", "image": "image", "image_id": "image_id",
             "split": "split", "question": "text", "label": "label"}  # fmt: skip
    asked = [{there: row[own] for own, there in names.items()} for row in rows]
    advice = suggest_instruction(judged, options.instruction)
    return Remarks(lines=[*advice, *describe_relabels(judged)], files={"questions.jsonl": asked})


def describe_relabels(judged: Sequence[Row]) -> list[str]:
    """How many labels the corrected files change, and how many questions they take out."""
    rows = [row for row in judged if "relabeled" in row]
    if not rows:
        return []
    out = sum(row["relabeled"] is None for row in rows)
    turned = {
        label: sum(row["label"] == label and row["relabeled"] == other for row in rows)
        for label, other in (("yes", "no"), ("no", "yes"))
    }
    return [
        f"RePOPE: of {counted(len(rows), 'questions')} {out} are taken out, {turned['yes']} turn "
        f"from yes to no and {turned['no']} from no to yes."
    ]


def suggest_instruction(judged: Sequence[Row], instruction: str = "") -> list[str]:
    """What to do about answers that are neither yes nor no, when they are more than 5 %.

    Args:
        judged: rows of `answers.jsonl`.
        instruction: what was put after each question.
    """
    unparsed = [row["answer"] for row in judged if row["parsed"] is None]
    if len(unparsed) <= UNPARSED_WITHOUT_A_WORD * len(judged):
        return []
    some = ", ".join(repr(answer[:50]) for answer in dict.fromkeys(unparsed))
    advice = "Ask for one of the two: --instruction 'Answer with yes or no.'"
    if instruction:
        advice = "Word --instruction so that the answer begins with yes or no"
    return [
        f"{part_of(len(unparsed), len(judged), 'answers', 'says', 'say')} neither yes nor no; "
        "counted as wrong: "
        f"{some[:160]}. {advice} (answers made elsewhere have to be made again)."
    ]


# An unparsed answer is a wrong one: it counts against accuracy, and against recall where "yes" was
# right; it is no "yes" for precision and yes_rate.
COUNTED = {"precision": "said_yes", "recall": "present"}


def _published(row: Mapping[str, Any]) -> dict[str, str]:
    """A question as POPE's files have it, with its split."""
    return {"question_id": str(row["question_id"]), "image": _image_name(row),
            "text": row["question"], "label": row["answer"], "split": row["category"]}  # fmt: skip


def _image_name(row: Mapping[str, Any]) -> str:
    return f"{row['image_source']}.jpg"


HUB = HubSet(
    "lmms-lab/POPE", [("Full", split) for split in SPLITS], _published, _image_name,
    option="questions",
)  # fmt: skip

BENCHMARK = Benchmark(
    description=POPE,
    judged="answers.jsonl",
    sums=pope_sums,
    formulas=[
        Metric(name, formula, COUNTED.get(name, "questions"))
        for name, formula in POPE_FORMULAS.items()
    ],
    statistics=[Statistic("auc", have_margins, auc_estimate, auc_difference)],
    groups=by_split,
    same=("split", "image_id", "question", "label"),
    facts="questions",
    needs=("parsed",),
    asks=Asks(
        options=PopeOptions,
        max_new_tokens=32,
        label="questions",
        check=check_options,
        read=questions_to_ask,
        match=match_given,
        judge=judge_rows,
        measure=measure_margins,
        remark=remark,
        hub=HUB,
    ),
)


def eval_pope(
    pope: PopeOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask yes/no questions about objects, or take answers made elsewhere, and score them.

    Writes `questions.jsonl`, `answers.jsonl`, `scores.json` (accuracy, precision, recall, f1,
    yes_rate, unparsed over all questions, and of each split; 95 % intervals clustered by image)
    and `run.json`. Run again with the same settings, it continues. A question that is in several
    splits is asked once. Answers have at most 32 tokens if not set. Answers made elsewhere are JSON
    Lines {"question_id", "answer"}; several files in the order of `questions`, when ids repeat.

    Args:
        pope: what is asked, and how answers are read.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, pope, out, subject, asking)
