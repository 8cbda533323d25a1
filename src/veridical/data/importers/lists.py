"""Lists of chosen and rejected answers to one image: every two of them are a pair.

HA-DPO's descriptions are an object of such lists by image, or a list of rows with `image_id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import Kind, RowError
from veridical.runtime.randomness import generator

SUMMARY = "lists of `chosen` and of `rejected` answers by the id of an image"
_SIDES = ("chosen", "rejected")

READS: tuple[str, ...] = ("image_id",)
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    if all(_are_texts(row.get(side)) for side in _SIDES):
        return Fit("its chosen and rejected are lists of texts", "preference")
    return None


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """A pair for every two answers."""
    del kind
    identity = row.get("image_id", row.get("id"))
    if identity is None:
        raise RowError("image_id", "is missing")
    for side in _SIDES:
        if not _are_texts(row.get(side)):
            raise RowError(side, "must be a list of texts, and not an empty one")
    rest = {n: v for n, v in row.items() if n not in ("id", "image_id", *_SIDES)}
    if not any(rest.get(name) is not None for name in ("image", "images")):
        rest["images"] = [identity]
    if not any(rest.get(name) is not None for name in ("question", "prompt")):
        rest["prompt"] = _question(str(identity), rules)
    for one, better in enumerate(row["chosen"]):
        for other, worse in enumerate(row["rejected"]):
            name = f"{identity}/{one}-{other}"
            yield rest | {"id": name, "chosen": better, "rejected": worse}


def _question(identity: str, rules: Rules) -> str:
    if not rules.questions:
        raise RowError("prompt", "the row has no question; give one or several with --questions")
    chosen = generator(0, "question", identity).integers(len(rules.questions))
    return rules.questions[int(chosen)]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
