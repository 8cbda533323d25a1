"""Text ability without an image: is a right text more likely than a wrong one that differs little?

Minimal pairs, as in BLiMP (Warstadt et al. 2020): nothing has to be generated or judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.data.messages import assistant_message, user_message
from veridical.data.prompts import Prompt
from veridical.eval.answer_logps import answer_logps
from veridical.eval.answers import read_json_rows
from veridical.eval.asks import Asks, Questions, Row, no_given_answers
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.published import PublishedQuestion, ask_all, check_files, text_fields
from veridical.eval.run import run_benchmark
from veridical.eval.short_answers import by_fields
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.scoring.statistics import ClusterSums, Estimate, Metric, Ratio, sum_by_cluster

if TYPE_CHECKING:
    from veridical.models.policy import Policy
    from veridical.models.rendering import Group

FIELDS = ("id", "type", "prompt", "good", "bad")


@dataclass(frozen=True)
class TextPairsOptions:
    """Which texts are compared.

    Attributes:
        files: JSON Lines {"id", "type", "prompt", "good", "bad"}: the user's words, a right answer
            to them, and a wrong one. `world make` writes such a file, text_pairs.jsonl.
    """

    files: Path

    @cached_property
    def questions(self) -> list[PublishedQuestion]:
        """The pairs, in the order of the file."""
        return read_text_pairs(self.files)


def read_text_pairs(path: Path) -> list[PublishedQuestion]:
    """The pairs of a file.

    Raises:
        UserError: a row is of another form, or an id is there twice.
    """
    found: dict[str, PublishedQuestion] = {}
    for number, row in enumerate(read_json_rows(path), start=1):
        place = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be an object with {', '.join(FIELDS)}.")
        texts = text_fields(row, FIELDS, place)
        id, good, bad = texts["id"], texts["good"], texts["bad"]
        if not (good.strip() and bad.strip()) or good == bad:
            raise UserError(f"{place}: good and bad must be two different texts.")
        if id in found:
            raise UserError(f"{place}: the id {id} is there twice. Give each pair its own.")
        about = {"type": texts["type"], "bad": bad}
        found[id] = PublishedQuestion(id, "", id, texts["prompt"], good, about=about)
    if not found:
        raise UserError(f"{path} has no pairs.")
    return list(found.values())


def read_questions(options: TextPairsOptions, evaluation: Evaluation) -> Questions:
    """The pairs, and those that can't be rendered for the model."""
    found = ask_all(options, evaluation)
    pairs = {pair.question_id: pair for pair in options.questions}
    policy = evaluation.settings.model.policy
    items, skipped = [], list(found.skipped)
    for item in found.items:
        try:
            _group(policy, pairs[item.prompt.id])
        except RefusedRowError as refusal:
            skipped.append({"id": item.prompt.id, "field": "row", "reason": str(refusal)})
        else:
            items.append(item)
    return Questions(items, skipped, "pairs")


def _group(policy: Policy, pair: PublishedQuestion) -> Group:
    """The pair as the model reads it.

    Raises:
        RefusedRowError: it can't.
    """
    from veridical.models.rendering import render_group

    answers = [[assistant_message(text)] for text in (pair.expected, pair.about["bad"])]
    return render_group(policy, pair.question_id, [], [user_message(pair.text, images=0)], answers)


def measure(
    options: TextPairsOptions, evaluation: Evaluation, prompts: Sequence[Prompt]
) -> list[dict[str, float]]:
    """Of each pair `good_logp` and `bad_logp` in nats, and how many tokens the good text has."""
    policy, size = evaluation.settings.model.policy, evaluation.settings.batch_size
    pairs = {pair.question_id: pair for pair in options.questions}
    groups = [_group(policy, pairs[prompt.id]) for prompt in prompts]
    return [
        {"good_logp": good[0], "bad_logp": bad[0], "tokens": good[1]}
        for good, bad in answer_logps(policy, groups, size, "texts")
    ]


def judge_rows(
    options: TextPairsOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> Sequence[Row]:
    """The rows; their log-probabilities are all there is to judge."""
    return rows


def text_pair_sums(rows: Rows) -> ClusterSums:
    """What the metrics are made of, added up by pair."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Mapping[str, Any]) -> dict[str, float]:
    lead = row["good_logp"] - row["bad_logp"]
    return {
        "pairs": 1.0,
        "right": 0.5 if lead == 0 else float(lead > 0),
        "nats": -row["good_logp"],
        "tokens": row["tokens"],
    }


TEXT_PAIRS = BenchmarkDescription(
    name="text_pairs",
    title="text pairs",
    done="Right and wrong texts were compared, without an image",
    headline="accuracy",
    meaning="how often the right one of two texts is more likely, without an image; chance is 50 %",
    asked="pairs of texts,",
    metrics=(
        MetricDescription(
            "accuracy", "Right text more likely", "without an image", better="higher", shown="top"
        ),
        MetricDescription(
            "nats", "Nats a token of the right texts",
            "logarithm of their perplexity, without an image", unit="number", better="lower",
            shown="top",
        ),
    ),
)  # fmt: skip

BENCHMARK = Benchmark(
    description=TEXT_PAIRS,
    judged="answers.jsonl",
    sums=text_pair_sums,
    formulas=(
        Metric("accuracy", Ratio("right", "pairs"), "pairs"),
        # A token's loss can't be below 0; one that a model did not foresee costs several nats.
        Metric("nats", Ratio("nats", "tokens"), "tokens", "mean", limit=0.0, event=5.0),
    ),
    same=("question_id", "question", "expected", "bad"),
    facts="pairs",
    needs=("good_logp", "bad_logp", "tokens"),
    groups=by_fields("type"),
    in_groups=("accuracy",),
    asks=Asks(
        options=TextPairsOptions,
        max_new_tokens=1,
        label="texts",
        check=check_files,
        read=read_questions,
        match=no_given_answers,
        judge=judge_rows,
        measure=measure,
        sees_images=False,
        speaks=False,
    ),
)


def eval_text_pairs(
    text_pairs: TextPairsOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Check a model's text ability on pairs of a right and a wrong text, without an image.

    Writes `answers.jsonl`, `scores.json` (95 % intervals over pairs) and `run.json`. The scores are
    accuracy (how often the right text is more likely; also by type) and nats (a token of the right
    texts: the logarithm of their perplexity). The model generates nothing, so that options of
    decoding have no effect.

    Args:
        text_pairs: which texts.
        out: the folder to write.
        subject: whose log-probabilities; `--images` and `--answers` mean nothing here.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, text_pairs, out, subject, asking)
