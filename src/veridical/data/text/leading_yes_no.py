"""Answers that begin with yes or no, in many languages.

The paper (Amirloo et al. 2024, section 3.4.2) swaps Yes, yes, No and no. The same words mean
something else elsewhere ("No centro" is Portuguese for "in the center"), so each language has its
own.
"""

# ruff: noqa: RUF001 - words of other scripts are meant

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import regex

_WORDS: dict[str, tuple[str, str]] = {
    "ar": ("نعم", "لا"),
    "bg": ("Да", "Не"),
    "bn": ("হ্যাঁ", "না"),
    "ca": ("Sí", "No"),
    "cs": ("Ano", "Ne"),
    "da": ("Ja", "Nej"),
    "de": ("Ja", "Nein"),
    "el": ("Ναι", "Όχι"),
    "en": ("Yes", "No"),
    "es": ("Sí", "No"),
    "et": ("Jah", "Ei"),
    "fa": ("بله", "نه"),
    "fi": ("Kyllä", "Ei"),
    "fr": ("Oui", "Non"),
    "he": ("כן", "לא"),
    "hi": ("हाँ", "नहीं"),
    "hr": ("Da", "Ne"),
    "hu": ("Igen", "Nem"),
    "it": ("Sì", "No"),
    "ja": ("はい", "いいえ"),
    "ko": ("네", "아니요"),
    "lt": ("Taip", "Ne"),
    "lv": ("Jā", "Nē"),
    "nl": ("Ja", "Nee"),
    "no": ("Ja", "Nei"),
    "pl": ("Tak", "Nie"),
    "pt": ("Sim", "Não"),
    "ro": ("Da", "Nu"),
    "ru": ("Да", "Нет"),
    "sk": ("Áno", "Nie"),
    "sl": ("Da", "Ne"),
    "sv": ("Ja", "Nej"),
    "tr": ("Evet", "Hayır"),
    "uk": ("Так", "Ні"),
    "ur": ("جی ہاں", "نہیں"),
    "vi": ("Có", "Không"),
    "zh": ("是", "不是"),
}
"""Yes and no by ISO 639-1 code, as they begin a sentence."""
_ALSO: dict[str, tuple[tuple[str, str], ...]] = {
    "hi": (("हां", "नहीं"),),
    "ko": (("예", "아니요"), ("네", "아니오")),
    "ur": (("ہاں", "نہیں"),),
    "zh": (("是的", "不是的"), ("有", "没有"), ("对", "不对"), ("有的", "没有的")),
}
_OPENING = r"[\s\p{Ps}\p{Pi}\"'*_¿¡]*"
# As a whole word: "Nothing", "No-one", "No/Yes" and "No. 5" do not count.
_WHOLE = r"(?![\p{L}\p{M}\p{N}_’'/-])(?!\.\s*\d)"
# In most languages the word for no is also "not" or "in the": only a sign or nothing may follow.
_ALONE = r"(?=[^\p{L}\p{M}\p{N}\s]|\s+[^\p{L}\p{M}\p{N}\s]|\s*\Z|\s*[\r\n])"


def leading_yes_or_no(sentence: str, language: str = "en") -> str | None:
    """`yes` or `no`, if a sentence begins with the word for it; else None.

    Args:
        sentence: quotation marks, brackets and emphasis before the word do not matter.
        language: ISO 639-1; of one that is not known, nothing is yes or no.
    """
    found = _match(sentence, language)
    return None if found is None else found[1]


def starts_with_yes_or_no(sentence: str, language: str = "en") -> bool:
    """Whether a sentence begins with yes or no.

    In English as a whole word, capitalized or in small letters, as in the paper. In capitals and in
    other languages, only where a sign, or nothing, follows it.
    """
    return _match(sentence, language) is not None


def swap_yes_no(sentence: str, language: str = "en") -> str:
    """The sentence with yes for no, or no for yes, at its beginning; others stay as they are."""
    found = _match(sentence, language)
    if found is None:
        return sentence
    match, _, other = found
    return sentence[: match.start(1)] + other + sentence[match.end(1) :]


def _match(sentence: str, language: str) -> tuple[regex.Match[str], str, str] | None:
    """Where the word stands, which one it is, and what the other one would be."""
    pattern, others = _pattern(language)
    match = pattern.match(sentence) if pattern is not None else None
    return None if match is None else (match, *others[match[1]])


@lru_cache(maxsize=128)
def _pattern(language: str) -> tuple[regex.Pattern[str] | None, dict[str, tuple[str, str]]]:
    if language not in _WORDS:
        return None, {}
    others: dict[str, tuple[str, str]] = {}
    for yes, no in (_WORDS[language], *_ALSO.get(language, ())):
        for said, meant, other in ((yes, "yes", no), (no, "no", yes)):
            others.setdefault(said, (meant, other))
            others.setdefault(_small(said), (meant, _small(other)))
    after = _WHOLE if language == "en" else _WHOLE + _ALONE
    capitals = {
        said.upper(): (meant, other.upper())
        for said, (meant, other) in others.items()
        if said.upper() not in others
    }
    words = rf"(?:{_any_of(others)}){after}"
    if capitals:  # "NO" alone; not "NO PARKING"
        words += rf"|(?:{_any_of(capitals)}){_WHOLE}{_ALONE}"
    return regex.compile(rf"{_OPENING}({words})"), others | capitals


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(regex.escape, words), key=len, reverse=True))


def _small(word: str) -> str:
    return word[:1].lower() + word[1:]
