"""VQA accuracy: how answers are normalized, and how far ten people agree with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["corrected", "official"]

_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(n) for n, word in enumerate(_WORDS.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
# Only in this order does the published loop give the published results.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
PERIODS = 32
"""The published scorers remove no more: they hand a flag over as the number of replacements."""

# Words with the apostrophes that are put back where they are missing.
_WITH_ONE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
    something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
    wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
    who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_WITH_TWO = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""


def _contractions() -> dict[str, str]:
    found = {word.replace("'", ""): word for word in _WITH_ONE.split()}
    for word in _WITH_TWO.split():
        first, second = word.index("'"), word.rindex("'")
        found[word[:first] + word[first + 1 :]] = word
        found[word[:second] + word[second + 1 :]] = word
    found |= {"yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've"}
    found |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    # The published table has this one the wrong way round.
    return found | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()


def strip_punctuation(text: str, rule: Rule) -> str:
    """Remove punctuation, or put a space in its place where it stands between two words.

    A mark that is next to a space anywhere in the text, or any mark if a comma stands between
    digits, is removed everywhere; others become spaces. Periods that are not before a digit are
    removed; by the official rule only the first 32.
    """
    out, comma = text, _COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside or comma else " ")
    return _PERIOD.sub("", out, count=PERIODS if rule == "official" else 0)


def strip_words(text: str) -> str:
    """Lower case, digits for number words up to ten, no articles, contractions with apostrophes."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalized(text: str, rule: Rule = "corrected") -> str:
    """An answer as TextVQA compares it: lower case, "'s" a word of its own, then both of the above.

    Source: Pythia's EvalAI processor, which TextVQA's scorers share.
    """
    lower = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    flat = lower.replace("\n", " ").replace("\t", " ").strip()
    return strip_words(strip_punctuation(flat, rule))


def plain(text: str, rule: Rule) -> str:
    """An answer as VQAv2 compares it: on one line, without punctuation, articles and the like."""
    flat = text.replace("\n", " ").replace("\t", " ").strip()
    return strip_words(strip_punctuation(flat, rule))


def lmms_eval_pair(answer: str, people: Sequence[str]) -> tuple[str, list[str]]:
    """An answer and people's answers to VQAv2 as lmms-eval compares them.

    People's are treated as the answer is, but only if they differ; the answer is treated as
    TextVQA's first, in any case.
    """
    said, flat = normalized(answer, "official"), [one.strip() for one in people]
    if len(set(flat)) < 2:
        return said, flat
    return plain(said, "official"), [plain(one, "official") for one in flat]


def normalized_pair(answer: str, people: Sequence[str], rule: Rule) -> tuple[str, list[str]]:
    """An answer and people's answers as VQAv2 compares them.

    Official: of people's answers only punctuation is removed, and only if they differ, so that
    "the cup" never equals "cup". Corrected: all are treated alike.
    """
    said = plain(answer, rule)
    if rule == "corrected":
        return said, [strip_words(strip_punctuation(one.strip(), rule)) for one in people]
    if len(set(people)) > 1:
        return said, [strip_punctuation(one, rule) for one in people]
    return said, list(people)


def agreement(answer: str, people: Sequence[str]) -> float:
    """The mean of min(1, matches / 3) over all ways to leave one person out.

    Args:
        answer: normalized.
        people: normalized, usually ten.
    """
    matches = sum(one == answer for one in people)
    return sum(min(1.0, (matches - (one == answer)) / 3) for one in people) / len(people)
