"""Places in an answer where a word can be changed into a mistake, and the change itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from veridical.data.text.english import article, plural

MistakeKind = Literal["object", "color", "count", "position", "yes_no"]
KINDS: tuple[MistakeKind, ...] = ("object", "color", "count", "position", "yes_no")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """A piece of an answer that is replaced.

    Attributes:
        start: of the piece.
        end: behind it.
        plural: whether the new word stands there in the plural.
    """

    start: int
    end: int
    plural: bool = False


@dataclass(frozen=True)
class Site:
    """One thing that an answer says, wherever it says it.

    Attributes:
        kind: of mistake.
        was: what is said.
        spans: where.
        options: what could be said instead, with the weight of each in the draw.
    """

    kind: MistakeKind
    was: str
    spans: tuple[Span, ...]
    options: Mapping[str, float]


@dataclass(frozen=True)
class Mistake:
    """A site with what is said there now."""

    site: Site
    now: str

    def as_json(self) -> dict[str, str | int]:
        """For a pair's `source`."""
        return {
            "kind": self.site.kind,
            "was": self.site.was,
            "now": self.now,
            "places": len(self.site.spans),
        }


def apply(answer: str, changes: Iterable[Mistake]) -> str:
    """The answer with the changes made; `a` and `an` follow the new word."""
    edits = sorted(
        (_edit(answer, span, change.now) for change in changes for span in change.site.spans),
        reverse=True,
    )
    for start, end, new in edits:
        answer = answer[:start] + new + answer[end:]
    return answer


def overlap(one: Site, other: Site) -> bool:
    """Whether two sites share a character, or the article before one is in the other."""
    return any(a.start <= b.end and b.start <= a.end for a in one.spans for b in other.spans)


def _edit(answer: str, span: Span, now: str) -> tuple[int, int, str]:
    new = plural(now) if span.plural else now
    start, old = span.start, answer[span.start : span.end]
    before = _ARTICLE.search(answer[:start])
    if before and not span.plural:
        start = before.start()
        new = f"{article(new)}{before[2]}{new}"
        old = before[1]
    return start, span.end, new[0].upper() + new[1:] if old[:1].isupper() else new
