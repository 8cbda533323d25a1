"""English articles and plurals, by short rules for the nouns that images are described with."""

from __future__ import annotations

import re

PLURAL_ONLY = frozenset(("scissors", "skis", "glasses", "pants", "jeans", "shorts", "goggles"))
"""Nouns that have no singular in use."""
ONE_FORM = frozenset(
    ("aircraft", "broccoli", "cattle", "couple", "deer", "fish", "furniture", "luggage", "sheep")
)
"""Nouns whose form does not tell one from several."""
_IRREGULAR = {
    "person": "people", "child": "children", "mouse": "mice", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "ox": "oxen", "knife": "knives", "leaf": "leaves", "shelf": "shelves",
    "wolf": "wolves", "calf": "calves", "loaf": "loaves", "scarf": "scarves",
}  # fmt: skip
_PLURALS = frozenset(_IRREGULAR.values())
_AN = re.compile(r"(?!uni|use|eu|one\b|ukulele)[aeiou]|hour|honest|heir")
_SINGULAR_S = re.compile(r".*(?:ss|us|is|canvas|lens|gas|atlas)")
"""Singulars that end in s: glass, bus, tennis, canvas, lens."""


def article(noun: str) -> str:
    """`a` or `an`, as the noun's sound asks: "a uniform", "an hour"."""
    return "an" if _AN.match(noun.lower()) else "a"


def plural(noun: str) -> str:
    """The plural of a noun in the singular: "wine glasses", "knives", "people"."""
    before, space, last = noun.rpartition(" ")
    return f"{before}{space}{_plural(last)}"


def is_plural(noun: str) -> bool:
    """Whether a noun of a form that tells is in the plural."""
    last = noun.lower().split()[-1]
    if last in PLURAL_ONLY or last in _PLURALS or last.endswith("men"):
        return True
    return last.endswith("s") and not _SINGULAR_S.fullmatch(last)


def _plural(word: str) -> str:
    if word in PLURAL_ONLY or word in ONE_FORM:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("man"):
        return word[:-2] + "en"
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"
