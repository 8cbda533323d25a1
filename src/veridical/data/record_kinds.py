"""The kinds of records: their columns, and why a row is none."""

from __future__ import annotations

from typing import Literal

Kind = Literal["preference", "unpaired", "conversation", "prompt", "sample"]

MESSAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion"),
    "conversation": ("messages",),
    "prompt": ("prompt",),
    "sample": ("prompt", "responses"),
}
OPTIONAL_FIELDS: dict[str, tuple[str, ...]] = {
    "preference": (
        "rejected_images",
        "contrast_images",
        "contrast_chosen",
        "rejected_masked",
        "contrast_masked",
        "more_rejected",
        "ratings",
        "facts",
        "expected_answer",
        "beta_factor",
        "answer_prefix",
        "span_weights",
        "source",
    ),
    "unpaired": ("label", "facts", "expected_answer", "source"),
    "conversation": ("source",),
    "prompt": ("facts", "expected_answer", "source"),
    "sample": ("ratings", "facts", "expected_answer", "source"),
}

TAG = "<image>"
"""What stands in a text where a picture belongs, in rows without image blocks."""


class RowError(ValueError):
    """A row that cannot be used: the field and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class LeftOutError(RowError):
    """A row that is left out by a rule of its set and not for a fault: the field and the rule."""


class PartError(RowError):
    """Something that a record is made without: the field and the reason. The record stays."""


def response_name(number: int) -> str:
    """What a rating of kind `sample` calls a response, counted from 0."""
    return f"responses/{number}"
