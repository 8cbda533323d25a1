"""A pair's row and its images as a group: each answer under the images that it is read with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from veridical.data.images import RowImage, row_images
from veridical.data.messages import Message, text_of, without_images
from veridical.data.record_spans import spans_of
from veridical.data.record_types import Branch, CheckedRow
from veridical.data.records import count_images
from veridical.models.answer_parts import Answer
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError, render_answers
from veridical.objectives.base import View
from veridical.train.loop.collapsed import answer_field


@dataclass(frozen=True)
class Images:
    """A row's pictures, none of them decoded yet."""

    index: int
    pictures: Dataset
    others: Mapping[str, Dataset]

    def of_prompt(self, count: int) -> tuple[RowImage, ...]:
        """What every answer sees, unless it has its own."""
        return row_images(self.pictures, self.index, count)

    def names(self) -> list[str]:
        """Of their files, without suffix; empty where a picture has none."""
        cells = self.pictures.with_format("arrow")[self.index].to_pylist()[0]["images"]
        return [Path(cell["path"] or "").stem for cell in cells]

    def of(self, column: str, count: int) -> tuple[RowImage, ...] | None:
        """What another column holds, for an answer that is read with it; None if it is empty."""
        rows = self.others.get(column)
        if rows is None or not rows.with_format("arrow")[self.index][column][0].is_valid:
            return None
        return row_images(rows, self.index, count, column)


def render_pair(
    policy: Policy,
    row: CheckedRow,
    images: Images,
    branches: Sequence[Branch],
    further: bool,
    max_response_tokens: int | None,
    views: Sequence[View] = (),
) -> Group:
    """A pair's prompt with its branches as responses, rendered and tokenized.

    Args:
        policy: whose template and tokenizer are used.
        row: the pair, without its images.
        images: its images.
        branches: the message columns that are responses.
        further: whether `more_rejected` answers are responses too.
        max_response_tokens: longer responses lose their end.
        views: answers that come once more at the end, under other images.

    Raises:
        RefusedRowError: as for `render_group`, or there are no such images.
    """
    count = count_images(row["prompt"])
    named: dict[str, list[Message]] = {branch: row[branch] for branch in branches}
    more = (row.get("more_rejected") or []) if further else []
    named |= {answer_field(len(branches) + i): answer for i, answer in enumerate(more)}
    distorted = images.of("rejected_images", count) if "rejected" in branches else None
    hidden = (row.get("rejected_masked") or 0.0) if "rejected" in branches else 0.0
    if hidden and distorted is None:
        distorted = images.of_prompt(count)
    answers = [
        Answer(
            messages,
            distorted if name == "rejected" else None,
            row.get("answer_prefix") or "",
            spans_of((row.get("span_weights") or ()) if "rejected" in branches else (), name),
            hidden=hidden if name == "rejected" else 0.0,
        )
        for name, messages in named.items()
    ]
    known = dict(zip(named, answers, strict=True))
    answers += [_seen_otherwise(row, images, known, view) for view in views]
    group = render_answers(
        policy, row["id"], images.of_prompt(count), row["prompt"], answers, max_response_tokens
    )
    factor = row.get("beta_factor") or 1.0
    return dataclasses.replace(group, beta_factor=factor, contrasts=len(views) or None)


def _seen_otherwise(
    row: CheckedRow, images: Images, known: Mapping[str, Answer], view: View
) -> Answer:
    """An answer once more, as a view has it."""
    count = count_images(row["prompt"])
    if view.answer == "contrast_chosen":
        if "contrast_chosen" not in row or not row["contrast_chosen"]:
            raise RefusedRowError(
                "the loss reads the right answer to contrast_images, contrast_chosen, and there is "
                "none; `veridical build contrast --kind preference` makes it"
            )
        answer = Answer(row["contrast_chosen"])
    else:
        answer = known[view.answer]
        if view.is_right:
            own = images.of("contrast_images", count) is None
            _refuse_another_right_one(row, view.answer, own)
    answer = dataclasses.replace(answer, hidden=0.0)
    if view.images == "images":
        return dataclasses.replace(answer, images=None)
    if view.images == "none":
        if not count:
            raise RefusedRowError("the loss reads answers without their image, and there is none")
        return dataclasses.replace(answer, images=(), prompt=without_images(row["prompt"]))
    other, hidden = images.of("contrast_images", count), row.get("contrast_masked") or 0.0
    if hidden and other is None:
        other = images.of_prompt(count)
    if not other:
        raise RefusedRowError(
            "the loss compares the answer with itself under contrast_images, and there are "
            "none; `veridical build distort --column contrast_images` makes them"
        )
    return dataclasses.replace(answer, images=other, hidden=hidden)


def _refuse_another_right_one(row: CheckedRow, answer: Branch, own_images: bool) -> None:
    """Refuse a pair whose right answer to `contrast_images` is another than the loss would take.

    Args:
        row: the pair.
        answer: what the loss takes for it.
        own_images: whether the pair's own images stand in for `contrast_images`.

    Raises:
        RefusedRowError: `contrast_chosen` is another one, or the images are the pair's own.
    """
    other = row.get("contrast_chosen")
    if other and text_of(other).strip() != text_of(row[answer]).strip():
        why = "contrast_chosen is another one; set --loss symmpo, or make pairs of conversations by"
    elif own_images and row.get("contrast_masked"):
        why = "contrast_masked hides parts of the pair's own image; make pairs with two images by"
    else:
        return
    raise RefusedRowError(
        f"the loss takes {answer} for the right answer to contrast_images, and {why} `veridical "
        "build contrast`"
    )
