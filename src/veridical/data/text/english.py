"""English articles and plurals."""

from __future__ import annotations

from functools import cache
from typing import Any

PLURAL_ONLY = frozenset(("scissors", "skis", "glasses", "pants", "jeans", "shorts", "goggles"))
"""Nouns that have no singular in use."""
ONE_FORM = frozenset(
    ("aircraft", "broccoli", "cattle", "couple", "deer", "fish", "furniture", "luggage", "sheep")
)
"""Nouns whose form does not tell one from several."""


def article(noun: str) -> str:
    """`a` or `an`, as the noun's sound asks: "a uniform", "an hour"."""
    return _article(noun.lower())


def plural(noun: str) -> str:
    """The plural of a noun in the singular: "wine glasses", "knives", "people"."""
    return noun if noun.split()[-1] in PLURAL_ONLY else _plural(noun)


def is_plural(noun: str) -> bool:
    """Whether a noun of a form that tells is in the plural."""
    last = noun.lower().split()[-1]
    if last in PLURAL_ONLY:
        return True
    singular = _engine().singular_noun(last)
    return bool(singular) and _plural(str(singular)) == last and not last.endswith(("ss", "us"))


@cache
def _article(noun: str) -> str:
    return str(_engine().a(noun)).split()[0]


@cache
def _plural(noun: str) -> str:
    return str(_engine().plural_noun(noun))


@cache
def _engine() -> Any:
    import inflect  # takes seconds to load, and few commands need it

    return inflect.engine()
