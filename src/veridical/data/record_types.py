"""What is in the rows of records: as they are checked, and as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from PIL import Image

from veridical.data.images import ImageLike
from veridical.data.messages import Message
from veridical.data.record_spans import SpanWeight

ImageField = Literal["images", "rejected_images", "contrast_images"]
IMAGE_FIELDS: tuple[ImageField, ...] = ("images", "rejected_images", "contrast_images")
"""The columns that hold pictures: the prompt's, and others that an answer is read with instead."""
Branch = Literal["chosen", "rejected"]
OF_ONE_ANSWER = (
    "rejected_images", "contrast_images", "contrast_chosen", "rejected_masked", "contrast_masked",
    "more_rejected",
)  # fmt: skip
"""Columns that say something of the chosen or of the rejected answer alone."""


class ImageCell(TypedDict):
    """An image in a table: the bytes of its file, or where that is; one of them may be None."""

    bytes: bytes | None
    path: str | None


class Rating(TypedDict):
    """One score of one answer.

    `answer` is "chosen", "rejected" or "more_rejected/0", ..., in kind `sample` "responses/0", ...
    """

    answer: str
    aspect: str
    value: float


class CheckedRow(TypedDict, total=False):
    """A row of any kind as it was checked and is stored: of its fields, those that it has."""

    id: str
    images: list[ImageCell]
    prompt: list[Message]
    messages: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    completion: list[Message]
    label: bool
    responses: list[list[Message]]
    rejected_images: list[ImageCell]
    contrast_images: list[ImageCell]
    contrast_chosen: list[Message]
    rejected_masked: float
    contrast_masked: float
    more_rejected: list[list[Message]]
    ratings: list[Rating]
    facts: list[str]
    expected_answer: str
    beta_factor: float
    answer_prefix: str
    span_weights: list[SpanWeight]
    source: str


class NewRow(TypedDict, total=False):
    """A row that is to be written: of the fields of its kind, those that it has."""

    id: str
    images: Sequence[ImageLike | ImageCell]
    prompt: Sequence[Message]
    messages: Sequence[Message]
    chosen: Sequence[Message]
    rejected: Sequence[Message]
    completion: Sequence[Message]
    label: bool
    responses: Sequence[Sequence[Message]]
    rejected_images: Sequence[ImageLike | ImageCell]
    contrast_images: Sequence[ImageLike | ImageCell]
    contrast_chosen: Sequence[Message]
    rejected_masked: float | None
    contrast_masked: float | None
    more_rejected: Sequence[Sequence[Message]]
    ratings: Sequence[Rating]
    facts: Sequence[str]
    expected_answer: str | None
    beta_factor: float | None
    answer_prefix: str | None
    span_weights: Sequence[SpanWeight] | None
    source: str | None


class PreferenceRow(TypedDict):
    """A row of kind `preference`; images are upright RGB Pillow images on access."""

    id: str
    images: list[Image.Image]
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    rejected_images: NotRequired[list[Image.Image] | None]
    contrast_images: NotRequired[list[Image.Image] | None]
    contrast_chosen: NotRequired[list[Message] | None]
    rejected_masked: NotRequired[float | None]
    contrast_masked: NotRequired[float | None]
    more_rejected: NotRequired[list[list[Message]] | None]
    ratings: NotRequired[list[Rating] | None]
    facts: NotRequired[list[str] | None]
    expected_answer: NotRequired[str | None]
    beta_factor: NotRequired[float | None]
    answer_prefix: NotRequired[str | None]
    span_weights: NotRequired[list[SpanWeight] | None]
    source: NotRequired[str | None]


class UnpairedRow(TypedDict):
    """A row of kind `unpaired`: one answer, and whether it is a good one."""

    id: str
    images: list[Image.Image]
    prompt: list[Message]
    completion: list[Message]
    label: bool
    facts: NotRequired[list[str] | None]
    expected_answer: NotRequired[str | None]
    source: NotRequired[str | None]


class ConversationRow(TypedDict):
    """A row of kind `conversation`."""

    id: str
    images: list[Image.Image]
    messages: list[Message]
    source: NotRequired[str | None]


class PromptRow(TypedDict):
    """A row of kind `prompt`; the prompt ends with a user's turn."""

    id: str
    images: list[Image.Image]
    prompt: list[Message]
    facts: NotRequired[list[str] | None]
    expected_answer: NotRequired[str | None]
    source: NotRequired[str | None]


class SampleRow(TypedDict):
    """A row of kind `sample`: one or more responses to a prompt, each one assistant turn."""

    id: str
    images: list[Image.Image]
    prompt: list[Message]
    responses: list[list[Message]]
    ratings: NotRequired[list[Rating] | None]
    facts: NotRequired[list[str] | None]
    expected_answer: NotRequired[str | None]
    source: NotRequired[str | None]
