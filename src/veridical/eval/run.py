"""One evaluation from end to end, the same for every benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.data.messages import text_of
from veridical.data.prompts import Prompt
from veridical.eval.answers import (
    KeyedAnswer,
    forget_partial_answers,
    make_answers,
    refuse_many,
    without_answers,
)
from veridical.eval.asked_model import AskedModel
from veridical.eval.asks import AskedItem, Asks, Questions, Remarks, Row, SkippedQuestion
from veridical.eval.benchmark import Benchmark, score_rows
from veridical.eval.evaluation import Asking, Evaluation, Subject, open_model
from veridical.eval.grading import NOBODY, Graded, Grading, check_grading, grade
from veridical.eval.hub_files import with_hub_files
from veridical.eval.judge_cost import judge_cost
from veridical.eval.scores import print_scores, write_scores
from veridical.eval.stored_answers import write_answers
from veridical.eval.trained_on import warn_of_training_images
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import by_option
from veridical.runtime.path_names import path_names
from veridical.runtime.run_files import SkippedRow
from veridical.runtime.runs import start_run
from veridical.runtime.shards import ALL, print_result
from veridical.scoring.statistics import Estimate


@dataclass(frozen=True)
class AnsweredQuestions:
    """What was answered, ready to be judged.

    Attributes:
        rows: as of `answers.jsonl`.
        skipped: what has no answer that can be scored.
        results: counts for `run.json`.
        merges: as of `GivenAnswers`.
    """

    rows: Sequence[Row]
    skipped: Sequence[SkippedQuestion | SkippedRow]
    results: Mapping[str, int]
    merges: Mapping[str, Sequence[object]] = field(default_factory=dict)


def prepare(
    benchmark: Benchmark,
    options: object,
    out: Path,
    subject: Subject,
    asking: Asking,
    model: AskedModel | None = None,
    grading: Grading = NOBODY,
) -> Evaluation:
    """Check everything that can be checked before files are read and models loaded.

    Args:
        benchmark: which.
        options: its own options.
        out: the folder to write.
        subject: whose answers, and about which images.
        asking: how the model is asked.
        model: the subject's, where several evaluations share it.
        grading: who judges the answers.

    Raises:
        UserError: options are missing or contradict one another.
    """
    asks = asks_of(benchmark)
    if asks.answers_in_files(options):
        if subject.model is not None or subject.answers is not None:
            raise UserError(
                f"The answers of {benchmark.name} are in its files. Leave the model and --answers "
                "out."
            )
        opened = None
    else:
        opened = open_model(subject, asking)
    if opened is not None and asks.sees_images and subject.images is None:
        raise UserError("With a model, --images must name the folder of the images.")
    limit = asks.max_new_tokens if asking.max_new_tokens is None else asking.max_new_tokens
    settled = dataclasses.replace(asking, max_new_tokens=limit)
    asked = None if asks.answers_in_files(options) else model or opened
    evaluation = Evaluation(out, subject, settled, asked, grading)
    check_grading(grading, asks.grader, options)
    asks.check(options, evaluation)
    if evaluation.model is not None:
        _ = evaluation.settings  # a --shard that is none is refused now
    return evaluation


def asks_of(benchmark: Benchmark) -> Asks[Any]:
    """How a benchmark gets its answers."""
    assert benchmark.asks is not None, f"{benchmark.name} has no `asks`"
    return benchmark.asks


def run_benchmark(
    benchmark: Benchmark,
    options: Any,
    out: Path,
    subject: Subject,
    asking: Asking,
    model: AskedModel | None = None,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask a model, or take answers made elsewhere, score them and write everything down.

    Args:
        benchmark: which.
        options: its own options.
        out: the folder to write.
        subject: whose answers, and about which images.
        asking: how the model is asked.
        model: the subject's, where several evaluations share it.
        grading: who judges the answers.

    Returns:
        The scores; none where another process has the last shard of the answers, or in a dry run.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    asks = asks_of(benchmark)
    as_given = options, subject
    options, subject, published = with_hub_files(asks.hub, options, subject)
    evaluation = prepare(benchmark, options, out, subject, asking, model, grading)
    if grading.dry_run:
        print_result(judge_cost(asks, options, evaluation).line)
        return {}
    if not asks.speaks and evaluation.model is not None and evaluation.settings.shard.index:
        print(f"{out}: shard 1/{evaluation.settings.shard.count} measures all of this.")
        return {}
    judged_by = grading if asks.grader is not None else None
    models = asks.models(options)
    read = _configuration(asks, options, subject, evaluation, judged_by)
    inputs = dict(inputs_of({name: value for name, value in read.items() if name not in models}))
    configuration = _configuration(asks, *as_given, evaluation, judged_by)
    asked = evaluation.model
    folders = asked.folders if asked else [*models.values()]
    with start_run(
        out, f"eval {benchmark.name}", configuration, inputs, any_process=True, models=folders
    ) as run:
        if asked is not None:
            run.note_model("model", asked.name, asked.fingerprint)
        if published:
            run.note(published=published)
        answered = _answered(asks, options, evaluation)
        if asked is not None and asked.merges:
            run.note_model("model", asked.name, asked.fingerprint, asked.merges)
        if answered is None:
            return {}
        for option, path in models.items():
            merges = answered.merges.get(option, ())
            run.note_model(option, str(path), fingerprint(str(path)), merges)
        graded = Graded(answered.rows, {}, {})
        if asks.grader is not None:
            graded = grade(asks.grader, options, evaluation, answered.rows, run)
        judged = asks.judge(options, evaluation, graded.rows)
        scores = score_rows(benchmark, judged)
        remarks = asks.remark(options, evaluation, answered.rows, judged)
        _write_rows(benchmark, evaluation, answered, judged, remarks)
        about = {**graded.about, **remarks.about, **({"files": published} if published else {})}
        write_scores(out, benchmark, scores, about)
        forget_partial_answers(out)
        counts = {"answers": len(answered.rows), "skipped": len(answered.skipped)}
        run.finish(**counts, **answered.results, **graded.results, **remarks.results)
    print_scores({name: score for name, score in scores.items() if asks.prints(name)})
    for line in (*remarks.lines, *graded.lines):
        print_result(line)
    return scores


ANSWERS = "answers.jsonl"


def _write_rows(
    benchmark: Benchmark,
    evaluation: Evaluation,
    answered: AnsweredQuestions,
    judged: Sequence[Row],
    remarks: Remarks,
) -> None:
    """Write the answers, the judged rows, and what was skipped."""
    out, given = evaluation.out, evaluation.model is None
    if benchmark.judged == ANSWERS:
        write_answers(out, judged, given=given)
    else:
        if asks_of(benchmark).speaks:
            write_answers(out, answered.rows, given=given)
        write_jsonl(out / benchmark.judged, judged)
    for name, rows in remarks.files.items():
        write_jsonl(out / name, rows)
    write_jsonl(out / "skipped.jsonl", answered.skipped)


def _configuration(
    asks: Asks[Any],
    options: object,
    subject: Subject,
    evaluation: Evaluation,
    grading: Grading | None,
) -> dict[str, object]:
    """Every option by its name on the command line."""
    groups: dict[str, object] = {"options": options}
    if asks.asks_models:
        groups |= {"subject": subject.named(), "asking": evaluation.asking}
    if grading is not None:
        groups["grading"] = grading
    return by_option({"out": evaluation.out, **groups})


def inputs_of(configuration: Mapping[str, object]) -> Iterator[tuple[str, Path]]:
    """The files and folders that options name, by the options' names."""
    for name, value in configuration.items():
        if name == "out":
            continue
        if isinstance(value, Path):
            yield name, value
        elif isinstance(value, list):
            paths = [path for path in value if isinstance(path, Path)]
            for own, path in zip(path_names(paths), paths, strict=True):
                yield f"{name}/{own}", path


def _answered(
    asks: Asks[object], options: object, evaluation: Evaluation
) -> AnsweredQuestions | None:
    """The answers; None where another shard puts them together."""
    if evaluation.model is None:
        given = asks.match(options, evaluation)
        return AnsweredQuestions(given.rows, given.skipped, given.results, given.merges)
    questions = asks.read(options, evaluation)
    most, before = evaluation.subject.max_bad_fraction, list(questions.skipped)
    units = {item.named for item in questions.items}
    total = len(units) + len(before) + len(questions.empty)
    refuse_many(len(before), total, questions.unit, before, most)
    pictures = {image for item in questions.items for image in item.prompt.files}
    trained_on = warn_of_training_images(evaluation.asked.name, sorted(pictures))
    prompts = _distinct(questions)

    def later(known: Mapping[str, str]) -> list[Prompt]:
        told = [
            {**item.row, "answer": known[item.prompt.id]}
            for item in questions.items
            if item.prompt.id in known
        ]
        return [item.prompt for item in _following(asks, options, told)]

    answers = (
        make_answers(prompts, evaluation.settings, evaluation.out, asks.label, later)
        if asks.speaks
        else without_answers(prompts, evaluation.settings)
    )
    if answers is None:
        return None
    by_prompt = {prompt.id: answer for prompt, answer in zip(prompts, answers, strict=True)}
    late = _refused(questions, by_prompt)
    if late:
        refuse_many(len(before) + len(late), total, questions.unit, [*before, *late], most)
    answered = [prompt for prompt in prompts if not by_prompt[prompt.id].refused]
    more = asks.measure(options, evaluation, answered)
    measured = {prompt.id: found for prompt, found in zip(answered, more, strict=True)}
    rows = [
        {
            **item.row,
            "prompt": text_of(item.prompt.messages),
            **by_prompt[item.prompt.id].as_json(),
            **measured[item.prompt.id],
            "decoding": evaluation.settings.decoding(),
        }
        for item in questions.items
        if item.prompt.id in measured
    ]
    rows += _follow_ups(asks, options, evaluation, prompts, rows)
    skipped = [*before, *questions.empty, *late]
    return AnsweredQuestions(rows, skipped, {**questions.results, "trained_on": trained_on})


def _following(asks: Asks[object], options: object, rows: Sequence[Row]) -> list[AskedItem]:
    """What is asked after answered rows."""
    if asks.follow_up is None:
        return []
    return [item for row in rows if (item := asks.follow_up(options, row)) is not None]


def _follow_ups(
    asks: Asks[object],
    options: object,
    evaluation: Evaluation,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
) -> list[JsonObject]:
    """The answers to what is asked after the answers to `prompts`.

    The process that has put those together makes all of these.
    """
    items = _following(asks, options, rows)
    if not items:
        return []
    settings = dataclasses.replace(evaluation.settings, shard=ALL)
    asked = [*prompts, *(item.prompt for item in items)]
    answers = make_answers(asked, settings, evaluation.out, asks.label) or []
    return [
        {
            **item.row,
            "prompt": text_of(item.prompt.messages),
            **answer.as_json(),
            "decoding": settings.decoding(),
        }
        for item, answer in zip(items, answers[len(prompts) :], strict=True)
    ]


def _distinct(questions: Questions) -> list[Prompt]:
    """Every prompt once; those about one image together, so that it is read once."""
    prompts = {item.prompt.id: item.prompt for item in questions.items}
    return sorted(prompts.values(), key=lambda prompt: "".join(map(str, prompt.files)))


def _refused(questions: Questions, answers: Mapping[str, KeyedAnswer]) -> list[SkippedQuestion]:
    """Rows of `skipped.jsonl` for what the model's processor refused when it was asked."""
    reasons = {
        item.named: answers[item.prompt.id].refused
        for item in questions.items
        if answers[item.prompt.id].refused
    }
    return [{"id": id, "field": name, "reason": why} for (id, name), why in reasons.items()]
