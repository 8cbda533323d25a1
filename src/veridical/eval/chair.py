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
from pathlib import Path
from typing import Any, Literal

from veridical.data.image_checks import find_images
from veridical.data.object_lists import (
    count_objects,
    judge_answer,
    match_image_ids,
    name_objects,
    read_objects,
)
from veridical.data.vocabulary import Vocabulary, describe_vocabulary, read_vocabulary
from veridical.eval.answers import (
    Query,
    Settings,
    check_steer,
    check_template_option,
    forget_partial_answers,
    make_answers,
    read_answer_rows,
    refuse_many,
    unusable_images,
)
from veridical.eval.benchmark import Benchmark, score_rows
from veridical.eval.scores import print_scores, write_scores
from veridical.eval.stored_answers import write_answers
from veridical.eval.trained_on import warn_of_training_images
from veridical.judges.exact import RECALL_WEIGHT, exact_score
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.progress import counted
from veridical.runtime.runs import start_run
from veridical.runtime.shards import ALL, read_shard, say
from veridical.scoring.object_scores import CHAIR, CHAIR_FORMULAS, DESCRIBE, chair_counts
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

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


BENCHMARK = Benchmark(
    description=CHAIR,
    judged="details.jsonl",
    sums=chair_sums,
    formulas=FORMULAS,
    same=("image_id", "objects"),
    facts="object lists",
    needs=("answer", "mentions"),
)


def score_chair(
    answers: Sequence[Mapping[str, Any]],
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    warn: bool = True,
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Score answers.

    Several answers about one image all count, and are one cluster.

    Args:
        answers: rows with `image_id` (text or number) and `answer`.
        objects: image id to names of what is in the image; synonyms are mapped to names.
        vocabulary: which words name which object.
        warn: print the listed objects that the vocabulary does not know; they are left out.

    Returns:
        The metrics, and a judged row for every answer, in order.

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
    details = [
        judge_answer(str(row["image_id"]), row["answer"], named[str(row["image_id"])], vocabulary)
        for row in answers
    ]
    return score_rows(BENCHMARK, details), details


def eval_chair(
    objects: Path,
    out: Path,
    model: str | None = None,
    images: Path | None = None,
    answers: Path | None = None,
    vocabulary: Path | None = None,
    prompt: str = DESCRIBE,
    limit: int | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    steer: str | None = None,
    batch_size: int = 32,
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    template: dict[str, Any] | None = None,
    shard: str | None = None,
    max_bad_fraction: float = 0.01,
) -> dict[str, Estimate]:
    """Have images described, or take descriptions made elsewhere, and count what is not there.

    Writes `answers.jsonl`, `details.jsonl` (every mention with its place), `scores.json`
    (chair_i, chair_s, recall, mean_length, exact_score, empty with 95 % intervals clustered by
    image, which vocabulary was used, and `reached_max_new_tokens`, the share of descriptions that
    the length limit ended) and `run.json`. Run again with the same settings, it
    continues. An image whose name is no key of `objects` is looked up by its last number without
    leading zeros, as COCO's are; the same goes for an `image_id` in `answers`.

    Args:
        objects: JSON {image_id: [names of the objects in the image]}.
        out: the folder to write.
        model: who describes: a hub name, a folder, or `embedded`. Not with `answers`.
        images: the folder of images to describe, needed with `model`; with `answers` it only
            tells the report where the pictures are.
        answers: descriptions made elsewhere, JSON Lines {"image_id", "answer"}.
        vocabulary: JSON {name: [words]} or CHAIR's synonym tables. Default: a short list of our
            own for COCO's 80 classes, whose figures are not comparable with published ones.
        prompt: what the model is asked.
        limit: describe only so many images, the first by name. Default: all.
        max_new_tokens: length limit of a description, in tokens.
        temperature: of sampling; 0 takes the most likely token.
        seed: of sampling.
        steer: ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        batch_size: descriptions made at once; it changes none of them.
        dtype: the model's; auto keeps the checkpoint's (float32 on a CPU).
        device: `auto`, `cpu`, `cuda`, ...
        template: a variable of the model's chat template, such as enable_thinking=true (false
            where the template reads it and nothing is said); chat_template=NAME chooses one.
        shard: make only this shard of the answers, such as 2/8; who makes the last one writes the
            scores. Under `torchrun` every process takes its own.
        max_bad_fraction: share of unusable images or answers above which nothing is scored.

    Raises:
        UserError: neither or both of `model` and `answers`, or a file is not what it must be.
    """
    configuration = dict(locals())
    if (model is None) == (answers is None):
        raise UserError(
            "Give either a model with --images, or --answers made elsewhere: "
            + ("neither was given." if model is None else "both were.")
        )
    words, listed = read_vocabulary(vocabulary), read_objects(objects)
    used = describe_vocabulary(vocabulary)
    inputs = {"objects": objects, "vocabulary": vocabulary, "answers": answers, "images": images}
    given = {name: path for name, path in inputs.items() if path is not None}
    check_steer(steer, model)
    check_template_option(template, model)
    settings = Settings(
        model or "", max_new_tokens, temperature, seed, batch_size, dtype, device, steer,
        read_shard(shard) if model else ALL, template=template,
    )  # fmt: skip
    with start_run(out, "eval chair", configuration, given, any_process=True) as run:
        trained_on: dict[str, int] = {}
        if answers is not None:
            rows, skipped = _read_answers(answers, listed, images, max_bad_fraction)
        else:
            pictures = list(find_images(images).values())[:limit] if images else []
            trained_on = {"trained_on": warn_of_training_images(settings.model, pictures)}
            described = _describe(
                images, listed, words, prompt, limit, settings, out, max_bad_fraction
            )
            if described is None:
                return {}
            rows, skipped = described
        scores, details = score_chair(rows, listed, words, warn=answers is not None)
        write_answers(out, rows, given=answers is not None)
        write_jsonl(out / "details.jsonl", details)
        write_jsonl(out / "skipped.jsonl", skipped)
        cut_share = share_cut_off(rows)
        shares = {} if cut_share is None else {"reached_max_new_tokens": cut_share}
        write_scores(out, BENCHMARK, scores, {"vocabulary": used, **shares})
        forget_partial_answers(out)
        unanswered = sorted(listed.keys() - {row["image_id"] for row in rows})
        empty = sum(not row["answer"].strip() for row in rows)
        counts = {"answers": len(rows), "skipped": len(skipped), "empty": empty}
        run.finish(**counts, unanswered=len(unanswered), **trained_on, **shares)
    print_scores(scores)
    say(f"Vocabulary: {used}.")
    if unanswered and answers is not None:
        say(
            f"Not scored, without an answer: {len(unanswered)} of the "
            f"{counted(len(listed), 'images')} in {objects}: "
            f"{', '.join(unanswered[:5])}{', ...' if len(unanswered) > 5 else ''}."
        )
    if empty:
        say(
            f"Empty: {empty} of {counted(len(rows), 'answers')}. They can't name what is not "
            "there, so they "
            "lower chair_s: see `empty` beside it."
        )
    if cut_share:
        say(describe_cut_off(cut_share, f"--max-new-tokens {max_new_tokens}" if model else ""))
    return scores


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


def _describe(
    folder: Path | None,
    objects: Mapping[str, Sequence[str]],
    words: Vocabulary,
    prompt: str,
    limit: int | None,
    settings: Settings,
    out: Path,
    most: float,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]] | None:
    """Rows of `answers.jsonl`, and the images left out with the reason.

    None where another shard puts the answers together.
    """
    if folder is None:
        raise UserError("With a model, --images must name the folder of images to describe.")
    found = dict(list(find_images(folder).items())[:limit])
    ids = match_image_ids(found, objects)
    # Now rather than after hours of describing.
    name_objects({image: objects[image] for image in ids.values() if image is not None}, words)
    broken = unusable_images(found.values(), settings.model)
    skipped = [
        {"id": stem, "field": "image", "reason": broken.get(path, NO_LIST)}
        for stem, path in found.items()
        if ids[stem] is None or path in broken
    ]
    refuse_many(len(skipped), len(found), "images", skipped, most)
    left_out = {row["id"] for row in skipped}
    queries = [
        Query(ids[stem] or stem, path, prompt)
        for stem, path in found.items()
        if stem not in left_out
    ]
    made = make_answers(queries, settings, out, "descriptions")
    if made is None:
        return None
    skipped += [
        {"id": query.image.stem, "field": "image", "reason": answer.refused}
        for query, answer in zip(queries, made, strict=True)
        if answer.refused
    ]
    refuse_many(len(skipped), len(found), "images", skipped, most)
    rows = [
        {
            "image_id": query.id,
            "image": str(query.image),
            "prompt": query.prompt,
            **answer.as_json(),
            "decoding": settings.decoding(),
        }
        for query, answer in zip(queries, made, strict=True)
        if not answer.refused
    ]
    return rows, skipped


def _read_answers(
    path: Path, objects: Mapping[str, Sequence[str]], folder: Path | None, most: float
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Answers whose image has a list, and those left out with the reason."""
    rows = read_answer_rows(path, "image_id")
    ids = match_image_ids((row["image_id"] for row in rows), objects)
    skipped = [
        {"id": row["image_id"], "field": "image_id", "reason": NO_LIST}
        for row in rows
        if ids[row["image_id"]] is None
    ]
    refuse_many(len(skipped), len(rows), "answers", skipped, most)
    kept = [{**row, "image_id": own} for row in rows if (own := ids[row["image_id"]]) is not None]
    if folder is not None:
        found = find_images(folder)
        files = {own: found[stem] for stem, own in match_image_ids(found, objects).items()}
        pictured = {
            row["image_id"]: str(files[row["image_id"]]) for row in kept if row["image_id"] in files
        }
        kept = [{**row, "image": pictured.get(row["image_id"])} for row in kept]
    return kept, skipped
