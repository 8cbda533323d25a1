"""What is asked about a view, and how many questions share one picture in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from photos import DESCRIBE, View, description, how_many, is_there, number_word
from torch import Tensor

from veridical.models.prefix_masks import shared_mask
from veridical.runtime.randomness import generator

IGNORED = -100
FEWEST = 3
"""Questions of a view whose answer is no, at least; they count no more than those that say yes."""


@dataclass(frozen=True)
class Lesson:
    """A question about a picture, its true answer, and how much it counts."""

    question: str
    answer: str
    weight: float = 1.0


@dataclass(frozen=True)
class Pages:
    """Rows `[picture | lesson | lesson | ...]`, whose lessons do not see each other.

    Attributes:
        ids: token ids, image placeholders first. Shape: (rows, length).
        positions: restarting behind the picture for each lesson. Shape: (rows, length).
        mask: True where a token may look. Shape: (rows, 1, length, length).
        targets: the next token where it is to be learned, else -100. Shape: (rows, length).
        weights: of each target; a lesson's add up to its weight. Shape: (rows, length).
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor


def lessons_of(
    shown: View, elsewhere: Sequence[str], names: Sequence[str], asked: int, seed: int
) -> list[Lesson]:
    """A description, a number, and questions of which yes and no count the same.

    Objects that are not there are drawn from what the batch's other pictures show, so that no
    answer can be told from how common an object is; every fourth from all names. Numbers are asked
    for where there are boxes to count.

    Args:
        shown: the view.
        elsewhere: what can be seen in the other views of the batch, with repetitions.
        names: every name there is.
        asked: at most so many questions whose answer is yes.
        seed: of the draws.
    """
    random = generator(seed, "lessons", shown.id)
    lessons = [Lesson(DESCRIBE, description(shown), 3.0)]
    if shown.counts and shown.photo.boxes:
        name, count = shown.counts[int(random.integers(len(shown.counts)))]
        answer = number_word(count).capitalize() + "."
        lessons.append(Lesson(how_many(name), answer, 0.5))
    there = {*shown.names, *shown.unclear, *shown.photo.objects}
    near = [name for name in elsewhere if name not in there]
    far = [name for name in names if name not in there]
    present = list(shown.names)
    random.shuffle(present)
    present = present[:asked]
    absent: list[str] = []
    for number in range(max(len(present), FEWEST)):
        pools = (far, near) if number % 4 == 3 else (near, far)
        left = next((new for pool in pools if (new := [n for n in pool if n not in absent])), [])
        if left:
            absent.append(left[int(random.integers(len(left)))])
    share = len(present) / max(len(absent), 1)
    lessons += [Lesson(is_there(name), "Yes.") for name in present]
    lessons += [Lesson(is_there(name), "No.", share) for name in absent]
    return lessons


def make_pages(processor: Any, pictures: int, rows: Sequence[Sequence[Lesson]]) -> Pages:
    """Lay lessons out as the chat template would, each behind the same picture.

    Args:
        processor: the model's.
        pictures: image tokens of a picture.
        rows: the lessons of each row.
    """
    made = [_row(processor, pictures, row) for row in rows]
    width = max(len(row["ids"]) for row in made)
    pad = processor.tokenizer.pad_token_id
    blank = {"ids": pad, "positions": 0, "segments": -1, "targets": IGNORED, "weights": 0.0}
    whole = {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in made])
        for name, value in blank.items()
    }
    mask = shared_mask(whole["segments"])
    return Pages(whole["ids"], whole["positions"], mask, whole["targets"], whole["weights"])


def _row(processor: Any, pictures: int, lessons: Sequence[Lesson]) -> dict[str, list[Any]]:
    """One row's columns; segment 0 is the picture, 1, 2, ... the lessons."""
    words = processor.tokenizer
    ids = _beginning(processor, pictures)
    segments = [0] * len(ids)
    start = len(ids)
    positions, targets, weights = list(range(start)), [IGNORED] * start, [0.0] * start
    for number, lesson in enumerate(lessons, start=1):
        question, answer = _turns(processor, lesson)
        asked = words(question, add_special_tokens=False)["input_ids"]
        told = words(answer, add_special_tokens=False)["input_ids"]
        ids += asked + told
        segments += [number] * (len(asked) + len(told))
        positions += range(start, start + len(asked) + len(told))
        # The token before predicts the next one; the last token of a lesson predicts nothing.
        targets += [IGNORED] * (len(asked) - 1) + told + [IGNORED]
        share = lesson.weight / len(told)
        weights += [0.0] * (len(asked) - 1) + [share] * len(told) + [0.0]
    return {
        "ids": ids,
        "segments": segments,
        "positions": positions,
        "targets": targets,
        "weights": weights,
    }


def _message(role: str, *blocks: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def _beginning(processor: Any, pictures: int) -> list[int]:
    """The user's turn up to the question, with a placeholder for each image token."""
    asked = _message("user", {"type": "image"}, {"type": "text", "text": "\x00"})
    text = processor.apply_chat_template([asked], tokenize=False).split("\x00")[0]
    text = text.replace(processor.image_token, processor.image_token * pictures)
    found: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _turns(processor: Any, lesson: Lesson) -> tuple[str, str]:
    """The question up to where the answer starts, and the answer with its end token."""
    asked = _message("user", {"type": "text", "text": lesson.question})
    told = _message("assistant", {"type": "text", "text": lesson.answer})
    template = processor.apply_chat_template
    until = template([asked], tokenize=False, add_generation_prompt=True)
    whole = template([asked, told], tokenize=False)
    question = until[until.index(lesson.question) :]
    end = processor.tokenizer.eos_token
    answer = whole[len(until) :]
    return question, answer[: answer.index(end) + len(end)]


def seen_elsewhere(batch: Sequence[View]) -> list[list[str]]:
    """For each view what the others of its batch show, from other photographs."""
    return [
        [name for other in batch if other.photo.id != shown.photo.id for name in other.names]
        for shown in batch
    ]


WINDOW = 8
"""Batches among which views are sorted by how much there is to say, so that little is padded."""


def batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Places of `lengths` in the epoch's order, `size` at a time; a rest too small is left."""
    random = generator(seed, "order", epoch)
    order = random.permutation(len(lengths)).tolist()
    sorted_by_length: list[int] = []
    for start in range(0, len(order), WINDOW * size):
        window = order[start : start + WINDOW * size]
        sorted_by_length += sorted(window, key=lengths.__getitem__)
    every = [sorted_by_length[i : i + size] for i in range(0, len(order), size)]
    whole = [batch for batch in every if len(batch) == size] or every
    return [whole[i] for i in random.permutation(len(whole))]
