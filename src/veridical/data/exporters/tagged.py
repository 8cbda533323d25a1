"""Messages as plain texts with `<image>` tags, and what such texts can't hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veridical.data.importers.extras import packed
from veridical.data.messages import Message
from veridical.data.record_kinds import MESSAGE_FIELDS, OPTIONAL_FIELDS, TAG, Kind, RowError
from veridical.data.record_rows import normalize
from veridical.data.record_types import IMAGE_FIELDS

LLAVA_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def tagged(message: Message) -> str:
    """A message's text with a tag where each picture belongs, on a line of its own.

    Raises:
        RowError: the text itself holds a tag, which would be taken for a picture.
    """
    parts: list[str] = []
    blocks = message["content"]
    for number, block in enumerate(blocks):
        if block["type"] == "text":
            if TAG in block["text"]:
                raise RowError("prompt", f"its text holds {TAG}, which would become a picture")
            parts.append(block["text"])
            continue
        if parts and not parts[-1].endswith("\n"):
            parts.append("\n")
        last = number + 1 == len(blocks)
        parts.append(TAG if last or blocks[number + 1]["type"] == "image" else f"{TAG}\n")
    return "".join(parts)


def text_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages of `role` and a text."""
    return [{"role": message["role"], "content": tagged(message)} for message in messages]


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Turns of `from` and `value`, as LLaVA has them."""
    return [
        {"from": LLAVA_ROLES[message["role"]], "value": tagged(message)} for message in messages
    ]


def rest(record: Mapping[str, Any], kind: Kind, held: Sequence[str] = ()) -> dict[str, str]:
    """The column of what the format has no place for, so that an import gives the same record.

    Args:
        record: the whole record.
        kind: of it.
        held: optional columns that the format has.
    """
    fields = ["id", *(name for name in OPTIONAL_FIELDS[kind] if name not in held)]
    values = {name: record.get(name) for name in fields if name not in IMAGE_FIELDS}
    as_text = {name: text_messages(record[name]) for name in MESSAGE_FIELDS[kind]}
    read: Mapping[str, object] = normalize({"images": list(record["images"]), **as_text}, kind)
    changed = {name: record[name] for name in MESSAGE_FIELDS[kind] if read[name] != record[name]}
    return packed(values | changed)


def refuse_other_images(record: Mapping[str, object], held: Sequence[str] = ()) -> None:
    """Refuse a pair with images that an answer is read with in place of the prompt's.

    Args:
        record: the pair.
        held: columns of such images that the format has.

    Raises:
        RowError: it has others, and the format has no place for them.
    """
    for name in IMAGE_FIELDS[1:]:
        if name not in held and record.get(name) is not None:
            raise RowError(name, "the format has no images beside the prompt's")
