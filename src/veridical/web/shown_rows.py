"""What a page shows of a row, whatever the row is: a pair, a sample, or a model's answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from veridical.data.text.units import words_of

_ASCII_WORD = re.compile(r"\w+(?:['.-]\w+)*")
MarkKind = Literal["made_up", "real", "completed", "weighted", "different"]
OWN_FIELDS = ("row", "id", "problem")
"""Fields that every row has: its number in the file, its id, and why commands leave it out."""
FieldValue = str | float | int | bool | None


@dataclass(frozen=True)
class Mark:
    """A stretch of a text that is shown in its own way; `start` and `end` count characters."""

    start: int
    end: int
    kind: MarkKind


@dataclass(frozen=True)
class ShownAnswer:
    """One answer.

    Attributes:
        name: what the record calls it: `chosen`, `responses/0`, or a run's name.
        title: its heading.
        text: the whole text.
        marks: of the text; they may overlap.
        about: what is known of it, such as its ratings.
    """

    name: str
    title: str
    text: str
    marks: tuple[Mark, ...] = ()
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownImage:
    """Where an image of a row is.

    Attributes:
        label: what it is called on the page.
        path: as the row names it; None where the row holds its bytes.
        column: of a Parquet file that holds its bytes; "" where only a path is known.
        number: its place in that column's list.
    """

    label: str
    path: str | None
    column: str = ""
    number: int = 0


@dataclass(frozen=True)
class ShownTurn:
    """One turn of what was asked, with the places of images as `[image]` or `[3 images]`."""

    role: str
    text: str


@dataclass(frozen=True)
class ShownRow:
    """One row.

    Attributes:
        number: in its file, counted from 1.
        id: as commands know it.
        images: of the prompt, then others.
        prompt: the turns before the answers.
        answers: the first two are compared.
        fields: what can be searched and sorted by.
        problem: why commands would leave the row out; "" if they would not.
    """

    number: int
    id: str
    images: tuple[ShownImage, ...]
    prompt: tuple[ShownTurn, ...]
    answers: tuple[ShownAnswer, ...]
    fields: Mapping[str, FieldValue]
    problem: str = ""

    @property
    def text(self) -> str:
        """All that a search looks through, in one letter case."""
        parts = [self.id, *(turn.text for turn in self.prompt), *(a.text for a in self.answers)]
        return "\n".join(parts).casefold()


def count_words(text: str) -> int:
    """How many words a text has, as `words_of` cuts it."""
    return sum(1 for _ in _ASCII_WORD.finditer(text)) if text.isascii() else len(words_of(text))


def named_fields(fields: Mapping[str, FieldValue], origin: str) -> dict[str, FieldValue]:
    """Fields of a file, of which those that are called as `OWN_FIELDS` are named `origin.NAME`."""
    return {f"{origin}.{k}" if k in OWN_FIELDS else k: value for k, value in fields.items()}


def as_json(row: ShownRow) -> str:
    """A row as one JSON text."""
    return json.dumps(row, ensure_ascii=False, default=vars)  # asdict copies each value


def from_json(text: str) -> ShownRow:
    """The row that `as_json` wrote."""
    content: Any = json.loads(text)
    return ShownRow(
        number=content["number"],
        id=content["id"],
        images=tuple(ShownImage(**image) for image in content["images"]),
        prompt=tuple(ShownTurn(**turn) for turn in content["prompt"]),
        answers=tuple(_answer(answer) for answer in content["answers"]),
        fields=content["fields"],
        problem=content["problem"],
    )


def _answer(content: Mapping[str, Any]) -> ShownAnswer:
    marks = tuple(Mark(**mark) for mark in content["marks"])
    return ShownAnswer(**{**content, "marks": marks, "about": tuple(content["about"])})
