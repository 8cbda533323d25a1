"""How a benchmark asks a model, or takes answers made elsewhere, and judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from veridical.data.prompts import Prompt
from veridical.eval.evaluation import Evaluation
from veridical.eval.grading import Grader
from veridical.eval.hub_files import HubSet
from veridical.runtime.errors import UserError
from veridical.runtime.run_files import SkippedRow

Row: TypeAlias = Mapping[str, Any]
SkippedQuestion: TypeAlias = Mapping[str, str]
Options = TypeVar("Options")


@dataclass(frozen=True)
class AskedItem:
    """One thing that is asked.

    Attributes:
        prompt: what the model is asked; items whose prompts have the same id are asked once.
        row: its fields in `answers.jsonl` besides the answer: `image_id` at least.
        named: what `skipped.jsonl` calls it if its image is refused: an id and a field.
    """

    prompt: Prompt
    row: Row
    named: tuple[str, str]


@dataclass(frozen=True)
class Questions:
    """What a model is asked.

    Attributes:
        items: in the order of the answers.
        skipped: what can't be asked: rows {"id", "field", "reason"}.
        unit: what `items` and `skipped` count, such as images.
        empty: rows like `skipped`, of images about which there is nothing to ask; they do not
            count as bad ones.
        results: counts for `run.json`.
    """

    items: Sequence[AskedItem]
    skipped: Sequence[SkippedQuestion | SkippedRow]
    unit: str
    empty: Sequence[SkippedQuestion] = ()
    results: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenAnswers:
    """Answers made elsewhere.

    Attributes:
        rows: as of `answers.jsonl`: `image_id` and `answer` at least.
        skipped: answers that can't be scored: rows {"id", "field", "reason"}.
        results: counts for `run.json`.
        merges: of each model that scored them, by option: what rounding cost of each adapter that
            was merged when it was loaded.
    """

    rows: Sequence[Row]
    skipped: Sequence[SkippedQuestion | SkippedRow] = ()
    results: Mapping[str, int] = field(default_factory=dict)
    merges: Mapping[str, Sequence[object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Remarks:
    """What stands beside the scores.

    Attributes:
        about: entries of `scores.json`: by what was counted, and plain shares.
        results: entries of `run.json`.
        lines: what is printed.
        files: more files of rows, by name.
    """

    about: Mapping[str, str | float] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)
    lines: Sequence[str] = ()
    files: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def nothing_to_check(options: object, evaluation: Evaluation) -> None:
    """The check of a benchmark any of whose options go together."""


def no_given_answers(options: object, evaluation: Evaluation) -> GivenAnswers:
    """Refuse answers made elsewhere, of a benchmark that reads log-probabilities.

    Raises:
        UserError: always.
    """
    raise UserError(
        "This benchmark reads log-probabilities, so it needs a model. Leave --answers out."
    )


def nothing_more(
    options: object, evaluation: Evaluation, prompts: Sequence[Prompt]
) -> list[dict[str, float]]:
    """What a benchmark measures that only reads answers."""
    return [{} for _ in prompts]


def no_models(options: object) -> Mapping[str, Path]:
    """The models of a benchmark that loads none but the one that is asked."""
    return {}


def every_metric(name: str) -> bool:
    """The metrics that are printed, where all are."""
    return True


def no_remarks(options: object, evaluation: Evaluation, rows: object, judged: object) -> Remarks:
    """What a benchmark says that has nothing to say."""
    return Remarks()


@dataclass(frozen=True)
class Asks(Generic[Options]):
    """How a benchmark gets its answers, and how they are judged.

    Every function is given the benchmark's own options first, and then the evaluation.

    Attributes:
        options: the dataclass of its own options; those that are paths are recorded as inputs.
        max_new_tokens: length limit of an answer where none is given.
        label: names the progress line.
        read: the questions for a model.
        match: the answers made elsewhere, each with what its question knows.
        judge: judged rows, one for each row of answers, in order.
        check: refuses options that do not go together, before anything is read.
        measure: what else is measured of each prompt, for its row.
        remark: what stands beside the scores; it is given the answers' rows and the judged ones.
        sees_images: whether `--images` has to be given with a model.
        speaks: whether the model's own answers are read; where they are not, none is made, and
            `measure` is all there is.
        grader: how a model that replies in words judges the answers; then the rows that `judge` is
            given have what it replied as `judged`. None where no model judges.
        follow_up: what is asked after an answered row, such as a second turn; None where nothing
            is. Its prompt has another id.
        answers_in_files: whether its own files have the answers; then neither a model nor
            `--answers` is given, and `match` reads them.
        hub: how its questions are read from a copy on the hub; None where they are not.
        models: the folders of models of its own, by option.
        asks_models: whether it scores what models answer, so that it can be one of the suite. In
            one that scores something else neither the subject nor how it is asked decides anything.
        prints: whether a metric is printed; `scores.json` has all.
    """

    options: type[Options]
    max_new_tokens: int
    label: str
    read: Callable[[Options, Evaluation], Questions]
    match: Callable[[Options, Evaluation], GivenAnswers]
    judge: Callable[[Options, Evaluation, Sequence[Row]], Sequence[Row]]
    check: Callable[[Options, Evaluation], None] = nothing_to_check
    measure: Callable[[Options, Evaluation, Sequence[Prompt]], Sequence[Mapping[str, float]]] = (
        nothing_more
    )
    remark: Callable[[Options, Evaluation, Sequence[Row], Sequence[Row]], Remarks] = no_remarks
    sees_images: bool = True
    speaks: bool = True
    grader: Grader[Options] | None = None
    follow_up: Callable[[Options, Row], AskedItem | None] | None = None
    answers_in_files: Callable[[Options], bool] = lambda options: False
    hub: HubSet | None = None
    models: Callable[[Options], Mapping[str, Path]] = no_models
    asks_models: bool = True
    prints: Callable[[str], bool] = every_metric
