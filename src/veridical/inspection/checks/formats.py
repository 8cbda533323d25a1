"""Marks of form that one of the two answers has far more often: a guess that needs no image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from veridical.inspection.checks.special_tokens import END_TOKENS
from veridical.inspection.findings import Finding, Repair
from veridical.inspection.traces import Traces

NAME = "format"
END_MARKS = re.compile(rf"(?:\s*(?:{'|'.join(map(re.escape, END_TOKENS))}|###))+\s*\Z")
FEWEST = 10
"""Pairs in which only one answer has a mark, below which nothing is said (our choice)."""
SHARE_OF_ROWS, ONE_SIDED = 0.01, 0.8
"""A mark is reported where it tells the answers apart in this share of the pairs or more, and is
on the same side in this share of them or more (our choices)."""


@dataclass(frozen=True)
class Mark:
    """What an answer's form can have: `has(text)`."""

    words: str
    has: Callable[[str], object]
    repair: Repair = ""


_MARKDOWN = re.compile(r"^#{1,6} |\*\*\S|^\s*(?:[-*+]|\d+[.)]) +\S|```|^\|.*\|$", re.M)


def _last_letter(text: str) -> str:
    return END_MARKS.sub("", text).rstrip()[-1:]


_ENDS = ".!?\u3002\uff01\uff1f"
MARKS: tuple[Mark, ...] = (
    Mark("begins with white space", lambda text: text != text.lstrip(), "strip"),
    Mark("ends with white space", lambda text: text != text.rstrip(), "strip"),
    Mark("ends with an end mark such as </s>", END_MARKS.search, "strip"),
    Mark("ends with a punctuation mark", lambda text: _last_letter(text) in _ENDS),
    Mark("has Markdown", _MARKDOWN.search),
    Mark("has several paragraphs", lambda text: "\n" in text.strip()),
    Mark("begins with a small letter", lambda text: text.lstrip()[:1].islower()),
    Mark("is all capitals", lambda text: text.isupper() and len(text) > 3),
    Mark("is cut off inside a sentence", re.compile(r"(?:\w-|,|\b(?:a|the|of))\s*\Z").search),
)  # fmt: skip


def format_bits(answers: Mapping[str, str]) -> tuple[int, int]:
    """A bit for each of `MARKS`, of the chosen and of the rejected answer."""
    chosen, rejected = (answers.get(name, "") for name in ("chosen", "rejected"))
    return _bits(chosen), _bits(rejected)


def _bits(text: str) -> int:
    return sum(1 << place for place, mark in enumerate(MARKS) if text and mark.has(text))


def check_formats(traces: Traces) -> Iterator[Finding]:
    """No mark of form tells which answer is chosen."""
    if traces.kind != "preference":
        return
    for place, mark in enumerate(MARKS):
        only = _only_in_one(traces, place)
        seen = sum(only)
        if seen < max(FEWEST, SHARE_OF_ROWS * traces.rows) or max(only) < ONE_SIDED * seen:
            continue
        side = "chosen" if only[0] > only[1] else "rejected"
        yield Finding(
            NAME,
            "warning",
            0,
            "",
            f"only one answer {mark.words} in {seen:,} of {traces.rows:,} pairs, the {side} one in "
            f"{100 * max(only) / seen:.0f} % of them",
            "write both answers in the same form; a model can learn the form instead of the image",
            mark.repair,
        )


def _only_in_one(traces: Traces, mark: int) -> tuple[int, int]:
    """In how many pairs only the chosen, and only the rejected answer has a mark."""
    only = [0, 0]
    for (chosen, rejected), pairs in traces.marks.items():
        if (chosen ^ rejected) >> mark & 1:
            only[rejected >> mark & 1] += pairs
    return only[0], only[1]
