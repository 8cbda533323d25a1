"""Answers that are empty, equal, or refuse to answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row
from veridical.inspection.texts import without_form

EMPTY, EQUAL, REFUSAL = "empty answers", "equal answers", "refusals"
FIRST = 200
"""Letters of an answer in which it is looked for a refusal: longer ones go on to something else."""
_REFUSES = re.compile(
    r"\bI(?:['\u2019]m| am) (?:really |very |so )?sorry,? (?:but )?(?:I|as an|there|this)"
    r"|\b(?:I|we) (?:can['\u2019]?t|cannot|can not|am unable to|['\u2019]m unable to|'m not able to"
    r"|am not able to|won['\u2019]t) (?:help|assist|comply|provide|answer|fulfil|see|view|access"
    r"|identify|process|discuss|continue|support|display)"
    r"|\bI(?:['\u2019]m| am) (?:unable|not able) to\b"
    r"|\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|\bI (?:must|have to) decline\b|\bno image (?:was|is|has been) (?:provided|attached|visible)"
    r"|(?:抱歉|对不起)[\uff0c,]?\s*我|无法(?:回答|提供|协助|查看)",
    re.I,
)  # fmt: skip

_HINTS = (
    "sorry", "can't", "can\u2019t", "cannot", "can not", "unable", "not able", "won't",
    "won\u2019t", " ai", "language model", "intelligence", "decline", "have to", "no image",
    "抱歉", "对不起", "无法",
)  # fmt: skip
"""One of these is in whatever the pattern finds; looking for them first is ten times as fast."""


def check_empty(row: Row) -> Iterator[Finding]:
    """Check that every answer has text."""
    for name, text in row.answers.items():
        if not text.strip():
            yield Finding(
                EMPTY, "error", row.number, row.id, f"{name} is empty",
                "write the answer, or take the row out", "drop",
            )  # fmt: skip


def check_equal(row: Row) -> Iterator[Finding]:
    """Check that chosen and rejected differ in more than their form."""
    answers, distorted = row.answers, row.named.get("rejected_images") is not None
    if row.kind != "preference" or distorted or len(answers) < 2:
        return
    chosen, rejected = answers["chosen"], answers["rejected"]
    if not chosen.strip() or without_form(chosen) != without_form(rejected):
        return
    same = chosen.strip() == rejected.strip()
    yield Finding(
        EQUAL,
        "error" if same else "warning",
        row.number,
        row.id,
        "chosen and rejected are the same"
        if same
        else "chosen and rejected differ only in case, white space, punctuation or Markdown",
        "take the row out: its answers do not differ in anything that an image shows",
        "drop",
    )


def check_refusals(row: Row) -> Iterator[Finding]:
    """Check that no answer is a refusal."""
    for name, text in row.answers.items():
        head = text[:FIRST].lower()
        found = _REFUSES.search(head) if any(hint in head for hint in _HINTS) else None
        if found is not None:
            yield Finding(
                REFUSAL, "warning", row.number, row.id, f"{name} refuses: {found.group()!r}",
                "read it: a chosen refusal teaches refusing, a rejected one teaches answering "
                "whatever is asked",
            )  # fmt: skip
