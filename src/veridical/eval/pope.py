"""POPE: yes/no questions about objects that are, or are not, in the image (Li et al. 2023)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from veridical.data.image_checks import find_images
from veridical.data.object_lists import match_image_ids, read_objects
from veridical.data.object_questions import Question, build_questions
from veridical.data.vocabulary import read_vocabulary
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
from veridical.eval.benchmark import Benchmark, Row, Rows, Statistic, score_rows
from veridical.eval.pope_auc import auc_difference, auc_estimate, yes_margins
from veridical.eval.pope_questions import read_questions
from veridical.eval.pope_refused import refuse_late, refused_rows
from veridical.eval.scores import print_scores, write_scores
from veridical.eval.stored_answers import write_answers
from veridical.eval.trained_on import warn_of_training_images
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.runs import start_run
from veridical.runtime.shards import ALL, read_shard, say
from veridical.scoring.object_scores import POPE, POPE_FORMULAS, pope_counts
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, sum_by_cluster
from veridical.scoring.yes_no_answers import Parsing, parse_answer

if TYPE_CHECKING:
    from veridical.runtime.cache import Cache

UNPARSED_WITHOUT_A_WORD = 0.05  # share of answers


def pope_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows (`image_id`, `label`, `parsed`), added up by image."""
    return sum_by_cluster(
        (row["image_id"], pope_counts(row["label"], row["parsed"])) for row in rows
    )


def by_split(rows: Rows) -> dict[str, Rows]:
    """Rows of each split, in the order in which splits appear."""
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(row["split"], []).append(row)
    return {**splits}


def have_margins(rows: Rows) -> bool:
    """Whether every answer has a margin of yes over no."""
    return bool(rows) and all("margin" in row for row in rows)


# An unparsed answer is a wrong one: it counts against accuracy, and against recall where "yes" was
# right; it is no "yes" for precision and yes_rate.
COUNTED = {"precision": "said_yes", "recall": "present"}
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
)


def match_answers(
    questions: Sequence[Question], answers: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The answer of each question.

    Matched by `question_id`, and by `split` where the answers have one. Official files use the
    same ids in every split: the second answer with an id then belongs to the second question with
    it, and so on, in the order in which files and rows were given.

    Raises:
        UserError: questions without an answer, answers without a question, a `split` in some
            answers only, or an answer whose own `question` or `image` is another.
    """
    splits = sum("split" in row for row in answers)
    if 0 < splits < len(answers):
        first = next(row["question_id"] for row in answers if "split" not in row)
        raise UserError(
            f"{splits} of {len(answers)} answers have a `split`, and the others, such as "
            f"{first}, have none. Give it to all of them or to none."
        )
    with_split = splits > 0

    def key(split: str, question_id: str) -> tuple[str, str]:
        return (split if with_split else "", question_id)

    waiting: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in answers:
        waiting[key(str(row.get("split")), row["question_id"])].append(row)
    asked = Counter(key(question.split, question.question_id) for question in questions)
    wrong = [name for name in asked | waiting.keys() if asked[name] != len(waiting[name])]
    if wrong:
        some = ", ".join(
            f"{name[1]} ({asked[name]} asked, {len(waiting[name])} answered)" for name in wrong[:3]
        )
        raise UserError(
            f"{len(wrong)} question ids have not exactly one answer a question: {some}. Give every "
            "questions file and an answer to every question, files in the same order."
        )
    taken: Counter[tuple[str, str]] = Counter()
    matched = []
    for question in questions:
        name = key(question.split, question.question_id)
        matched.append(waiting[name][taken[name]])
        taken[name] += 1
        _refuse_other(question, matched[-1])
    return matched


def _refuse_other(question: Question, answer: Mapping[str, Any]) -> None:
    """Refuse an answer that says itself that it is one to another question."""
    asked = {"question": question.text, "image": Path(question.image).stem}
    for field, wanted in asked.items():
        own = answer.get(field)
        said = Path(str(own)).stem if field == "image" else str(own).strip()
        if own is not None and said.casefold() != wanted.strip().casefold():
            shown = question.image if field == "image" else question.text
            raise UserError(
                f"The answer with question_id {question.question_id} is to the {field} {own!r}, "
                f"but the question with that id has {shown!r} ({question.split}). Give --answers "
                "in the same order as --questions, or a `split` in each answer."
            )


def judge_rows(
    questions: Sequence[Question], answers: Sequence[Mapping[str, Any]], parsing: Parsing
) -> list[dict[str, Any]]:
    """Rows of `answers.jsonl`: the question, the answer, and what it says."""
    return [
        {
            "question_id": question.question_id,
            "image_id": question.image_id,
            "image": question.image,
            "split": question.split,
            "question": question.text,
            "label": question.label,
            "answer": answer["answer"],
            "parsed": parse_answer(answer["answer"], parsing, question.text),
            **{name: answer[name] for name in _ABOUT_ANSWER if name in answer},
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def _given_answers(path: Path) -> list[dict[str, Any]]:
    """Answers made elsewhere, of which a margin is a number and a prompt a text.

    Raises:
        UserError: one is something else, or a row lacks its id or its answer.
    """
    rows = read_answer_rows(path, "question_id")
    for row in rows:
        margin, prompt = row.get("margin", 0.0), row.get("prompt")
        is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
        if not is_number or not abs(margin) < math.inf:
            what, wanted = f"margin {margin!r:.40}", "a finite number, log p(Yes) - log p(No)"
        elif prompt is not None and not isinstance(prompt, str):
            what, wanted = f"prompt {prompt!r:.40}", "a text"
        else:
            continue
        raise UserError(
            f"{path}: the answer with question_id {row['question_id']} has the {what}; it has to "
            f"be {wanted}. Correct the field or leave it out of all answers."
        )
    return rows


_ABOUT_ANSWER = ("margin", "prompt", "stop_reason", "key", "decoding")


def eval_pope(
    out: Path,
    model: str | None = None,
    questions: list[Path] | None = None,
    answers: list[Path] | None = None,
    images: Path | None = None,
    objects: Path | None = None,
    vocabulary: Path | None = None,
    per_image: int = 3,
    limit: int | None = None,
    auc: bool = False,
    instruction: str = "",
    parsing: Parsing = "strict",
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    steer: str | None = None,
    batch_size: int = 32,
    cache: str | None = None,
    cache_gigabytes: float = 50.0,
    vision_cache: bool = False,
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    template: dict[str, Any] | None = None,
    shard: str | None = None,
    max_bad_fraction: float = 0.01,
) -> dict[str, Estimate]:
    """Ask yes/no questions about objects, or take answers made elsewhere, and score them.

    Writes `questions.jsonl`, `answers.jsonl`, `scores.json` (accuracy, precision, recall, f1,
    yes_rate, unparsed over all questions, and of each split; 95 % intervals clustered by image)
    and `run.json`. Run again with the same settings, it continues. A question that is in several
    splits is asked once.

    Args:
        out: the folder to write.
        model: who answers: a hub name, a folder, or `embedded`. Not with `answers`.
        questions: POPE's files, JSON Lines {"question_id", "image", "text", "label"}. Default:
            the three splits are built from `objects`.
        answers: answers made elsewhere, JSON Lines {"question_id", "answer"}; several files in
            the order of `questions`, when ids repeat.
        images: the folder of images, needed with `model`.
        objects: JSON {image_id: [names of the objects in the image]}, to build questions from.
        vocabulary: of built questions, names that may be absent besides those in the lists of the
            images asked about: JSON as for `eval chair`, or `coco` for COCO's 80 classes.
        per_image: objects asked about of either kind, present and absent, in each built split.
        limit: ask about only so many images, the first by name. Default: all.
        auc: also compute how likely "Yes" is against "No" as the first word, and report the area
            under the ROC curve, which does not depend on how readily a model says yes.
        instruction: put after each question on a line of its own, such as "Answer yes or no."
        parsing: `strict` counts answers that say neither yes nor no as unparsed and wrong;
            `official` is POPE's own rule, which takes all but "no" and "not" for a yes.
        max_new_tokens: length limit of an answer, in tokens.
        temperature: of sampling; 0 takes the most likely token.
        seed: of built questions and of sampling.
        steer: ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        batch_size: answers made at once; it changes none of them.
        cache: folder that runs share for image features, or `none`; if not set, the variable
            VERIDICAL_CACHE says, else it is the user's folder for caches.
        cache_gigabytes: what that folder may hold, in 10^9 bytes; the longest unused goes first.
        vision_cache: keep each image's features there instead of encoding it for every question.
        dtype: the model's; auto keeps the checkpoint's (float32 on a CPU).
        device: `auto`, `cpu`, `cuda`, ...
        template: a variable of the model's chat template, such as enable_thinking=true (false
            where the template reads it and nothing is said); chat_template=NAME chooses one.
        shard: make only this shard of the answers, such as 2/8; who makes the last one writes the
            scores. Under `torchrun` every process takes its own.
        max_bad_fraction: share of unusable images (or of given questions about such) above which
            nothing is scored.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    configuration = dict(locals())
    skipped: list[dict[str, str]]
    results: dict[str, int]
    found: Sequence[Mapping[str, Any]]
    _check_options(model, questions, answers, images, objects)
    inputs = _named_inputs(questions, answers, images, objects)
    names = _names(vocabulary, objects)
    if auc and model is None:
        raise UserError(
            "--auc asks a model. For answers made elsewhere leave it out and give each of them a "
            "`margin`, log p(Yes) - log p(No): then the scores have an auc."
        )
    if vision_cache and model is None:
        raise UserError("--vision-cache asks a model; answers made elsewhere look at no image.")
    check_steer(steer, model)
    check_template_option(template, model)
    settings = Settings(
        model or "", max_new_tokens, temperature, seed, batch_size, dtype, device, steer,
        read_shard(shard) if model else ALL,
        _features(cache, cache_gigabytes) if vision_cache else None, template,
    )  # fmt: skip
    with start_run(out, "eval pope", configuration, inputs, any_process=True) as run:
        if answers is not None:
            given = [row for path in answers for row in _given_answers(path)]
            asked, skipped, results = read_questions(questions or []), [], {}
            found = match_answers(asked, given)
        else:
            found_images = find_images(images or Path())
            asked, skipped, results = _questions_to_ask(
                questions, found_images, settings.model, objects, per_image, seed, limit, names,
                max_bad_fraction,
            )  # fmt: skip
            about = {Path(question.image).stem for question in asked}
            pictures = [file for stem, file in found_images.items() if stem in about]
            results |= {"trained_on": warn_of_training_images(settings.model, pictures)}
            made = _ask(asked, found_images, instruction, settings, out, auc)
            if made is None:
                return {}
            by_image = objects is not None
            late = refused_rows(asked, made, by_image)
            refuse_late(late, asked, skipped, by_image, max_bad_fraction)
            skipped += late
            kept = [place for place, row in enumerate(made) if "refused" not in row]
            asked, found = [asked[n] for n in kept], [made[n] for n in kept]
        rows = judge_rows(asked, found, parsing)
        scores = score_rows(BENCHMARK, rows)
        write_jsonl(out / "questions.jsonl", (question.as_json() for question in asked))
        write_answers(out, rows, given=answers is not None)
        write_jsonl(out / "skipped.jsonl", skipped)
        write_scores(out, BENCHMARK, scores)
        forget_partial_answers(out)
        run.finish(questions=len(rows), skipped=len(skipped), **results)
    print_scores(scores)
    suggest_instruction(rows, instruction)
    return scores


def suggest_instruction(rows: Sequence[Mapping[str, Any]], instruction: str = "") -> None:
    """Say what to do about answers that are neither yes nor no, when they are more than 5 %.

    Args:
        rows: as in `answers.jsonl`.
        instruction: what was put after each question.
    """
    unparsed = [row["answer"] for row in rows if row["parsed"] is None]
    if len(unparsed) <= UNPARSED_WITHOUT_A_WORD * len(rows):
        return
    some = ", ".join(repr(answer[:50]) for answer in dict.fromkeys(unparsed))
    advice = "Ask for one of the two: --instruction 'Answer with yes or no.'"
    if instruction:
        advice = "Word --instruction so that the answer begins with yes or no"
    say(
        f"{len(unparsed)} of {len(rows)} answers say neither yes nor no and count as wrong: "
        f"{some[:160]}. {advice} (answers made elsewhere have to be made again)."
    )


def _check_options(
    model: str | None,
    questions: Sequence[Path] | None,
    answers: Sequence[Path] | None,
    images: Path | None,
    objects: Path | None,
) -> None:
    if (model is None) == (answers is None):
        found = "neither was given" if model is None else "both were"
        raise UserError(f"Give either a model or --answers made elsewhere: {found}.")
    if answers is not None and not questions:
        raise UserError("With --answers, --questions must name the file or files they answer.")
    if model is not None and images is None:
        raise UserError("With a model, --images must name the folder of the images.")
    if answers is None and (questions is None) == (objects is None):
        found = "neither was given" if questions is None else "both were"
        raise UserError(f"Give either --questions, or --objects to build questions from: {found}.")


def _named_inputs(
    questions: Sequence[Path] | None,
    answers: Sequence[Path] | None,
    images: Path | None,
    objects: Path | None,
) -> dict[str, Path]:
    named = {"images": images, "objects": objects}
    named |= {f"questions/{path.name}": path for path in questions or ()}
    named |= {f"answers/{path.name}": path for path in answers or ()}
    return {name: path for name, path in named.items() if path is not None}


def _names(vocabulary: Path | None, objects: Path | None) -> list[str]:
    if vocabulary is None:
        return []
    if objects is None:
        raise UserError("--vocabulary is for questions that are built from --objects.")
    return sorted(read_vocabulary(None if str(vocabulary) == "coco" else vocabulary).names)


def _questions_to_ask(
    paths: Sequence[Path] | None,
    images: Mapping[str, Path],
    model: str,
    objects: Path | None,
    per_image: int,
    seed: int,
    limit: int | None,
    names: Sequence[str],
    most: float,
) -> tuple[list[Question], list[dict[str, str]], dict[str, int]]:
    """Questions, what was left out and why, and counts for `run.json`."""
    broken = unusable_images(images.values(), model)
    if objects is None:
        asked = _first_images(read_questions(paths or []), limit)
        reasons = {path.stem: reason for path, reason in broken.items()}
        absent = "the folder has no such image"
        reasons |= {stem: absent for q in asked if (stem := Path(q.image).stem) not in images}
        skipped = [
            {"id": question.question_id, "field": question.image, "reason": reasons[stem]}
            for question in asked
            if (stem := Path(question.image).stem) in reasons
        ]
        refuse_many(len(skipped), len(asked), "questions", skipped, most)
        return [q for q in asked if Path(q.image).stem not in reasons], skipped, {}
    return _build(images, broken, read_objects(objects), per_image, seed, limit, names, most)


def _build(
    images: Mapping[str, Path],
    broken: Mapping[Path, str],
    listed: Mapping[str, Sequence[str]],
    per_image: int,
    seed: int,
    limit: int | None,
    names: Sequence[str],
    most: float,
) -> tuple[list[Question], list[dict[str, str]], dict[str, int]]:
    used, files, skipped = {}, {}, []
    some = dict(list(images.items())[:limit])
    ids = match_image_ids(some, listed)
    for stem, path in some.items():
        image_id = ids[stem]
        if image_id is None or path in broken:
            reason = broken.get(path, "the image has no object list")
            skipped.append({"id": stem, "field": "image", "reason": reason})
        else:
            used[image_id], files[image_id] = listed[image_id], path.name
    refuse_many(len(skipped), len(skipped) + len(used), "images", skipped, most)
    built = build_questions(used, files, per_image, seed, names)
    reason = "nothing to ask: no object is there, or none is absent"
    skipped += [{"id": i, "field": "objects", "reason": reason} for i in built.skipped]
    counts = {"images_without_questions": len(built.skipped), "images_asked_less": len(built.short)}
    return list(built.questions), skipped, counts


def _first_images(questions: Sequence[Question], limit: int | None) -> list[Question]:
    kept = set(sorted({question.image_id for question in questions})[:limit])
    return [question for question in questions if question.image_id in kept]


def _features(folder: str | None, gigabytes: float) -> Cache:
    """Where image features are kept."""
    # PyTorch takes seconds to import, and answers made elsewhere are scored without it.
    from veridical.runtime.cache import open_cache

    return open_cache(folder, gigabytes)


def _ask(
    questions: Sequence[Question],
    images: Mapping[str, Path],
    instruction: str,
    settings: Settings,
    out: Path,
    auc: bool,
) -> list[dict[str, Any]] | None:
    """An answer for each question, with its margin if wanted; what several splits ask, once.

    Where the image was refused, the reason (`refused`) is there instead.

    None where another shard puts the answers together.
    """
    queries = {}
    for question in questions:
        prompt = f"{question.text}\n{instruction}" if instruction else question.text
        name = f"{question.image_id}/{question.text}"
        queries[name] = Query(name, images[Path(question.image).stem], prompt)
    # What is asked about one image comes together, so that the image is read once.
    queries = dict(sorted(queries.items(), key=lambda named: str(named[1].image)))
    made = make_answers(list(queries.values()), settings, out, "questions")
    if made is None:
        return None
    by_name = dict(zip(queries, made, strict=True))
    answered = {name: query for name, query in queries.items() if not by_name[name].refused}
    values = yes_margins(list(answered.values()), settings) if auc else []
    margins = dict(zip(answered, values, strict=False))
    found = []
    for question in questions:
        name = f"{question.image_id}/{question.text}"
        about = {"prompt": queries[name].prompt, "decoding": settings.decoding()}
        margin = {"margin": margins[name]} if name in margins else {}
        found.append({**by_name[name].as_json(), **margin, **about})
    return found
