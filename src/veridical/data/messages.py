"""Messages: who says what, as a list of typed blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Message = dict[str, Any]
"""`{"role": "system"|"user"|"assistant", "content": [{"type": "image"} |
{"type": "text", "text": str}, ...]}`. Content is never a plain string."""


def user_message(text: str, images: int = 1) -> Message:
    """A user's turn: `images` image blocks, then the text."""
    blocks: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}


def assistant_message(text: str) -> Message:
    """An assistant's turn of plain text."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def text_of(messages: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message, or of several, one line each; images have none."""
    if isinstance(messages, Mapping):
        messages = [messages]
    return "\n".join(_message_text(message) for message in messages)


def count_images(messages: Iterable[Mapping[str, Any]]) -> int:
    """How many image blocks the messages hold."""
    blocks = (block for message in messages for block in message["content"])
    return sum(block.get("type") == "image" for block in blocks)


def clean_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Messages in the one form that the rest of the code knows.

    Plain strings become a text block. Keys that hold nothing are left out: Arrow gives every
    block of a column the same keys and fills the others with None.
    """
    return [_clean_message(message) for message in messages]


def _message_text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content if block["type"] == "text")


def _clean_message(message: Mapping[str, Any]) -> Message:
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = [
        {key: value for key, value in block.items() if value is not None} for block in content
    ]
    return {"role": message["role"], "content": blocks}
