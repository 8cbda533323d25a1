"""A check without labels: held-out pairs of a true answer and a false one that a model made itself.

It needs nothing that people annotate. It says whether a model finds the true answers more likely,
and how much of that comes from the image; and what may have been lost: length, refusals, text. It
does not count hallucinations in the model's own answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.data.messages import Message, count_images, text_of
from veridical.data.prompts import Prompt
from veridical.eval.answer_logps import answer_logps
from veridical.eval.asks import (
    AskedItem,
    Asks,
    Questions,
    Remarks,
    Row,
    no_given_answers,
)
from veridical.eval.benchmark import Benchmark, Rows
from veridical.eval.evaluation import USUAL, Asking, Evaluation, Subject
from veridical.eval.run import run_benchmark
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.errors import RefusedRowError
from veridical.runtime.files import require_file
from veridical.runtime.json_types import JsonObject
from veridical.runtime.run_files import SkippedRow
from veridical.scoring.refusals import is_refusal
from veridical.scoring.statistics import (
    ClusterSums,
    Estimate,
    Metric,
    Ratio,
    sum_by_cluster,
)

if TYPE_CHECKING:
    from veridical.data.records import RecordSet
    from veridical.models.policy import Policy
    from veridical.models.rendering import Group

NOT_SHOWN = (
    "This check has no labels: it does not count hallucinations in the model's own answers. "
    "Training on pairs of this kind raises the lead of true answers by itself; only POPE, CHAIR or "
    "another benchmark with labels shows whether the model says fewer false things."
)


@dataclass(frozen=True)
class HeldOutPair:
    """A prompt with a true and a false answer.

    Attributes:
        prompt: its id has the images' content in it, so that other images get other answers.
        chosen: the true answer.
        rejected: the false one.
        image_id: what tells the images apart.
        row_id: the id in the file.
    """

    prompt: Prompt
    chosen: list[Message]
    rejected: list[Message]
    image_id: str
    row_id: str


@dataclass(frozen=True)
class LabelFreeOptions:
    """What the label-free check reads.

    Attributes:
        data: preference pairs that were not trained on, such as `build bdhs` makes of held-out
            rows; chosen is the true answer.
        images_root: what image paths are relative to; the file's own folder if not set.
    """

    data: Path
    images_root: Path | None = None

    @cached_property
    def records(self) -> RecordSet:
        """The file's usable rows, and what is wrong with the others, however many they are."""
        from veridical.data.records import read_records

        return read_records(self.data, "preference", self.images_root, max_bad_fraction=1.0)

    @cached_property
    def pairs(self) -> dict[str, HeldOutPair]:
        """The pairs by the ids of their prompts, in the order of the file."""
        from veridical.data.images import image_bytes_key, row_images

        rows = self.records.rows
        pictures = rows.select_columns(["images"])
        texts = rows.select_columns(["id", "prompt", "chosen", "rejected"])
        found = {}
        for index, row in enumerate(texts):
            images = row_images(pictures, index, count_images(row["prompt"]))
            seen = "/".join(image_bytes_key(image)[:16] for image in images)
            prompt = Prompt(f"{row['id']}/{seen}", images, row["prompt"])
            image_id = seen or text_of(row["prompt"])
            found[prompt.id] = HeldOutPair(
                prompt, row["chosen"], row["rejected"], image_id, row["id"]
            )
        return found


def check_options(options: LabelFreeOptions, evaluation: Evaluation) -> None:
    """Refuse a file that is missing.

    Raises:
        UserError: it is.
    """
    require_file(options.data, "--data")


def read_questions(options: LabelFreeOptions, evaluation: Evaluation) -> Questions:
    """The prompts of the first pairs, and the rows that can't be read or rendered for the model.

    Unreadable rows behind the last of these pairs are not asked for, and don't count.
    """
    from veridical.data.origins import unread_rows, with_origins

    policy, records = evaluation.settings.model.policy, options.records
    every = list(options.pairs.values())
    pairs = every[: evaluation.subject.limit]
    last = records.numbers[len(pairs) - 1] if 0 < len(pairs) < len(every) else math.inf
    refused: list[SkippedRow] = []
    items = []
    for pair in pairs:
        try:
            _group(policy, pair)
        except RefusedRowError as refusal:
            refused.append({"id": pair.row_id, "field": "row", "reason": str(refusal)})
        else:
            items.append(_item(pair))
    unread = [row for row in unread_rows(records) if row["row"] < last]
    return Questions(items, [*unread, *with_origins(records, refused)], "pairs")


def _group(policy: Policy, pair: HeldOutPair) -> Group:
    """The pair as the model reads it.

    Raises:
        RefusedRowError: it can't.
    """
    from veridical.models.rendering import render_group

    asked, answers = pair.prompt, [pair.chosen, pair.rejected]
    return render_group(policy, asked.id, asked.images, asked.messages, answers)


def _item(pair: HeldOutPair) -> AskedItem:
    row = {
        "image_id": pair.image_id,
        "question_id": pair.prompt.id,
        "chosen": text_of(pair.chosen),
        "rejected": text_of(pair.rejected),
    }
    return AskedItem(pair.prompt, row, (pair.prompt.id, "prompt"))


def measure(
    options: LabelFreeOptions, evaluation: Evaluation, prompts: Sequence[Prompt]
) -> list[dict[str, float]]:
    """Log-probabilities of each pair's answers, with the image, with plain gray, and as text alone.

    All are in nats: `true` and `false` sums over the answer's tokens, `blind_true` and
    `blind_false` with a gray image of the same size, `text` the true answer without an image in the
    conversation. `tokens` and `text_tokens` are counts; those of text are 0 where the model can't
    be asked without an image.
    """
    from veridical.checks.controls import with_gray_images

    policy, size = evaluation.settings.model.policy, evaluation.settings.batch_size
    pairs = [options.pairs[prompt.id] for prompt in prompts]
    groups = [_group(policy, pair) for pair in pairs]
    seen = answer_logps(policy, groups, size, "with the images")
    blind = answer_logps(policy, groups, size, "with gray images", with_gray_images)
    alone = [_as_text(policy, pair) for pair in pairs]
    said = answer_logps(policy, [group for group in alone if group], size, "text alone")
    texts = iter(said)
    return [
        {
            "true": with_image[0][0],
            "false": with_image[1][0],
            "blind_true": without[0][0],
            "blind_false": without[1][0],
            "tokens": with_image[0][1],
            **_text_fields(next(texts) if group else None),
        }
        for with_image, without, group in zip(seen, blind, alone, strict=True)
    ]


def _text_fields(answer: Sequence[tuple[float, float]] | None) -> dict[str, float]:
    value, count = answer[0] if answer is not None else (0.0, 0.0)
    return {"text": value, "text_tokens": count}


def _as_text(policy: Policy, pair: HeldOutPair) -> Group | None:
    """The true answer in a conversation without the images; None where there can be none."""
    from veridical.models.rendering import render_group

    prompt: list[Message] = []
    for message in pair.prompt.messages:
        blocks = [block for block in message["content"] if block["type"] != "image"]
        prompt.append({**message, "content": blocks})
    if not all(message["content"] for message in prompt):
        return None
    try:
        return render_group(policy, pair.prompt.id, [], prompt, [pair.chosen])
    except RefusedRowError:
        return None


def judge_rows(
    options: LabelFreeOptions, evaluation: Evaluation, rows: Sequence[Row]
) -> list[JsonObject]:
    """The rows, with what is counted of the model's own answers."""
    return [
        {**row, "words": len(row["answer"].split()), "refusal": is_refusal(row["answer"])}
        for row in rows
    ]


def label_free_sums(rows: Rows) -> ClusterSums:
    """What the metrics are made of, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Mapping[str, Any]) -> dict[str, float]:
    lead, blind = row["true"] - row["false"], row["blind_true"] - row["blind_false"]
    return {
        "pairs": 1.0,
        "preferred": _share(lead),
        "blind_preferred": _share(blind),
        "lead": lead,
        "from_image": lead - blind,
        "nats": -row["true"],
        "tokens": row["tokens"],
        "text_nats": -row["text"],
        "text_tokens": row["text_tokens"],
        "words": float(row["words"]),
        "refusals": float(row["refusal"]),
        "empty": float(not row["words"]),
    }


def _share(lead: float) -> float:
    return 0.5 if lead == 0 or math.isnan(lead) else float(lead > 0)


def remark(
    options: LabelFreeOptions, evaluation: Evaluation, rows: Sequence[Row], judged: Sequence[Row]
) -> Remarks:
    """What the check does not show."""
    return Remarks(lines=[NOT_SHOWN])


LABEL_FREE = BenchmarkDescription(
    name="label_free",
    title="label-free check",
    done="Held-out true answers were compared with answers made without the image",
    headline="from_image",
    meaning=(
        "how much more the log-probability of a true answer exceeds that of a false one when the "
        "image is shown than when a plain gray one is. It does not count hallucinations in the "
        "model's own answers; that takes a benchmark with labels. It is measured"
    ),
    asked="held-out pairs about",
    metrics=(
        MetricDescription(
            "from_image", "Lead of true answers that the image gives",
            "nats, with the image minus with a gray one",
            unit="number", better="higher", shown="top",
        ),
        MetricDescription(
            "preferred", "True answer more likely", "than the false one, with the image",
            better="higher", shown="top",
        ),
        MetricDescription(
            "blind_preferred", "True answer more likely without the image",
            "with a gray one; what words alone tell", shown="table",
        ),
        MetricDescription(
            "lead", "Lead of true answers", "nats, true minus false answer", unit="number",
            shown="table",
        ),
        MetricDescription(
            "nats", "Nats a token of the true answers",
            "logarithm of their perplexity, with the image", unit="number", better="lower",
            shown="table",
        ),
        MetricDescription(
            "text_nats", "Nats a token of text", "the true answers without an image", unit="number",
            better="lower", shown="top",
        ),
        MetricDescription(
            "words", "Words an answer", "the model's own", unit="words", shown="top"
        ),
        MetricDescription(
            "refusals", "Refusals", "own answers that decline, in English", better="lower",
            shown="top",
        ),
        MetricDescription("empty", "Answers without a word", better="lower"),
    ),
)  # fmt: skip

BENCHMARK = Benchmark(
    description=LABEL_FREE,
    judged="answers.jsonl",
    sums=label_free_sums,
    formulas=(
        Metric("preferred", Ratio("preferred", "pairs"), "pairs"),
        Metric("blind_preferred", Ratio("blind_preferred", "pairs"), "pairs"),
        Metric("from_image", Ratio("from_image", "pairs"), "pairs", "mean"),
        Metric("lead", Ratio("lead", "pairs"), "pairs", "mean"),
        # A token's loss can't be below 0; one that a model did not foresee costs several nats.
        Metric("nats", Ratio("nats", "tokens"), "tokens", "mean", limit=0.0, event=5.0),
        Metric(
            "text_nats", Ratio("text_nats", "text_tokens"), "text_tokens", "mean", limit=0.0,
            event=5.0,
        ),
        Metric("words", Ratio("words", "pairs"), "pairs", "mean", limit=0.0, event=1.0),
        Metric("refusals", Ratio("refusals", "pairs"), "pairs"),
        Metric("empty", Ratio("empty", "pairs"), "pairs"),
    ),
    same=("question_id", "prompt", "chosen", "rejected"),
    facts="pairs",
    needs=("true", "false", "blind_true", "blind_false", "tokens", "text", "text_tokens"),
    asks=Asks(
        options=LabelFreeOptions,
        max_new_tokens=256,
        label="own answers",
        check=check_options,
        read=read_questions,
        match=no_given_answers,
        judge=judge_rows,
        measure=measure,
        remark=remark,
        sees_images=False,
    ),
)  # fmt: skip


def eval_label_free(
    label_free: LabelFreeOptions,
    out: Path,
    subject: Subject,
    asking: Asking = USUAL,
) -> dict[str, Estimate]:
    """Check a model without labels, on held-out pairs of a true and a false answer.

    Writes `answers.jsonl`, `scores.json` (95 % intervals clustered by image) and `run.json`. The
    scores are preferred (how often the true answer is more likely), from_image (by how many nats
    the image raises its lead), lead, nats and text_nats (a token of the true answers, with the
    image and as text alone), and of the model's own answers words, refusals and empty. It does not
    count hallucinations in them. Answers have at most 256 tokens if not set.

    Args:
        label_free: which pairs.
        out: the folder to write.
        subject: whose answers; `--images` and `--answers` mean nothing here.
        asking: how the model is asked.

    Raises:
        UserError: contradicting or missing options, or a file is not what it must be.
    """
    return run_benchmark(BENCHMARK, label_free, out, subject, asking)
