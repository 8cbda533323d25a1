"""The fields of a row beside its messages: images, ratings, weights, facts and the like."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from veridical.data.record_kinds import OPTIONAL_FIELDS, Kind, RowError
from veridical.data.record_messages import as_list, read_answer
from veridical.data.record_names import is_base64
from veridical.data.record_spans import read_prefix, read_span
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow, ImageCell, Rating
from veridical.runtime.progress import counted


def read_optional(row: Mapping[str, object], kind: Kind, images: int) -> CheckedRow:
    """The optional fields that a row has, checked one by one.

    Raises:
        RowError: the first that is wrong.
    """
    given = {name: row[name] for name in OPTIONAL_FIELDS[kind] if row.get(name) is not None}
    found: CheckedRow = {}
    for field in IMAGE_FIELDS[1:]:
        if field in given:
            found[field] = read_images(row, field)
            if len(found[field]) != images:
                own = counted(len(found[field]), "images")
                raise RowError(field, f"{own}, but `images` has {images}")
    if "rejected_masked" in given:
        found["rejected_masked"] = _share(given["rejected_masked"], "rejected_masked", images)
    if "contrast_masked" in given:
        found["contrast_masked"] = _share(given["contrast_masked"], "contrast_masked", images)
    if "contrast_chosen" in given:
        found["contrast_chosen"] = read_answer(given["contrast_chosen"], "contrast_chosen")
        if "contrast_images" not in found:
            raise RowError("contrast_chosen", "answers contrast_images, and there are none")
    if "more_rejected" in given:
        answers = as_list(given["more_rejected"], "more_rejected")
        found["more_rejected"] = [read_answer(answer, "more_rejected") for answer in answers]
    if "ratings" in given:
        found["ratings"] = [_rating(rating) for rating in as_list(given["ratings"], "ratings")]
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


def read_images(row: Mapping[str, object], field: str = "images") -> list[ImageCell]:
    """The references to a row's images, as paths or bytes.

    Raises:
        RowError: one is neither.
    """
    value = row.get(field)
    if field == "images" and row.get("image") is not None:
        if value is not None:
            raise RowError("image", "there is an `images` field too; keep one of the two")
        value = row["image"]
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [_image_reference(item, field) for item in values]


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Say of which field a `ValueError` is."""
    try:
        yield
    except ValueError as error:
        raise RowError(field, str(error)) from None


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


def _parts(given: Mapping[str, object]) -> CheckedRow:
    """What a pair says of parts of its answers."""
    found: CheckedRow = {}
    with naming("answer_prefix"):
        prefix = read_prefix(given.get("answer_prefix", ""))
        if prefix:
            found["answer_prefix"] = prefix
    if "span_weights" in given:
        entries = as_list(given["span_weights"], "span_weights")
        with naming("span_weights"):
            found["span_weights"] = [read_span(entry) for entry in entries]
    return found


def _source(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RowError("source", f"can't be kept as JSON ({error})") from error


def _texts(value: object) -> list[str]:
    values = [value] if isinstance(value, str) else as_list(value, "facts")
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


def _share(value: object, field: str, images: int) -> float:
    """The share of image tokens that are hidden."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 < number <= 1:
        raise RowError(field, f"{value!r:.40} must be a share of image tokens, above 0 to 1")
    if not images:
        raise RowError(field, "the row has no image whose tokens could be hidden")
    return float(number)


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
