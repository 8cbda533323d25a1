"""The files of a run that other commands read: one shape each, checked whenever they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, NotRequired, TypeAlias, TypeVar

from pydantic import AfterValidator, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from veridical.runtime.descriptions import Direction, Prominence, Unit
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl

Number = FiniteFloat | None


class ScoreEntry(TypedDict):
    """One metric in `scores.json`: a value with its interval, and what it was counted on."""

    value: Number
    low: NotRequired[Number]
    high: NotRequired[Number]
    n: NotRequired[int]
    clusters: NotRequired[int | None]
    note: NotRequired[str]
    method: NotRequired[str]


class DescribedMetric(TypedDict):
    """How a metric is shown (`descriptions.MetricDescription`)."""

    name: str
    label: str
    detail: str
    unit: Unit
    better: Direction | None
    shown: Prominence
    curve: str
    caution: str


class DescribedBenchmark(TypedDict):
    """What a benchmark is called (`descriptions.BenchmarkDescription`)."""

    name: str
    title: str
    done: str
    metrics: list[DescribedMetric]
    headline: str
    meaning: str
    asked: str
    place: int


class ScoresFile(TypedDict):
    """`scores.json`: a benchmark, its scores, and what stands beside them."""

    benchmark: DescribedBenchmark
    scores: dict[str, ScoreEntry]
    about: dict[str, str | FiniteFloat]


class DifferenceNumbers(TypedDict):
    """How much an arm differs from its baseline in one metric."""

    value: Number
    low: NotRequired[Number]
    high: NotRequired[Number]
    p: NotRequired[Number]
    wilcoxon_p: NotRequired[Number]
    arm_value: NotRequired[Number]
    baseline_value: NotRequired[Number]
    clusters: NotRequired[int | None]
    differing: NotRequired[int]
    method: NotRequired[str]
    note: NotRequired[str | None]


class DifferenceRow(DifferenceNumbers):
    """An arm minus its baseline in one metric of a benchmark."""

    benchmark: str
    metric: str
    arm: str
    baseline: str
    seed: NotRequired[int | None]
    seeds: NotRequired[int]
    p_holm: NotRequired[Number]
    verdict: NotRequired[str]


class ArmScores(TypedDict):
    """One arm of a study, with one seed: scores by benchmark and metric."""

    name: str
    scores: dict[str, dict[str, ScoreEntry]]
    seed: NotRequired[int | None]


class ComparisonFile(TypedDict):
    """`comparison.json`."""

    benchmarks: list[DescribedBenchmark]
    differences: list[DifferenceRow]


class SummaryFile(TypedDict):
    """`summary.json` of a study, or of a builder; each has more fields of its own."""

    pairs_by_iteration: NotRequired[dict[str, int]]
    mean_similarity: NotRequired[Number]
    benchmarks: NotRequired[list[DescribedBenchmark]]
    arms: NotRequired[list[ArmScores]]
    differences: NotRequired[list[DifferenceRow]]


def _compared_fault(content: ComparisonFile) -> str:
    return _fault(content["benchmarks"], {row["benchmark"] for row in content["differences"]})


def _summary_fault(content: SummaryFile) -> str:
    named = {row["benchmark"] for row in content.get("differences", [])}
    named |= {name for arm in content.get("arms", []) for name in arm["scores"]}
    return _fault(content.get("benchmarks", []), named)


def _fault(benchmarks: Sequence[DescribedBenchmark], named: set[str]) -> str:
    """Scores and differences are of benchmarks that are described beside them."""
    unknown = sorted(named - {benchmark["name"] for benchmark in benchmarks})
    return f"the benchmark {_shown(unknown[0])} is not among `benchmarks`" if unknown else ""


class CheckedFile(TypedDict):
    """`checked.json`: the benchmarks that a training's log has beside its own figures."""

    benchmarks: list[DescribedBenchmark]


class ProofRow(TypedDict):
    """One entry of `proofs.json`."""

    name: str
    passed: bool
    applicable: NotRequired[bool]
    value: NotRequired[Number]
    limit: NotRequired[Number]
    unit: NotRequired[str]
    detail: NotRequired[str]
    blind: NotRequired[bool]


NO_MEASURES = ("split", "samples")
"""Fields of a log's rows that hold no number."""


LogRow: TypeAlias = dict[str, Any]
"""One row of `log.jsonl`: its step, its split, and measures by their names."""


def _logged(row: LogRow) -> LogRow:
    """A row of `log.jsonl`: a step, a split, samples, and measures, which may be NaN."""
    if type(row.get("step")) is not int:
        raise ValueError(f"step has to be a whole number, not {_shown(row.get('step'))}")
    for name, value in row.items():
        try:
            float(0 if value is None or name in NO_MEASURES else value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} has to be a number, not {_shown(value)}") from None
    return row


class MentionRow(TypedDict):
    """An object that a description names."""

    start: int
    end: int
    name: str
    hallucinated: bool


class DescribedAnswerRow(TypedDict):
    """One row of CHAIR's `details.jsonl`."""

    image_id: str
    answer: NotRequired[str]
    objects: list[str]
    mentions: list[MentionRow]


class AnswerRow(TypedDict):
    """One row of `answers.jsonl`; a yes/no benchmark's has the fields from `label` on."""

    image_id: str
    answer: str
    image: NotRequired[str | None]
    prompt: NotRequired[str | None]
    split: NotRequired[str]
    question: NotRequired[str]
    label: NotRequired[str]
    parsed: NotRequired[str | None]
    margin: NotRequired[float]


class RewardRow(TypedDict):
    """One row of `rewards.jsonl`."""

    image_id: str
    margin: FiniteFloat
    words: FiniteFloat
    groups: NotRequired[list[str]]


class StartFile(TypedDict):
    """`start.json`: log-probs of the rows that prove a run, by row and response."""

    ids: list[str]
    logps: list[list[FiniteFloat]]
    float32: list[list[FiniteFloat]] | None


class PictureRow(TypedDict):
    """One row of `pictures.jsonl`: which data file, which row there, and its pictures' hashes."""

    data: int
    row: int
    sha256: list[str]


class SkippedRow(TypedDict, total=False):
    """One row of `skipped.jsonl`: what was left out, where it is from, and why."""

    id: str
    file: str
    row: int
    image_files: list[str]
    images: int
    field: str
    reason: str


Content = TypeVar("Content")
RESTORE = "The file was changed since the run wrote it; restore it."


@dataclass(frozen=True)
class RunFile(Generic[Content]):
    """A JSON or JSON Lines file that a run writes under this name.

    Attributes:
        name: in the run's folder.
        shape: its content's type; of JSON Lines, a list of rows.
        fault: what is wrong with content of that type; "" if nothing is.
    """

    name: str
    shape: type[Content]
    fault: Callable[[Content], str] | None = None

    def read(self, folder: Path) -> Content:
        """The file's content in a run's folder.

        Raises:
            UserError: it is missing, is not JSON, or a field has another shape; the message names
                file and field.
        """
        path = folder / self.name
        loaded: Any = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
        content: Content = loaded
        _check_shape(path, content, _adapter(self))
        if self.fault is not None and (fault := self.fault(content)):
            raise UserError(f"{path}: {fault}. {RESTORE}")
        return content

    def refusal(self, folder: Path) -> str:
        """What `read` would say against the file; "" if it takes it."""
        try:
            self.read(folder)
        except UserError as error:
            return str(error).partition(" The file was changed")[0]
        return ""


SCORES = RunFile("scores.json", ScoresFile)
COMPARISON = RunFile("comparison.json", ComparisonFile, _compared_fault)
SUMMARY = RunFile("summary.json", SummaryFile, _summary_fault)
CHECKED = RunFile("checked.json", CheckedFile)
PROOFS = RunFile("proofs.json", list[ProofRow])
LOG = RunFile("log.jsonl", list[Annotated[LogRow, AfterValidator(_logged)]])
DETAILS = RunFile("details.jsonl", list[DescribedAnswerRow])
ANSWERS = RunFile("answers.jsonl", list[AnswerRow])
REWARDS = RunFile("rewards.jsonl", list[RewardRow])
SKIPPED = RunFile("skipped.jsonl", list[SkippedRow])
START = RunFile("start.json", StartFile)
PICTURES = RunFile("pictures.jsonl", list[PictureRow])


def read_judged(path: Path) -> Sequence[Mapping[str, object]]:
    """Judged rows of a benchmark, from whichever file it writes them into.

    Raises:
        UserError: as for `RunFile.read`.
    """
    for file in (DETAILS, ANSWERS, REWARDS):
        if path.name == file.name:
            return file.read(path.parent)
    rows: list[Mapping[str, object]] = read_jsonl(path)
    return rows


def _check_shape(path: Path, content: object, adapter: TypeAdapter[Content]) -> None:
    try:
        adapter.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = _place(first["loc"], path.suffix == ".jsonl")
        what = first["msg"].removeprefix("Value error, ")
        what = what[:1].lower() + what[1:]
        if first["type"] not in ("missing", "value_error"):
            what += f", not {_shown(first['input'])}"
        raise UserError(f"{path}: {place}{what}. {RESTORE}") from error


def _place(location: tuple[int | str, ...], rows: bool) -> str:
    if rows and location and isinstance(location[0], int):
        place = f"row {location[0] + 1}" + "".join(f", {name}" for name in location[1:])
    else:
        place = ".".join(str(name) for name in location)
    return f"{place}: " if place else ""


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _adapter(file: RunFile[Content]) -> TypeAdapter[Content]:
    return TypeAdapter(file.shape)
