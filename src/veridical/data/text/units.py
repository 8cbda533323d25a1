"""The units that a sentence is cut between, and that texts are compared by.

Words where a script has spaces between them, else graphemes: what readers take for one character.
"""

from __future__ import annotations

import regex

from veridical.data.text.layout import has_words

# Scripts that are written without spaces between words.
_SPACELESS = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}]"
)
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}]"
_UNSPACED_START = regex.compile(rf"\p{{P}}*{_UNSPACED}")
_UNSPACED_END = regex.compile(rf"{_UNSPACED}\p{{P}}*\Z")
_PIECE = regex.compile(rf"\s*(?:(?={_SPACELESS})\X|(?:(?!{_SPACELESS})\S)+)")
_UNSPOKEN = regex.compile(r"(?![-\u2212]\d)\p{P}")
_WORD = regex.compile(
    rf"(?={_SPACELESS})\X"
    rf"|(?:(?!{_SPACELESS})[\w\p{{M}}])+(?:['’.-](?:(?!{_SPACELESS})[\w\p{{M}}])+)*"  # noqa: RUF001
)


def cut_units(sentence: str) -> list[str]:
    """Pieces of a sentence between which it may be cut; together they are the sentence.

    Each begins with the white space before it, so that no beginning made of them ends in a space.
    Each holds a letter or a digit: signs belong to the unit before them, at the start to the first.
    """
    units: list[str] = []
    opening = ""
    for match in _PIECE.finditer(sentence.rstrip()):
        piece = match[0]
        if has_words(piece):
            units.append(opening + piece)
            opening = ""
        elif units:
            units[-1] += piece
        else:
            opening += piece
    if not units:
        return [sentence] if sentence else []
    units[-1] += opening + sentence[len(sentence.rstrip()) :]
    return units


def joined(one: str, other: str) -> str:
    """One text behind the other, with a space between them unless both are Chinese or Japanese."""
    one, other = one.rstrip(), other.lstrip()
    close = _UNSPACED_END.search(one) and _UNSPACED_START.match(other)
    return f"{one}{other}" if close else f"{one} {other}"


def bare(unit: str) -> str:
    """A unit without the signs behind its last letter or digit."""
    return str(regex.sub(r"[^\p{L}\p{N}\p{M}]+\Z", "", unit))


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ in nothing but case, punctuation, emphasis and white space.

    The sign of a number counts: "-5" is not "5".
    """
    return _spoken(one) == _spoken(other)


def _spoken(text: str) -> str:
    return " ".join(_UNSPOKEN.sub(" ", text.casefold()).split())


def words_of(text: str) -> list[str]:
    """The words of a text in order, without punctuation; graphemes in scripts without spaces."""
    return [match[0] for match in _WORD.finditer(text)]
