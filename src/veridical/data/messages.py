"""Messages: who says what, as a list of typed blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict, cast


class Block(TypedDict):
    """A part of a message: of type "image" (the picture is in the row's `images`) or "text"."""

    type: str
    text: NotRequired[str]


class Message(TypedDict):
    """One turn, of the role "system", "user" or "assistant". Content is never a plain string."""

    role: str
    content: list[Block]
    reasoning_content: NotRequired[str]


def text_block(text: str) -> Block:
    """A block of text."""
    return {"type": "text", "text": text}


def user_message(text: str, images: int = 1) -> Message:
    """A user's turn: `images` image blocks, then the text."""
    blocks: list[Block] = [{"type": "image"} for _ in range(images)]
    return {"role": "user", "content": [*blocks, text_block(text)]}


def assistant_message(text: str) -> Message:
    """An assistant's turn of plain text."""
    return {"role": "assistant", "content": [text_block(text)]}


def text_of(messages: Message | Sequence[Message]) -> str:
    """The text of a message, or of several, one line each; images have none.

    Of rows that nobody has checked, content may be a plain string.
    """
    several = messages if isinstance(messages, Sequence) else [messages]
    return "\n".join(_text(message["content"]) for message in several)


def _text(content: list[Block] | str) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content if block["type"] == "text")


def without_images(messages: Iterable[Message]) -> list[Message]:
    """The messages with their text alone."""
    return [
        {**message, "content": [block for block in message["content"] if block["type"] != "image"]}
        for message in messages
    ]


def count_images(messages: Iterable[Message]) -> int:
    """How many image blocks the messages hold."""
    blocks = (block for message in messages for block in message["content"])
    return sum(block.get("type") == "image" for block in blocks)


def clean_messages(messages: Iterable[Mapping[str, object]]) -> list[Message]:
    """Messages in the one form that the rest of the code knows.

    Plain strings become a text block. Keys that hold nothing are left out: Arrow gives every
    block of a column the same keys and fills the others with None.

    Args:
        messages: with a role and a content each, whose form has been checked.
    """
    return [_clean_message(message) for message in messages]


def _clean_message(message: Mapping[str, object]) -> Message:
    role, content = cast(str, message["role"]), message["content"]
    if isinstance(content, str):
        return {"role": role, "content": [text_block(content)]}
    blocks = [
        {key: value for key, value in block.items() if value is not None}
        for block in cast("Iterable[Mapping[str, object]]", content)
    ]
    return {"role": role, "content": cast("list[Block]", blocks)}
