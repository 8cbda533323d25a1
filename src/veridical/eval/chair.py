"""CHAIR: which objects of a description are not in the image (Rohrbach et al. 2018).

Per answer the vocabulary finds mentions of objects; a mention is hallucinated when the image's
list does not have the object. `chair_i` = hallucinated mentions / mentions, `chair_s` = answers
with a hallucinated mention / answers, `recall` = distinct listed objects that are mentioned /
listed objects, summed over images (Object HalBench's recall), `mean_length` = words per answer,
`exact_score` = the mean of the exact judge's score (`judges.exact.exact_score`), `empty` = answers
without a word / answers: they lower `chair_s` and say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.data.image_checks import find_images
from veridical.data.object_lists import (
    JudgedAnswer,
    count_objects,
    judge_answer,
    match_image_ids,
    name_objects,
    read_objects,
)
from veridical.data.prompts import image_question
from veridical.data.vocabulary import Vocabulary, describe_vocabulary, read_vocabulary
from veridical.eval.answers import read_answer_rows, refuse_many
from veridical.eval.asks import (
    AskedItem,
    Asks,
    GivenAnswers,
    Questions,
    Remarks,
    Row,
    SkippedQuestion,
)
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.run import run_benchmark
from veridical.judges.exact import RECALL_WEIGHT, exact_score
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.scoring.object_scores import CHAIR, CHAIR_FORMULAS, DESCRIBE, chair_counts
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster


@dataclass(frozen=True)
class ChairOptions:
    """What CHAIR counts by.

    Attributes:
        objects: JSON {image_id: [names of the objects in the image]}.
        vocabulary: JSON {name: [words]} or CHAIR's synonym tables. Default: a short list of our
            own for COCO's 80 classes, whose figures are not comparable with published ones.
        prompt: what the model is asked.
    """

    objects: Path
    vocabulary: Path | None = None
    prompt: str = DESCRIBE

    @cached_property
    def listed(self) -> Mapping[str, Sequence[str]]:
        """The objects in each image, by its id."""
        return read_objects(self.objects)

    @cached_property
    def words(self) -> Vocabulary:
        """Which words name which object."""
        return read_vocabulary(self.vocabulary)


NO_LIST = "the image has no object list"
MOST_CUT_OFF = 0.05
"""Share of descriptions cut off at the length limit above which a warning is printed."""


FORMULAS = (
    Metric("chair_i", CHAIR_FORMULAS["chair_i"], "mentions"),
    Metric("chair_s", CHAIR_FORMULAS["chair_s"], "answers"),
    Metric("recall", CHAIR_FORMULAS["recall"], "objects"),
    Metric("mean_length", CHAIR_FORMULAS["mean_length"], "answers", "mean", limit=0.0),
    # One invented object costs 1, and no answer scores above the weight of full recall.
    Metric(
        "exact_score", Ratio("exact", "answers"), "answers", "mean",
        limit=RECALL_WEIGHT, event=1.0,
    ),
    Metric("empty", CHAIR_FORMULAS["empty"], "answers"),
)  # fmt: skip
"""The metrics as formulas on the columns of `chair_sums`."""


def chair_sums(details: Sequence[Mapping[str, Any]]) -> ClusterSums:
    """Counts of judged answers, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in details)


def _counts(row: Mapping[str, Any]) -> dict[str, float]:
    counts = count_objects(row)
    return {**chair_counts(counts), "exact": exact_score(counts)}


def check_options(options: ChairOptions, evaluation: Evaluation) -> None:
    """Read the lists and the vocabulary, before anything is written.

    Raises:
        UserError: one of them is not what it must be.
    """
    _ = options.listed, options.words


def read_questions(options: ChairOptions, evaluation: Evaluation) -> Questions:
    """The first images by name, each to be described.

    Raises:
        UserError: the vocabulary knows none of the listed objects.
    """
    found = dict(list(evaluation.find_images().items())[: evaluation.subject.limit])
    ids = match_image_ids(found, options.listed)
    # Now rather than after hours of describing.
    known = [image for image in ids.values() if image is not None]
    name_objects({image: options.listed[image] for image in known}, options.words)
    broken = evaluation.asked.unusable_images(found.values())
    skipped = [
        {"id": stem, "field": "image", "reason": broken.get(path, NO_LIST)}
        for stem, path in found.items()
        if ids[stem] is None or path in broken
    ]
    items = [
        AskedItem(image_question(own, path, options.prompt), {"image_id": own, "image": str(path)},
             (stem, "image"))
        for stem, path in found.items()
        if (own := ids[stem]) is not None and path not in broken
    ]  # fmt: skip
    return Questions(items, skipped, "images")


def match_answers(options: ChairOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere whose image has a list; the others are left out."""
    subject = evaluation.subject
    given = [row for path in subject.answers or () for row in read_answer_rows(path, "image_id")]
    rows = [(str(row["image_id"]), row) for row in given]
    ids = match_image_ids((id for id, _ in rows), options.listed)
    skipped: list[SkippedQuestion] = [
        {"id": id, "field": "image_id", "reason": NO_LIST} for id, _ in rows if ids[id] is None
    ]
    refuse_many(len(skipped), len(rows), "answers", skipped, subject.max_bad_fraction)
    kept = [(own, row | {"image_id": own}) for id, row in rows if (own := ids[id]) is not None]
    if subject.images is not None:
        found = find_images(subject.images)
        files = {own: found[stem] for stem, own in match_image_ids(found, options.listed).items()}
        pictured = {own: str(file) for own, file in files.items()}
        kept = [(id, row | {"image": pictured.get(id)}) for id, row in kept]
    return GivenAnswers([row for _, row in kept], skipped)


def judge_rows(
    options: ChairOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JudgedAnswer]:
    """Rows of `details.jsonl`."""
    # With a model, the names that the vocabulary does not know have been printed already.
    warn = evaluation.model is None
    return judge_descriptions(rows, options.listed, options.words, warn)


def judge_descriptions(
    answers: Sequence[Row],
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    warn: bool = True,
) -> list[JudgedAnswer]:
    """Judge answers. Several about one image all count, and are one cluster.

    Args:
        answers: rows with `image_id` (text or number) and `answer`.
        objects: image id to names of what is in the image; synonyms are mapped to names.
        vocabulary: which words name which object.
        warn: print the listed objects that the vocabulary does not know; they are left out.

    Returns:
        A judged row for every answer, in order.

    Raises:
        UserError: an answer's image has no list, or the vocabulary knows none of the listed
            objects.
    """
    wanted = {str(row["image_id"]) for row in answers}
    unlisted = sorted(wanted - objects.keys())
    if unlisted:
        raise UserError(
            f"No object list for {counted(len(unlisted), 'images')} with answers "
            f"({', '.join(unlisted[:5])}). "
            "Give them a list ([] when nothing is there) or leave their answers out."
        )
    named = name_objects({image: objects[image] for image in wanted}, vocabulary, warn)
    return [
        judge_answer(str(row["image_id"]), row["answer"], named[str(row["image_id"])], vocabulary)
        for row in answers
    ]


def remark(
    options: ChairOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The vocabulary, images without an answer, empty answers, and those that were cut off."""
    used, cut_share = describe_vocabulary(options.vocabulary), share_cut_off(rows)
    shares = {} if cut_share is None else {"reached_max_new_tokens": cut_share}
    unanswered = sorted(options.listed.keys() - {row["image_id"] for row in rows})
    empty = sum(not row["answer"].strip() for row in rows)
    lines = [f"Vocabulary: {used}."]
    if unanswered and evaluation.model is None:
        lines.append(
            f"Not scored, without an answer: {len(unanswered)} of the "
            f"{counted(len(options.listed), 'images')} in {options.objects}: "
            f"{', '.join(unanswered[:5])}{', ...' if len(unanswered) > 5 else ''}."
        )
    if empty:
        lines.append(
            f"Empty: {empty} of {counted(len(rows), 'answers')}. They can't name what is not "
            "there, so they lower chair_s: see `empty` beside it."
        )
    if cut_share:
        limit = f"--max-new-tokens {evaluation.asking.max_new_tokens}" if evaluation.model else ""
        lines.append(describe_cut_off(cut_share, limit))
    counts = {"empty": empty, "unanswered": len(unanswered)}
    return Remarks({"vocabulary": used, **shares}, {**counts, **shares}, lines)


def describe_cut_off(share: float, limit: str) -> str:
    """How many descriptions the length limit ended, as a warning where they are many."""
    line = f"{share:.1%} of the descriptions reached {limit or 'their length limit'}"
    if share <= MOST_CUT_OFF:
        return f"{line} and were cut off there."
    return (
        f"Warning: {line}: what they would have said later is not counted. Raise the limit, or "
        "compare only with descriptions of the same limit."
    )


def share_cut_off(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of answers that the length limit ended, of those that say why they ended.

    None where no answer has a `stop_reason`, as in answers made elsewhere.
    """
    reasons = [row["stop_reason"] for row in rows if row.get("stop_reason") is not None]
    return sum(reason == "length" for reason in reasons) / len(reasons) if reasons else None


BENCHMARK = Benchmark(
    description=CHAIR,
    judged="details.jsonl",
    sums=chair_sums,
    formulas=FORMULAS,
    same=("image_id", "objects"),
    facts="object lists",
    needs=("answer", "mentions"),
    asks=Asks(
        options=ChairOptions,
        max_new_tokens=256,
        label="descriptions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
    ),
)


def eval_chair(
    chair: ChairOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Have images described, or take descriptions made elsewhere, and count what is not there.

    Writes `answers.jsonl`, `details.jsonl` (every mention with its place), `scores.json`
    (chair_i, chair_s, recall, mean_length, exact_score, empty with 95 % intervals clustered by
    image, which vocabulary was used, and `reached_max_new_tokens`, the share of descriptions that
    the length limit ended; it is 256 tokens if not set) and `run.json`. Run again with the same
    settings, it continues. An image whose name is not a key of `objects` is looked up by its last
    number without leading zeros, as COCO's are; the same goes for an `image_id` in `answers`, which
    are JSON Lines {"image_id", "answer"}.

    Args:
        chair: what is counted.
        out: the folder to write.
        subject: whose descriptions.
        asking: how the model is asked.

    Raises:
        UserError: neither or both of `model` and `answers`, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, chair, out, subject, asking)
