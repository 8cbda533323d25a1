"""RLHF-V's column `text`: JSON with `question`, `chosen` and `rejected`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import Kind, RowError
from veridical.runtime.files import JSON_ERRORS, error_in_words, parse_json

SUMMARY = "a column `text` that holds JSON with question, chosen and rejected"

READS: tuple[str, ...] = ("text",)
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    try:
        held = _parsed(row.get("text"))
    except RowError:
        return None
    if {"question", "chosen", "rejected"} <= held.keys():
        return Fit("its column text holds JSON with question, chosen and rejected", "preference")
    return None


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """One record."""
    del rules, kind
    held = _parsed(row.get("text"))
    # Its log-probabilities are of another model.
    wanted = {name: held[name] for name in ("question", "chosen", "rejected") if name in held}
    yield {name: value for name, value in row.items() if name != "text"} | wanted


def _parsed(text: object) -> Mapping[str, object]:
    if not isinstance(text, str):
        raise RowError("text", "is not text")
    try:
        held = parse_json(text)
    except JSON_ERRORS as error:
        raise RowError("text", f"is not JSON ({error_in_words(error)})") from error
    if not isinstance(held, Mapping):
        raise RowError("text", "is JSON, but no object")
    return held
