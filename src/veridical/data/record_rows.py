"""One row, as somebody wrote it, into the form of its kind, or the reason why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from veridical.data.messages import (
    Message,
    text_of,
)
from veridical.data.record_fields import naming, read_images, read_optional
from veridical.data.record_kinds import (
    MESSAGE_FIELDS,
    OPTIONAL_FIELDS,
    Kind,
    RowError,
    response_name,
)
from veridical.data.record_messages import (
    as_list,
    check_turns,
    read_answer,
    read_llava_turns,
    read_messages,
    refuse_printed,
)
from veridical.data.record_names import LABELED_BAD, is_labeled_bad
from veridical.data.record_spans import check_prefix, check_spans
from veridical.data.record_types import CheckedRow

_READ_INSTEAD = {"images": ("image",), "messages": ("conversations",)}


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
    images = read_images(row)
    record: CheckedRow = {"id": _identity(row), "images": images}
    if kind == "preference":
        record |= _preference(row, len(images))
    elif kind in ("prompt", "sample", "unpaired"):
        record["prompt"] = read_messages(row, "prompt", len(images))
        check_turns("prompt", record["prompt"], last="user", images=len(images))
    elif row.get("messages") is None and row.get("conversations") is not None:
        record["messages"] = read_llava_turns(row["conversations"], len(images))
    else:
        record["messages"] = read_messages(row, "messages", len(images))
    if kind == "conversation":
        if is_labeled_bad(row):
            raise RowError("label", LABELED_BAD)
        check_turns("messages", record["messages"], last="assistant", images=len(images))
    if kind == "sample":
        record["responses"] = _responses(row)
    if kind == "unpaired":
        record |= _labeled(row)
    record |= read_optional(row, kind, len(images))
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
    refuse_printed(prompt, "prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    record: CheckedRow = {
        "prompt": read_messages({"prompt": prompt}, "prompt", images),
        "chosen": read_answer(chosen, "chosen"),
        "rejected": read_answer(rejected, "rejected"),
    }
    check_turns("prompt", record["prompt"], last="user", images=images)
    distorted = any(row.get(f"rejected_{what}") is not None for what in ("images", "masked"))
    same = text_of(record["chosen"]).strip() == text_of(record["rejected"]).strip()
    if same and not distorted:
        raise RowError("rejected", "is the same as chosen")
    return record


def _split_implicit_prompt(
    row: Mapping[str, object],
) -> tuple[list[object], list[object], list[object]]:
    if isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise RowError("prompt", "is missing, and plain text answers cannot hold it")
    chosen, rejected = (list(as_list(row[field], field)) for field in ("chosen", "rejected"))
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
    responses = [
        read_answer(answer, "responses") for answer in as_list(row["responses"], "responses")
    ]
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
    return {"completion": read_answer(row["completion"], "completion"), "label": bool(label)}


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
    with naming("answer_prefix"):
        if "answer_prefix" in record:
            check_prefix(record["answer_prefix"], texts)
    with naming("span_weights"):
        check_spans(record.get("span_weights", []), texts)


def _texts_by_name(record: CheckedRow) -> dict[str, str]:
    """The texts of a pair's answers, under the names that ratings and weights have for them."""
    more = {f"more_rejected/{i}": one for i, one in enumerate(record.get("more_rejected", []))}
    own = {"chosen": record.get("chosen", []), "rejected": record.get("rejected", [])} | more
    return {name: text_of(answer) for name, answer in own.items()}
