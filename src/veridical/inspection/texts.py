"""How texts are compared: their words, and what is left when form is taken away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

WORD = re.compile(r"\w+(?:[-'\u2019]\w+)*")
_MARKDOWN = re.compile(r"[*_`#>~]+")
_JOINERS = "\u200c\u200d"
_SPACE = re.compile(r"\s+")
SHINGLE = 3
"""Words that stand together in a shingle (our choice)."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def without_form(text: str) -> str:
    """A text without case, Markdown, punctuation at its ends and differences of white space."""
    plain = _MARKDOWN.sub("", unicodedata.normalize("NFKC", visible(text))).casefold()
    return _SPACE.sub(" ", plain).strip(" .,;:!?\"'\u3002\u3001\u061f\u060c\u0964")


def visible(text: str) -> str:
    """A text without the characters that show nothing, such as a zero-width space.

    The joiners stay: emoji and the scripts of Persia and India need them.
    """
    if text.isascii():
        return text
    return "".join(one for one in text if one in _JOINERS or unicodedata.category(one) != "Cf")


def shingles(found: Sequence[str]) -> set[bytes]:
    """Every three words that stand together; fewer words are one shingle."""
    count = max(1, len(found) - SHINGLE + 1)
    return {" ".join(found[place : place + SHINGLE]).encode() for place in range(count)}
