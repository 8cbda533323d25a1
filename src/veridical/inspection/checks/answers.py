"""Answers that are empty, equal, or refuse to answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row
from veridical.inspection.texts import visible, without_form

EMPTY, EQUAL, REFUSAL = "empty answers", "equal answers", "refusals"
FIRST = 200
"""Letters of an answer in which it is looked for a refusal: longer ones go on to something else."""
_UNABLE = (
    r"\b(?:I|we)(?: (?:can['\u2019]?t|cannot|can not|won['\u2019]t|will not"
    r"|(?:am|are) (?:unable|not able) to)|['\u2019](?:m|re) (?:unable|not able) to)"
)
_REFUSES = re.compile(
    r"\bI(?:['\u2019]m| am) (?:really |very |so )?sorry,? (?:but )?(?:I|as an|there|this)"
    rf"|{_UNABLE} (?:help|assist|comply)\b(?! but)"
    rf"|{_UNABLE} (?:see|view|access|open|display)(?: or \w+)? (?:\w+ )?(?:image|picture|photo)s?\b"
    r"|\bas an? (?:AI(?:,| (?:language )?(?:model|assistant|system|chatbot)\b)"
    r"|artificial intelligence|(?:large )?language model)"
    r"|\bI (?:must|have to) decline\b|\bno image (?:was|is|has been) (?:provided|attached|visible)"
    r"|(?:抱歉|对不起)[\uff0c,]?\s*我|无法(?:回答|提供|协助|查看)|申し訳(?:ありません|ございません)|죄송(?:합니다|하지만)"
    r"|\b(?:es )?tut mir leid,? (?:aber )?(?:ich|als|dabei)"
    r"|\bje suis désolée?,? (?:mais )?(?:je|en tant)"
    r"|\blo siento,? (?:pero )?(?:no|como)\b",
    re.I,
)  # fmt: skip
"""What refuses wherever it stands."""
_BEGINS = re.compile(
    r"\W*(?:(?:I(?:['\u2019]m| am) )?sorry\W+(?:but )?|unfortunately\W+"
    r"|I apologi[sz]e\W+(?:but )?)?"
    rf"{_UNABLE} (?!see\b|find\b|spot\b|detect\b|notice\b|make out\b|help but\b)\w+",
    re.I,
)
"""What refuses if nothing else is said: "I cannot see a dog" is an answer."""
_PIECES = re.compile(r"(?<=[.!?;])\s+|\n+|,? (?:but|however|although|though)\b", re.I)
_OF_ITSELF = re.compile(r"\b(?:I|me|my|you|your|please)\b", re.I)
_GOES_ON = re.compile(r"\bI (?:can|do|could) (?!not\b|help\b|assist\b|try\b)|\bI see\b", re.I)
_HINTS = (
    "sorry", "can't", "cant ", "can\u2019t", "cannot", "can not", "unable", "not able", "won't",
    "won\u2019t", "will not", " ai", "language model", "intelligence", "decline", "have to",
    "no image", "抱歉", "对不起", "无法", "申し訳", "죄송", "tut mir", "je suis", "lo siento",
    "apologi",
)  # fmt: skip
"""One of these is in whatever the patterns find; looking for them first is ten times as fast."""


def refusal_in(answer: str) -> str | None:
    """The words by which an answer refuses; None if it answers, if only in part.

    A hedge is not a refusal: "I can't tell the breed, but it is a brown dog."
    """
    head = answer[:FIRST]
    lower = head.lower()
    if not any(hint in lower for hint in _HINTS):
        return None
    found = _REFUSES.search(head)
    if found is not None:
        return found.group()
    found = _BEGINS.match(head)
    if found is None:
        return None
    more = [piece for piece in _PIECES.split(answer[found.end() :])[1:] if piece.strip()]
    answers = any(not _OF_ITSELF.search(piece) or _GOES_ON.search(piece) for piece in more)
    return None if answers else found.group().strip()


def check_empty(row: Row) -> Iterator[Finding]:
    """Check that every answer has text."""
    for name, text in row.answers.items():
        if not visible(text).strip():
            yield Finding(
                EMPTY, "error", row.number, row.id, f"{name} is empty",
                "write the answer, or take the row out", "drop",
            )  # fmt: skip


def check_equal(row: Row) -> Iterator[Finding]:
    """Check that chosen and rejected differ in more than their form."""
    answers, seen = row.answers, ("rejected_images", "rejected_masked")
    distorted = any(row.named.get(name) is not None for name in seen)
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
        found = refusal_in(text)
        if found is not None:
            yield Finding(
                REFUSAL, "warning", row.number, row.id, f"{name} refuses: {found!r}",
                "read it: a chosen refusal teaches refusing, a rejected one teaches answering "
                "whatever is asked",
            )  # fmt: skip
