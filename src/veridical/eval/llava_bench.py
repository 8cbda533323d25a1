"""LLaVA-Bench: open answers, scored beside a reference by a model that reads (Liu et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from veridical.eval.answers import read_json_rows
from veridical.eval.asks import Asks, GivenAnswers, Questions, Remarks, Row
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.grading import (
    NOBODY,
    Asked,
    Grader,
    Grading,
    filled,
    has_failed,
    judge_words,
    values_of,
)
from veridical.eval.hub_files import HubSet, content_name
from veridical.eval.judge_agreement import with_judge_variance
from veridical.eval.published import (
    PublishedQuestion,
    match_by_id,
    questions_for_model,
    text_fields,
)
from veridical.eval.run import run_benchmark
from veridical.judges.prompts import UnreadableError
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.json_types import JsonObject
from veridical.scoring.statistics import (
    ClusterSums,
    Estimate,
    Metric,
    Ratio,
    sum_by_cluster,
)

Rule: TypeAlias = Literal["corrected", "official"]
SHOWN = ("context", "question", "first", "second")
FAILED = [-1.0, -1.0]
"""What the published scorer reads of a reply without two numbers, and averages in."""
WORDS = """Two assistants answered a question about an image, which you do not see. What is \
known of it comes first. Score both answers from 1 to 10 for how helpful, relevant, accurate and \
detailed they are. Neither their order nor their length counts.

What is known of the image:
{context}

Question: {question}

--- Answer 1 begins ---
{first}
--- Answer 1 ends ---
--- Answer 2 begins ---
{second}
--- Answer 2 ends ---

Reply with the two scores alone on the first line, with a space between them, that of answer 1 \
first. Then explain."""
LAYOUT = (
    "[Context]\n{context}\n\n[Question]\n{question}\n\n"
    "[{role} 1]\n{first}\n\n[End of {role} 1]\n\n[{role} 2]\n{second}\n\n[End of {role} 2]\n\n"
    "[System]\n{prompt}\n\n"
)
"""How LLaVA's script puts the texts of its rule.json together."""


REFERENCE = "gpt_answer"
"""The reference, in a file that has the questions too."""


@dataclass(frozen=True)
class LlavaBenchOptions:
    """What LLaVA-Bench asks, and how answers are judged.

    Attributes:
        files: the questions: questions.jsonl (in the wild), or qa90_questions.jsonl (COCO). A copy
            on the hub has all three: name it in `context` and `references` too.
        context: what the judge knows of each image: context.jsonl, or
            caps_boxes_coco2014_val_80.jsonl.
        references: the answers that the model's are compared with: answers_gpt4.jsonl, or
            qa90_gpt4_answer.jsonl.
        rule: `corrected` asks in both orders, and counts in no score what cannot be read;
            `official` shows the reference first, and scores both answers -1 where the first line
            is not two numbers with one space or comma between them.
        judge_rules: LLaVA's rule.json, whose words the judge is asked with, in LLaVA's layout; our
            own words if not set.
    """

    files: Path
    context: Path
    references: Path
    rule: Rule = "corrected"
    judge_rules: Path | None = None

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The questions, in the order of the file."""
        return read_llava_bench(self.files, self.context, self.references)

    @cached_property
    def rules(self) -> Mapping[str, Mapping[str, str]]:
        """Words by category; empty without a file."""
        return {} if self.judge_rules is None else read_rules(self.judge_rules)

    @cached_property
    def of_coco(self) -> bool:
        """Whether the images are COCO's: their contexts have captions and boxes, not a caption."""
        return all("captions" in row for row in _objects(self.context))

    def words(self, category: str) -> str:
        """What the judge is asked about a question of a category."""
        if self.judge_rules is None:
            return judge_words(None, WORDS, SHOWN)
        names = [f"llava_bench_{category}", category]
        rules = [self.rules[n] for n in (names[::-1] if self.of_coco else names) if n in self.rules]
        rule = next(iter(rules), None)
        if rule is None:
            raise UserError(f"{self.judge_rules} has no rule for the category {category!r}.")
        return filled(LAYOUT, {"role": rule["role"], "prompt": rule["prompt"]})


def read_rules(path: Path) -> dict[str, dict[str, str]]:
    """LLaVA's rule.json.

    Raises:
        UserError: it is of another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(rule, dict) for rule in content.values()
    ):
        raise UserError(f'{path} must be JSON {{"category": {{"role", "prompt"}}}}.')
    names = ("role", "prompt")
    return {name: text_fields(rule, names, f"{path}, {name}") for name, rule in content.items()}


def read_llava_bench(questions: Path, context: Path, references: Path) -> list[PublishedQuestion]:
    """The questions with their contexts and references.

    Raises:
        UserError: a row is of another form, or one is missing.
    """
    known = dict(_contexts(context))
    answers = {}
    for number, row in enumerate(_objects(references), start=1):
        name = REFERENCE if REFERENCE in row else "text"
        said = text_fields(row, (name,), f"{references}, row {number}")[name]
        answers[str(row.get("question_id"))] = said
    found = []
    for number, row in enumerate(_objects(questions), start=1):
        place, id = f"{questions}, row {number}", str(row.get("question_id"))
        texts = text_fields(row, ("image", "text", "category"), place)
        if texts["image"] not in known:
            raise UserError(f"{context} says nothing of image {texts['image']} of {place}.")
        if id not in answers:
            raise UserError(f"{references} has no answer to question {id} of {place}.")
        about = {"category": texts["category"], "context": known[texts["image"]]}
        found.append(
            PublishedQuestion(
                id, texts["image"], texts["image"], texts["text"], answers[id], about=about
            )
        )
    return found


def _objects(path: Path) -> list[JsonObject]:
    rows = read_json_rows(path)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be JSON Lines of objects.")
    return rows


def _contexts(path: Path) -> list[tuple[str, str]]:
    """Image and what is known of it: a caption, or captions and then boxes by name."""
    found = []
    for number, row in enumerate(_objects(path), start=1):
        image, caption = row.get("image"), row.get("caption")
        captions, boxes = row.get("captions"), row.get("instances", [])
        if isinstance(image, str) and isinstance(caption, str):
            found.append((image, caption))
        elif isinstance(image, str) and isinstance(captions, list) and isinstance(boxes, list):
            lines = "\n".join(map(str, captions))
            named = [f"{b.get('category')}: {b.get('bbox')}" for b in boxes if isinstance(b, dict)]
            found.append((image, "\n\n".join([lines, "\n".join(named)])))
        else:
            raise UserError(f"{path}, row {number}: needs image, and caption or captions.")
    return found


def check_options(options: LlavaBenchOptions, evaluation: Evaluation) -> None:
    """Read the files before anything is asked.

    Raises:
        UserError: one is not what it must be.
    """
    for category in sorted({question.about["category"] for question in options.questions}):
        _ = options.words(category)


def read_questions(options: LlavaBenchOptions, evaluation: Evaluation) -> Questions:
    """The questions about the first images by name."""
    return questions_for_model(options.questions, evaluation)


def match_answers(options: LlavaBenchOptions, evaluation: Evaluation) -> GivenAnswers:
    """Answers made elsewhere, each with its question."""
    return match_by_id(options.questions, evaluation)


def ask_judge(options: LlavaBenchOptions, evaluation: Evaluation, row: Row) -> list[Asked]:
    """With the reference first, and by the corrected rule the other way round too."""
    texts = [row["expected"], row["answer"]]
    known = {"context": row["context"], "question": row["question"]}
    words = options.words(row["category"])
    orders = [texts] if options.rule == "official" else [texts, texts[::-1]]
    return [Asked(filled(words, {**known, "first": a, "second": b})) for a, b in orders]


def read_reply(options: LlavaBenchOptions, row: Row, number: int, reply: str) -> list[float]:
    """The two scores of a reply, in the order shown.

    Official: the first line, with commas as spaces, is two numbers with one space between them;
    else both are -1. Corrected: the first or the last line is two numbers from 0 to 10.

    Raises:
        UnreadableError: it is not (corrected).
    """
    if options.rule == "official":
        try:
            scores = [float(word) for word in reply.split("\n")[0].replace(",", " ").split(" ")]
        except ValueError:
            return FAILED
        return scores if len(scores) == 2 else FAILED
    lines = [line for line in reply.splitlines() if line.strip()]
    for line in lines[:1] + lines[-1:]:
        found = re.fullmatch(r"\W*(\d+(?:\.\d+)?)[\s,;/|&]+(?:and\s+)?(\d+(?:\.\d+)?)\W*", line)
        if found and all(float(score) <= 10 for score in found.groups()):
            return [float(score) for score in found.groups()]
    raise UnreadableError("its first line is not two scores from 0 to 10")


def judge_rows(
    options: LlavaBenchOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows with the scores of each order that could be read: reference, then the answer."""
    judged = []
    for row in rows:
        said = values_of(row)
        orders = [
            {"second": place == 0, "scores": pair if place == 0 else pair[::-1]}
            for place, pair in enumerate(said)
            if pair is not None and pair != FAILED
        ]
        if options.rule == "official" and not has_failed(row):
            orders = [{"second": True, "scores": said[0] or FAILED}]
        unread = sum(pair is None or pair == FAILED for pair in said)
        judged.append({**row, "rule": options.rule, "orders": orders, "asked": len(said),
                       "unread": unread})  # fmt: skip
    return judged


def remark(
    options: LlavaBenchOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """The rule, and how far the judge's scores of an answer in both orders agree."""
    replies = [[order["scores"][1] for order in row["orders"]] for row in judged]
    remarks = Remarks({"rule": options.rule}, lines=[f"Rule: {options.rule}."])
    return with_judge_variance(remarks, replies)


def llava_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    """A row counts once, with the means of its orders."""
    orders = row["orders"]
    counts = dict.fromkeys(
        ("judged", "reference", "candidate", "win", "tie", "loss", "both", "gain"), 0.0
    )
    counts |= {"asked": float(row["asked"]), "unread": float(row["unread"])}
    if not orders:
        return counts
    reference, candidate = (sum(o["scores"][k] for o in orders) / len(orders) for k in (0, 1))
    counts |= {
        "judged": 1.0,
        "reference": reference,
        "candidate": candidate,
        "win": float(candidate > reference),
        "tie": float(candidate == reference),
        "loss": float(candidate < reference),
    }
    if len(orders) == 2:
        later, earlier = sorted(orders, key=lambda order: not order["second"])
        counts |= {"both": 1.0, "gain": later["scores"][1] - earlier["scores"][1]}
    return counts


def by_category(rows: Rows) -> dict[str, Rows]:
    """The rows of each category."""
    return {name: [row for row in rows if row["category"] == name]
            for name in dict.fromkeys(row["category"] for row in rows)}  # fmt: skip


TITLE = "LLaVA-Bench"


def _published(row: Row) -> dict[str, Any]:
    """Question, context and reference of a row."""
    known = {name: row[name] for name in ("question_id", "category", "caption", REFERENCE)}
    return {**known, "image": content_name(row), "text": row["question"]}


HUB = HubSet("lmms-lab/llava-bench-in-the-wild", [(None, "train")], _published, content_name)

BENCHMARK = Benchmark(
    description=BenchmarkDescription(
        name="llava_bench",
        title=TITLE,
        done="Open questions were asked, and the answers scored beside references",
        headline="relative",
        meaning="the mean score of the answers / that of the reference answers",
        asked="questions about",
        metrics=(
            MetricDescription(
                "relative", "Score relative to the reference", TITLE, better="higher", shown="top"
            ),
            MetricDescription(
                "candidate", "Mean score, 0 to 10", TITLE, unit="number", better="higher",
                shown="table",
            ),
            MetricDescription("reference", "Mean score of the reference", TITLE, unit="number"),
            MetricDescription("win", "Answers better than the reference", TITLE, better="higher"),
            MetricDescription("tie", "Answers as good as the reference", TITLE),
            MetricDescription("loss", "Answers worse than the reference", TITLE, better="lower"),
            MetricDescription(
                "gain_when_second", "Score gained by being shown second", TITLE, unit="number"
            ),
            MetricDescription(
                "unread", "Replies that could not be read", TITLE, better="lower",
                caution="By the corrected rule such replies count in no score, by the official "
                "as -1 for both answers.",
            ),
        ),
    ),
    judged="answers.jsonl",
    sums=llava_sums,
    formulas=[
        Metric("relative", Ratio("candidate", "reference"), "judged", "mean"),
        Metric("candidate", Ratio("candidate", "judged"), "judged", "mean", scale=(0.0, 10.0)),
        Metric("reference", Ratio("reference", "judged"), "judged", "mean", scale=(0.0, 10.0)),
        Metric("win", Ratio("win", "judged"), "judged"),
        Metric("tie", Ratio("tie", "judged"), "judged"),
        Metric("loss", Ratio("loss", "judged"), "judged"),
        Metric("gain_when_second", Ratio("gain", "both"), "both", "mean"),
        Metric("unread", Ratio("unread", "asked"), "asked"),
    ],
    groups=by_category,
    same=("question_id", "question", "expected", "rule"),
    facts="questions or rules",
    needs=("orders", "asked", "unread", "category"),
    asks=Asks(
        options=LlavaBenchOptions,
        max_new_tokens=1024,
        label="questions",
        check=check_options,
        read=read_questions,
        match=match_answers,
        judge=judge_rows,
        remark=remark,
        grader=Grader(
            ask=ask_judge, read=read_reply, max_new_tokens=1024, temperature=lambda options: 0.2,
            # The score of the model's own answer, which is shown second and then first.
            number=lambda scores, place: None if scores == FAILED else scores[1 - place],
            template=lambda options: "\n".join(
                options.words(category)
                for category in sorted({q.about["category"] for q in options.questions})
            ),
            may_be_cut=lambda options: True,
        ),
        hub=HUB,
    ),
)  # fmt: skip


def eval_llava_bench(
    llava_bench: LlavaBenchOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, Estimate]:
    """Ask open questions about images, and have the answers scored beside references (LLaVA-Bench).

    Writes `answers.jsonl`, `replies.jsonl`, `scores.json` (relative, candidate, reference, win,
    tie, loss, gain_when_second, unread, also by category; 95 % intervals clustered by image) and
    `run.json`. Run again with the same settings, it continues. Answers have at most 1,024 tokens if
    not set. Answers made elsewhere are LLaVA's, JSON Lines {"question_id", "text"}.

    Args:
        llava_bench: what is asked, and how answers are judged.
        out: the folder to write.
        subject: whose answers.
        asking: how the model is asked.
        grading: who judges the answers.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, llava_bench, out, subject, asking, grading=grading)
