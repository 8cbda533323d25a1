"""The words in which two answers differ, and texts cut where their marks begin and end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import regex
from rapidfuzz.distance import Indel

from veridical.web.shown_rows import Mark

MOST_WORDS = 4000
"""Of each answer, beyond which differences are not marked (our choice: 50 ms)."""
# A word, one letter of a script without spaces, or a sign as it is read: an emoji may be several
# characters that are joined. Joiners without width stand within words of Persian and Hindi.
_PIECE = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{M}\p{N}_]+(?:['\u2019\u200c\u200d\u00ad-][\p{L}\p{M}\p{N}_]+)*"
    r"|(?![\s\p{L}\p{N}_])\X"
)


@dataclass(frozen=True)
class Segment:
    """A stretch of a text with the kinds of all marks that cover it, sorted."""

    text: str
    kinds: tuple[str, ...]


def word_places(text: str) -> list[tuple[int, int]]:
    """Start and end of every word; of a script without spaces, of every letter."""
    return [match.span() for match in _PIECE.finditer(text)]


def differing_words(one: str, other: str) -> tuple[list[Mark], list[Mark]]:
    """Marks of the words that only one of two texts has in its place, ignoring white space.

    Neighboring words are one mark. Long texts have none (`MOST_WORDS`).
    """
    places = word_places(one), word_places(other)
    if max(map(len, places)) > MOST_WORDS:
        return [], []
    words = [
        [text[start:end] for start, end in own]
        for text, own in zip((one, other), places, strict=True)
    ]
    found: tuple[list[Mark], list[Mark]] = [], []
    for step in Indel.opcodes(words[0], words[1]):
        if step.tag != "equal":
            _mark(found[0], places[0], step.src_start, step.src_end)
            _mark(found[1], places[1], step.dest_start, step.dest_end)
    return found


def _mark(marks: list[Mark], places: list[tuple[int, int]], first: int, end: int) -> None:
    if first == end:
        return
    if marks and first and marks[-1].end == places[first - 1][1]:
        begin = marks.pop().start
    else:
        begin = places[first][0]
    marks.append(Mark(begin, places[end - 1][1], "different"))


def segments(text: str, marks: Iterable[Mark]) -> list[Segment]:
    """Cut a text where marks begin and end; those that lie outside of it are left out."""
    inside = [mark for mark in marks if 0 <= mark.start < mark.end <= len(text)]
    ends = sorted({0, len(text), *(m.start for m in inside), *(m.end for m in inside)})
    starting: dict[int, list[Mark]] = {}
    for mark in inside:
        starting.setdefault(mark.start, []).append(mark)
    found: list[Segment] = []
    running: list[Mark] = []
    for start, end in pairwise(ends):
        running = [mark for mark in running if mark.end > start] + starting.get(start, [])
        kinds = tuple(sorted({mark.kind for mark in running}))
        found.append(Segment(text[start:end], kinds))
    return found
