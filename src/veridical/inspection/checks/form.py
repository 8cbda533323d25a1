"""Rows that commands would leave out for a reason that no other check covers."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.data.column_names import TWICE
from veridical.data.record_checks import MISSING
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "form"
_FIXES = {
    "row": "write each row as one JSON object, complete and on one line of a .jsonl file",
    "prompt": "write the question as text in `prompt`, or as messages that end with a user's turn",
    "chosen": "write the answer as text, or as one assistant message",
    "rejected": "write the answer as text, or as one assistant message",
    "messages": "write messages with `role` and `content`, user and assistant in turn",
    "responses": "write a list of answers, each a text or one assistant message",
    "images": "give each image as a path, or as the bytes of its file",
    "image": "give each image as a path, or as the bytes of its file",
    "id": "write ids as text, a different one for each row, or leave them out",
    "ratings": "write ratings as {answer, aspect, value}, of answers that the row has",
    "facts": "write facts as a list of texts",
    "answer_prefix": "write all answers of the pair whole, with the prefix at their beginning",
    "span_weights": "write weights as {answer, start, end, weight}, in characters of that answer",
}


def check_form(row: Row) -> Iterator[Finding]:
    """The row can be read."""
    if row.refusal is None:
        return
    field, reason = row.refusal.field, row.refusal.reason
    fix = _FIXES.get(field, "write the field as docs/data.md describes it")
    if TWICE in reason:
        fix = "keep one of the two columns"
    if reason == MISSING and field in ("chosen", "rejected", "prompt", "messages"):
        fix += "; if the column has another name, set it with `veridical data import --columns`"
    yield Finding(NAME, "error", row.number, row.id, f"{field}: {reason}", fix, "drop")
