"""Messages of a row: text, blocks, or LLaVA's turns, into messages of blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from veridical.data.messages import (
    Block,
    Message,
    assistant_message,
    clean_messages,
    count_images,
    text_of,
)
from veridical.data.record_kinds import TAG, RowError
from veridical.data.record_names import ROLES
from veridical.runtime.progress import counted

_PLACE_OF_PICTURE = re.compile(r"^\s*<image>|<image>\s*$", re.M)
# Messages as Python prints them, which is not JSON.
_PRINTED = re.compile(r"\s*\[?\s*\{\s*'(?:role|from|content|value)'\s*:")


def read_messages(row: Mapping[str, object], field: str, images: int) -> list[Message]:
    """A field's messages, in which every image has its block.

    Raises:
        RowError: they are of another form, or mark other images than the row has.
    """
    value = row.get(field)
    if value is None:
        raise RowError(field, "is missing")
    refuse_printed(value, field)
    if isinstance(value, str) and field == "prompt":
        value = [{"role": "user", "content": value}]
    if not isinstance(value, Sequence) or isinstance(value, str):
        form = "a list of messages" if field == "messages" else "text or a list of messages"
        raise RowError(field, f"must be {form}, not {type(value).__name__}")
    if not value:
        raise RowError(field, "is empty")
    if all(isinstance(one, str) for one in value):
        more = "; more rejected ones go into more_rejected" if field == "rejected" else ""
        raise RowError(field, f"must be one text, not a list of {len(value)}{more}")
    for number, message in enumerate(value, start=1):
        _check_message(message, field, number)
    messages = clean_messages(value)
    if count_images(messages):
        return messages
    if not images:
        users = (item for item in messages if item["role"] == "user")
        if any(_PLACE_OF_PICTURE.search(text_of(item)) for item in users):
            raise RowError(field, f"{TAG} marks the place of an image, but the row has none")
        return messages
    tags = sum(text_of(item).count(TAG) for item in messages if item["role"] == "user")
    if tags:
        if tags != images:
            raise RowError(
                field,
                f"{counted(tags, f'{TAG} tags')} for {counted(images, 'images')}; write the "
                "content as blocks, with "
                f'{{"type": "image"}} for each image, if {TAG} is to be a part of the text',
            )
        return [_with_tags_as_blocks(message) for message in messages]
    first = next((index for index, item in enumerate(value) if item["role"] == "user"), None)
    # As TRL reads them: images of plain-string messages stand before the first question.
    if first is not None and isinstance(value[first]["content"], str):
        blocks: list[Block] = [{"type": "image"} for _ in range(images)]
        messages[first]["content"] = [*blocks, *messages[first]["content"]]
    return messages


def read_answer(value: object, field: str) -> list[Message]:
    """An answer, as one assistant turn.

    Raises:
        RowError: it is empty, or something else.
    """
    refuse_printed(value, field)
    if isinstance(value, str):
        value = [assistant_message(value)]
    messages = read_messages({field: value}, field, images=0)
    if [message["role"] for message in messages] != ["assistant"]:
        roles = ", ".join(str(message["role"]) for message in messages) or "nothing"
        raise RowError(field, f"must be one assistant turn, not {roles}")
    if count_images(messages):
        raise RowError(field, "an answer cannot hold image blocks")
    if not text_of(messages).strip():
        raise RowError(field, "is empty")
    return messages


def check_turns(field: str, messages: list[Message], last: str, images: int) -> None:
    """Optional system, then user and assistant in turn up to `last`; one block per image."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expected = ["user" if index % 2 == 0 else "assistant" for index in range(len(turns))]
    roles = [message["role"] for message in turns]
    if not roles or roles != expected or roles[-1] != last:
        order = ", ".join(roles) or "none"
        raise RowError(field, f"roles must alternate from user to a last {last}, not: {order}")
    for message in turns:
        if message["role"] == "assistant":
            if count_images([message]):
                raise RowError(field, "an assistant turn cannot hold image blocks")
            if not text_of(message).strip():
                raise RowError(field, "an assistant turn is empty")
    blocks = count_images(messages)
    if blocks != images:
        hint = (
            f"; beside image blocks {TAG} in a text is not an image" if TAG in str(messages) else ""
        )
        raise RowError(
            field, f"{counted(blocks, 'image blocks')} for {counted(images, 'images')}{hint}"
        )


def read_llava_turns(conversations: object, images: int) -> list[Message]:
    """LLaVA's turns `{"from": "human"|"gpt", "value": text}`; `<image>` stands for an image."""
    field = "conversations"
    if not isinstance(conversations, list) or not conversations:
        raise RowError(field, "must be a list of turns, and not an empty one")
    messages: list[Message] = []
    for number, turn in enumerate(conversations, start=1):
        role = ROLES.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        value = turn.get("value") if isinstance(turn, Mapping) else None
        if role is None or not isinstance(value, str):
            raise RowError(field, f"turn {number} must have from (human or gpt) and value (text)")
        if role == "assistant" and TAG in value:
            raise RowError(field, f"turn {number}: an answer holds an <image> placeholder")
        messages.append({"role": role, "content": _llava_blocks(value)})
    placeholders = count_images(messages)
    if placeholders != images:
        raise RowError(
            field,
            f"{counted(placeholders, '<image> placeholders')} for {counted(images, 'images')}",
        )
    return messages


def refuse_printed(value: object, field: str) -> None:
    """Refuse messages that were stored as Python prints them.

    Raises:
        RowError: the text is that.
    """
    if isinstance(value, str) and _PRINTED.match(value):
        raise RowError(field, "is messages in a text as Python prints them; write a list, or JSON")


def _check_message(message: object, field: str, number: int) -> None:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise RowError(field, f"message {number} must have a role and a content")
    if message["role"] not in ("system", "user", "assistant"):
        raise RowError(field, f"message {number} has the role {message['role']!r}")
    if message.get("tool_calls"):
        raise RowError(field, f"message {number} calls tools, which are not read")
    content = message["content"]
    if isinstance(content, str):
        return
    if not isinstance(content, Sequence):
        raise RowError(field, f"message {number}: content must be a list of blocks")
    for block in content:
        if not isinstance(block, Mapping):
            raise RowError(field, f"message {number}: a block must be an object with a type")
        filled = {key for key, value in block.items() if value is not None}
        if filled == {"type"} and block["type"] == "image":
            continue
        is_text = filled == {"type", "text"} and block["type"] == "text"
        if is_text and isinstance(block["text"], str):
            continue
        raise RowError(
            field,
            f"message {number}: a block must be {{'type': 'image'}} (its picture in `images`) or "
            f"{{'type': 'text', 'text': ...}}, not one with {', '.join(sorted(map(str, filled)))}",
        )


def _with_tags_as_blocks(message: Message) -> Message:
    """A user's turn in which every `<image>` marks where a picture belongs."""
    if message["role"] != "user":
        return message
    blocks = (_llava_blocks(block["text"]) for block in message["content"])
    return {**message, "content": [part for blocks_of_one in blocks for part in blocks_of_one]}


def _llava_blocks(value: str) -> list[Block]:
    blocks: list[Block] = []
    for number, part in enumerate(value.split(TAG)):
        if number:
            blocks.append({"type": "image"})
        # The line break beside a placeholder belongs to it; the chat template brings its own.
        text = part.strip("\n") if TAG in value else part
        if text:
            blocks.append({"type": "text", "text": text})
    return blocks


def as_list(value: object, field: str) -> Sequence[object]:
    """The value, if it is a list.

    Raises:
        RowError: it is none.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(field, f"must be a list, not {type(value).__name__}")
    return value
