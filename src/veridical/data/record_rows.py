"""One row, as somebody wrote it, into the form of its kind, or the reason why not."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from veridical.data.messages import (
    Block,
    Message,
    assistant_message,
    clean_messages,
    count_images,
    text_of,
)
from veridical.data.record_names import LABELED_BAD, ROLES, is_base64, is_labeled_bad
from veridical.data.record_spans import check_prefix, check_spans, read_prefix, read_span
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow, ImageCell, Rating
from veridical.runtime.progress import counted

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
_READ_INSTEAD = {"images": ("image",), "messages": ("conversations",)}
_PLACE_OF_PICTURE = re.compile(r"^\s*<image>|<image>\s*$", re.M)
# Messages as Python prints them, which is no JSON.
_PRINTED = re.compile(r"\s*\[?\s*\{\s*'(?:role|from|content|value)'\s*:")

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


def known_fields(kind: Kind) -> set[str]:
    """The columns that a row of this kind is read from."""
    fields = {"id", "images", *MESSAGE_FIELDS[kind], *OPTIONAL_FIELDS[kind]}
    return fields | {other for field in fields for other in _READ_INSTEAD.get(field, ())}


def normalize(row: object, kind: Kind) -> CheckedRow:
    """The row with typed blocks, `images` as a list of references and `id` as text or "".

    Raises:
        RowError: the first thing that is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise RowError("row", f"not a JSON object but {type(row).__name__}")
    _check_unicode(row)
    images = _image_references(row)
    record: CheckedRow = {"id": _identity(row), "images": images}
    if kind == "preference":
        record |= _preference(row, len(images))
    elif kind in ("prompt", "sample", "unpaired"):
        record["prompt"] = _messages(row, "prompt", len(images))
        _check_turns("prompt", record["prompt"], last="user", images=len(images))
    elif row.get("messages") is None and row.get("conversations") is not None:
        record["messages"] = _llava_messages(row["conversations"], len(images))
    else:
        record["messages"] = _messages(row, "messages", len(images))
    if kind == "conversation":
        if is_labeled_bad(row):
            raise RowError("label", LABELED_BAD)
        _check_turns("messages", record["messages"], last="assistant", images=len(images))
    if kind == "sample":
        record["responses"] = _responses(row)
    if kind == "unpaired":
        record |= _labeled(row)
    record |= _optional(row, kind, len(images))
    if kind in ("preference", "sample"):
        _check_answers(record)
    return record


def content_id(record: CheckedRow) -> str:
    """An id for a row that has none: 16 hex digits of its messages and image references.

    It stays the same when rows are reordered, added or removed.
    """
    images = [
        hashlib.sha256(image["bytes"]).hexdigest() if image["bytes"] else image["path"]
        for image in record["images"]
    ]
    turns = (record.get("prompt"), record.get("chosen"), record.get("rejected"))
    fields: list[object] = [*turns, record.get("messages")]
    if "responses" in record:
        fields.append(record["responses"])
    if "completion" in record:
        fields += [record["completion"], record["label"]]
    text = json.dumps([images, fields], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_unicode(value: object) -> None:
    """JSON may hold half a surrogate pair, which no file and no tokenizer takes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError("row", f"{value[:40]!a} is not whole Unicode text") from error
    elif isinstance(value, Mapping):
        for item in value.values():
            _check_unicode(item)
    elif isinstance(value, list):
        for item in value:
            _check_unicode(item)


def _identity(row: Mapping[str, object]) -> str:
    value = row.get("id")
    if value is None:
        return ""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise RowError("id", f"must be text or a whole number, not {type(value).__name__}")
    return str(value)


def _image_references(row: Mapping[str, object], field: str = "images") -> list[ImageCell]:
    value = row.get(field)
    if field == "images" and row.get("image") is not None:
        if value is not None:
            raise RowError("image", "there is an `images` field too; keep one of the two")
        value = row["image"]
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [_image_reference(item, field) for item in values]


def _image_reference(value: object, field: str) -> ImageCell:
    if isinstance(value, str):
        if is_base64(value):
            raise RowError(field, "an image is base64 text; give a path, or decode it to bytes")
        return {"bytes": None, "path": value}
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes | None) and isinstance(path, str | None):
            if content or path:
                return {"bytes": content, "path": path}
            raise RowError(field, "an image has neither bytes nor a path")
    if value is None:
        raise RowError(field, "an image of the list is null")
    if isinstance(value, list):
        raise RowError(field, "an image is a list of numbers or lists; give the bytes of a file")
    raise RowError(field, f"an image must be a path or its bytes, not {type(value).__name__}")


def _preference(row: Mapping[str, object], images: int) -> CheckedRow:
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise RowError(field, "is missing")
    prompt: object
    chosen: object
    rejected: object
    if row.get("prompt") is None:
        prompt, chosen, rejected = _split_implicit_prompt(row)
    else:
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    _refuse_printed(prompt, "prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    record: CheckedRow = {
        "prompt": _messages({"prompt": prompt}, "prompt", images),
        "chosen": _answer(chosen, "chosen"),
        "rejected": _answer(rejected, "rejected"),
    }
    _check_turns("prompt", record["prompt"], last="user", images=images)
    distorted = row.get("rejected_images") is not None
    same = text_of(record["chosen"]).strip() == text_of(record["rejected"]).strip()
    if same and not distorted:
        raise RowError("rejected", "is the same as chosen")
    return record


def _split_implicit_prompt(
    row: Mapping[str, object],
) -> tuple[list[object], list[object], list[object]]:
    if isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise RowError("prompt", "is missing, and plain text answers cannot hold it")
    chosen, rejected = (list(_list(row[field], field)) for field in ("chosen", "rejected"))
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RowError("rejected", "is the same as chosen")
    if shared == 0:
        raise RowError("prompt", "is missing, and chosen and rejected share no first turn")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _responses(row: Mapping[str, object]) -> list[list[Message]]:
    if row.get("responses") is None:
        raise RowError("responses", "is missing")
    responses = [_answer(answer, "responses") for answer in _list(row["responses"], "responses")]
    if not responses:
        raise RowError("responses", "is empty")
    return responses


def _labeled(row: Mapping[str, object]) -> CheckedRow:
    """The answer of a row without a pair, and whether it is a good one."""
    for field in ("completion", "label"):
        if row.get(field) is None:
            raise RowError(field, "is missing")
    label = row["label"]
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise RowError("label", f"{label!r:.40} must be true (a good answer) or false (a bad one)")
    return {"completion": _answer(row["completion"], "completion"), "label": bool(label)}


def _check_answers(record: CheckedRow) -> None:
    """Ratings, weights and the prefix are of the answers that are there, which all differ."""
    more = record.get("more_rejected", [])
    answers = {"chosen", "rejected", *(f"more_rejected/{number}" for number in range(len(more)))}
    if "responses" in record:
        answers = {response_name(number) for number in range(len(record["responses"]))}
    for number, answer in enumerate(more):
        if text_of(answer).strip() == text_of(record["chosen"]).strip():
            raise RowError("more_rejected", f"answer {number} is the same as chosen")
    other = record.get("contrast_chosen")
    if other and text_of(other).strip() == text_of(record["chosen"]).strip():
        raise RowError("contrast_chosen", "is the same as chosen")
    for rating in record.get("ratings", []):
        if rating["answer"] not in answers:
            raise RowError(
                "ratings",
                f"rates {rating['answer']!r}, but there is {', '.join(sorted(answers))}",
            )
    texts = _texts_by_name(record)
    with _naming("answer_prefix"):
        if "answer_prefix" in record:
            check_prefix(record["answer_prefix"], texts)
    with _naming("span_weights"):
        check_spans(record.get("span_weights", []), texts)


def _texts_by_name(record: CheckedRow) -> dict[str, str]:
    """The texts of a pair's answers, under the names that ratings and weights have for them."""
    more = {f"more_rejected/{i}": one for i, one in enumerate(record.get("more_rejected", []))}
    own = {"chosen": record.get("chosen", []), "rejected": record.get("rejected", [])} | more
    return {name: text_of(answer) for name, answer in own.items()}


def response_name(number: int) -> str:
    """What a rating of kind `sample` calls a response, counted from 0."""
    return f"responses/{number}"


def _answer(value: object, field: str) -> list[Message]:
    _refuse_printed(value, field)
    if isinstance(value, str):
        value = [assistant_message(value)]
    messages = _messages({field: value}, field, images=0)
    if [message["role"] for message in messages] != ["assistant"]:
        roles = ", ".join(str(message["role"]) for message in messages) or "nothing"
        raise RowError(field, f"must be one assistant turn, not {roles}")
    if count_images(messages):
        raise RowError(field, "an answer cannot hold image blocks")
    if not text_of(messages).strip():
        raise RowError(field, "is empty")
    return messages


def _messages(row: Mapping[str, object], field: str, images: int) -> list[Message]:
    value = row.get(field)
    if value is None:
        raise RowError(field, "is missing")
    _refuse_printed(value, field)
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


def _with_tags_as_blocks(message: Message) -> Message:
    """A user's turn in which every `<image>` marks where a picture belongs."""
    if message["role"] != "user":
        return message
    blocks = (_llava_blocks(block["text"]) for block in message["content"])
    return {**message, "content": [part for blocks_of_one in blocks for part in blocks_of_one]}


def _refuse_printed(value: object, field: str) -> None:
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


def _check_turns(field: str, messages: list[Message], last: str, images: int) -> None:
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
        hint = f"; beside image blocks {TAG} in a text is no image" if TAG in str(messages) else ""
        raise RowError(
            field, f"{counted(blocks, 'image blocks')} for {counted(images, 'images')}{hint}"
        )


def _llava_messages(conversations: object, images: int) -> list[Message]:
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


def _optional(row: Mapping[str, object], kind: Kind, images: int) -> CheckedRow:
    given = {name: row[name] for name in OPTIONAL_FIELDS[kind] if row.get(name) is not None}
    found: CheckedRow = {}
    for field in IMAGE_FIELDS[1:]:
        if field in given:
            found[field] = _image_references(row, field)
            if len(found[field]) != images:
                own = counted(len(found[field]), "images")
                raise RowError(field, f"{own}, but `images` has {images}")
    if "contrast_chosen" in given:
        found["contrast_chosen"] = _answer(given["contrast_chosen"], "contrast_chosen")
        if "contrast_images" not in found:
            raise RowError("contrast_chosen", "answers contrast_images, and there are none")
    if "more_rejected" in given:
        answers = _list(given["more_rejected"], "more_rejected")
        found["more_rejected"] = [_answer(answer, "more_rejected") for answer in answers]
    if "ratings" in given:
        found["ratings"] = [_rating(rating) for rating in _list(given["ratings"], "ratings")]
    if "facts" in given:
        found["facts"] = _texts(given["facts"])
    if "expected_answer" in given:
        found["expected_answer"] = str(given["expected_answer"])
    if "beta_factor" in given:
        found["beta_factor"] = _factor(given["beta_factor"])
    found |= _parts(given)
    if "source" in given:
        found["source"] = _source(given["source"])
    return found


def _parts(given: Mapping[str, object]) -> CheckedRow:
    """What a pair says of parts of its answers."""
    found: CheckedRow = {}
    with _naming("answer_prefix"):
        prefix = read_prefix(given.get("answer_prefix", ""))
        if prefix:
            found["answer_prefix"] = prefix
    if "span_weights" in given:
        entries = _list(given["span_weights"], "span_weights")
        with _naming("span_weights"):
            found["span_weights"] = [read_span(entry) for entry in entries]
    return found


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Say of which field a `ValueError` is."""
    try:
        yield
    except ValueError as error:
        raise RowError(field, str(error)) from None


def _source(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RowError("source", f"can't be kept as JSON ({error})") from error


def _list(value: object, field: str) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(field, f"must be a list, not {type(value).__name__}")
    return value


def _texts(value: object) -> list[str]:
    values = [value] if isinstance(value, str) else _list(value, "facts")
    texts = [item for item in values if isinstance(item, str)]
    if len(texts) < len(values):
        raise RowError("facts", "must be a list of texts")
    return texts


def _factor(value: object) -> float:
    if not isinstance(value, int | float | str):
        raise RowError("beta_factor", f"{value!r} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise RowError("beta_factor", f"{value!r} is not a number") from error
    if not 0 < number < math.inf:
        raise RowError("beta_factor", f"{value!r} is not above 0 and finite")
    return number


def _rating(value: object) -> Rating:
    names = {"answer", "aspect", "value"}
    if not isinstance(value, Mapping) or not names <= value.keys():
        raise RowError("ratings", "a rating must have an answer, an aspect and a value")
    try:
        number = float(value["value"])
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError("ratings", f"{value['value']!r:.60} is not a number") from error
    if not math.isfinite(number):
        raise RowError("ratings", f"{value['value']!r} is not finite")
    return {"answer": str(value["answer"]), "aspect": str(value["aspect"]), "value": number}
