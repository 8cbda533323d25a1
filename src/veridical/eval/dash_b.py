"""DASH-B: is the object in the image? Half the images only look as if (Augustin et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from veridical.eval.answers import read_answer_rows, read_json_rows
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.hub_files import HubSet, content_name
from veridical.eval.published import (
    PublishedQuestion,
    all_have,
    match_by_id,
    questions_for_model,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import (
    ClusterSums,
    Estimate,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    ratio,
    sum_by_cluster,
)
from veridical.scoring.yes_no_answers import YesNoVerdict, parse_answer

Rule: TypeAlias = Literal["corrected", "official"]
LABELS: Mapping[str, YesNoVerdict] = {"neg": "no", "pos": "yes"}
"""What is right of the images of each file, and the folder that they lie in."""
FILE = "dash_benchmark_{}.json"
COPIED = ("question_id", "image", "question", "answer")
ASKED = "Can you see a {object} in this image? Please answer only with yes or no."
"""DASH-B's question. Its article is always "a"."""


@dataclass(frozen=True)
class DashOptions:
    """What DASH-B asks, and how answers are read.

    Attributes:
        files: the folder with dash_benchmark_neg.json and dash_benchmark_pos.json: `images/` of
            DASH-B's repository, whose `neg` and `pos` are the folders of images. Or a copy on the
            hub.
        rule: `corrected` reads yes and no as POPE's `strict`; `official` takes an answer with
            "yes" in it, even within a word, for a yes, and else one with "no" in it for a no.
        question: what is asked, with {object} in it. Default: DASH-B's own question.
    """

    files: Path
    rule: Rule = "corrected"
    question: str = ASKED

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, those about absent objects first."""
        return read_dash_b(self.files, self.question)


def read_dash_b(folder: Path, question: str = ASKED) -> list[PublishedQuestion]:
    """The questions of DASH-B's two files, or of a file that a copy on the hub became.

    Raises:
        UserError: a file is missing or is not {set: {object: [image names]}}.
    """
    if folder.is_file():
        return _of_copy(folder, question)
    found = []
    for kind, label in LABELS.items():
        path = folder / FILE.format(kind)
        for group, object, name in _names(read_json(path), path):
            image = f"{kind}/{group}/{object}/{name}"
            about = {"set": group, "object": object}
            text = question.replace("{object}", object)
            found.append(PublishedQuestion(image, image, image, text, label, about=about))
    return found


def _of_copy(path: Path, question: str) -> list[PublishedQuestion]:
    """The questions of a copy, which has whole questions, and says nothing of sets."""
    if question != ASKED:
        raise UserError("--question goes with the published files; a copy has its own questions.")
    before, after = ASKED.split("{object}")
    found = []
    for number, row in enumerate(read_json_rows(path), start=1):
        place = f"{path}, row {number}"
        own = text_fields(row if isinstance(row, dict) else {}, COPIED, place)
        label = own["answer"].strip().lower()
        if label not in LABELS.values():
            raise UserError(f"{place}: answer must be yes or no, not {own['answer']!r}.")
        object = own["question"].removeprefix(before).removesuffix(after)
        about = {"set": "", "object": object}
        right: YesNoVerdict = "yes" if label == "yes" else "no"
        found.append(
            PublishedQuestion(
                own["question_id"], own["image"], own["image"], own["question"], right, about=about
            )
        )
    return found


def _names(content: Any, path: Path) -> list[tuple[str, str, str]]:
    """Set, object and image name of every image."""
    try:
        found = [
            (group, object, name)
            for group, objects in content.items()
            for object, names in objects.items()
            for name in names
        ]
    except (AttributeError, TypeError):
        found = []
    if not found or not all(isinstance(name, str) and name for *_, name in found):
        raise UserError(f'{path} must be JSON {{"set": {{"object": ["image.png", ...]}}}}.')
    return found


def check_options(options: DashOptions, evaluation: Evaluation) -> None:
    """Read the files before anything is asked.

    Raises:
        UserError: a file is not what it must be, or the question names no object.
    """
    if "{object}" not in options.question:
        raise UserError("--question must have {object} in it, which stands for the object's name.")
    _ = options.questions


def read_questions(options: DashOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images by name."""
    return questions_for_model(options.questions, evaluation)


def match_answers(options: DashOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    ids = {
        (str(one.expected), str(one.about["object"]), one.image.rpartition("/")[2]): one.question_id
        for one in options.questions
    }

    def read(path: Path) -> list[JsonObject]:
        """Rows by our ids, or by DASH-B's own {"img_id", "object_name", "gt", "response"}."""
        rows = read_json_rows(path)
        if not all_have(rows, "img_id"):
            return read_answer_rows(path, "question_id")
        named = [{**row, "id": str(ids.get(_own_id(row), "/".join(_own_id(row))))} for row in rows]
        answers = [row.get("response") for row in named]
        if not all(isinstance(answer, str) for answer in answers):
            raise UserError(f"{path}: each row needs img_id, object_name, gt and response.")
        return [{"question_id": row["id"], "answer": row["response"]} for row in named]

    return match_by_id(options.questions, evaluation, read=read)


def _own_id(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("gt")), str(row.get("object_name")), str(row.get("img_id"))


def read_yes_no(answer: str, rule: Rule, question: str = "") -> YesNoVerdict | None:
    """What an answer says.

    Args:
        answer: what the model said.
        rule: `official` looks for "yes", then for "no", anywhere; `corrected` is `parse_answer`.
        question: what it was asked.
    """
    if rule == "corrected":
        return parse_answer(answer, "strict", question)
    said = answer.lower()
    return "yes" if "yes" in said else "no" if "no" in said else None


def judge_rows(
    options: DashOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with what each answer says."""
    return [
        {**row, "rule": options.rule,
         "parsed": read_yes_no(row["answer"], options.rule, row["question"])}
        for row in rows
    ]  # fmt: skip


def remark(
    options: DashOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule."""
    return Remarks({"rule": options.rule}, lines=[f"Rule: {options.rule}."])


def dash_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    right, label = row["parsed"] == row["expected"], row["expected"]
    return {
        "questions": 1.0,
        "right": float(right),
        "present": float(label == "yes"),
        "true_yes": float(right and label == "yes"),
        "absent": float(label == "no"),
        "true_no": float(right and label == "no"),
        "unparsed": float(row["parsed"] is None),
    }


def by_set(rows: Rows) -> dict[str, Rows]:
    """The rows of each set of objects."""
    return {name: [row for row in rows if row["set"] == name]
            for name in dict.fromkeys(row["set"] for row in rows) if name}  # fmt: skip


TPR, TNR = Ratio("true_yes", "present"), Ratio("true_no", "absent")


def harmonic_mean(sums: Sums) -> FloatArray:
    """Of the two rates; 0 where one of them is 0."""
    yes, no = TPR(sums), TNR(sums)
    return ratio(2 * yes * no, yes + no)


DASH_B = BenchmarkDescription(
    name="dash_b",
    title="DASH-B",
    done="Yes/no questions were asked about objects that images seem to show",
    headline="accuracy",
    meaning="the share of yes/no questions that were answered correctly",
    asked="questions about",
    metrics=(
        MetricDescription(
            "accuracy", "Yes/no questions right", "DASH-B accuracy", better="higher", shown="top"
        ),
        MetricDescription(
            "tnr", "Absent objects denied", "DASH-B TNR", better="higher", shown="table"
        ),
        MetricDescription(
            "tpr", "Present objects confirmed", "DASH-B TPR", better="higher", shown="table"
        ),
        MetricDescription(
            "harmonic_mean", "Harmonic mean of both", "DASH-B", better="higher", shown="table"
        ),
        MetricDescription(
            "unparsed", "Answers neither yes nor no", "DASH-B, counted as wrong", better="lower"
        ),
    ),
)
"""What DASH-B is called, and how its metrics are shown."""

HUB = HubSet(
    "YanNeu/DASH-B", [(None, "test")],
    lambda row: {"question_id": str(row["question_id"]), "image": content_name(row),
                 "question": row["question"], "answer": row["answer"]},
    content_name,
)  # fmt: skip

BENCHMARK = Benchmark(
    description=DASH_B,
    judged="answers.jsonl",
    sums=dash_sums,
    formulas=[
        Metric("accuracy", Ratio("right", "questions"), "questions"),
        Metric("tnr", TNR, "absent"),
        Metric("tpr", TPR, "present"),
        Metric("harmonic_mean", harmonic_mean, "questions", "combination"),
        Metric("unparsed", Ratio("unparsed", "questions"), "questions"),
    ],
    groups=by_set,
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("parsed", "set"),
    asks=Asks(
        options=DashOptions,
        max_new_tokens=32,
        label="questions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        hub=HUB,
    ),
)


def eval_dash_b(
    dash: DashOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Ask whether images show objects that they only seem to show (DASH-B), and score the answers.

    Writes `answers.jsonl`, `scores.json` (accuracy, tnr, tpr, harmonic_mean, unparsed over all
    questions, and of each set of objects; 95 % intervals clustered by image) and `run.json`. Run
    again with the same settings, it continues. Answers have at most 32 tokens if not set. Answers
    made elsewhere have DASH-B's own form, a JSON list of {"img_id", "object_name", "gt",
    "response"}, or are JSON Lines {"question_id": "neg/coco/bed/1.png", "answer"}.

    Args:
        dash: what is asked, and how answers are read.
        out: the folder to write.
        subject: whose answers. Its folder of images has `neg` and `pos` in it.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, dash, out, subject, asking)
