"""How texts are compared: their words, and what is left when form is taken away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

WORD = re.compile(r"\w+(?:[-'\u2019]\w+)*")
_MARKDOWN = re.compile(r"[*_`#>~]+")
_SPACE = re.compile(r"\s+")
SHINGLE = 3
"""Words that stand together in a shingle (our choice)."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def without_form(text: str) -> str:
    """A text without case, Markdown, punctuation at its ends and differences of white space."""
    plain = _MARKDOWN.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return _SPACE.sub(" ", plain).strip(" .,;:!?\"'")


def shingles(found: Sequence[str]) -> set[bytes]:
    """Every three words that stand together; fewer words are one shingle."""
    count = max(1, len(found) - SHINGLE + 1)
    return {" ".join(found[place : place + SHINGLE]).encode() for place in range(count)}
