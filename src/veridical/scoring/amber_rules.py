"""AMBER's rules (Wang et al. 2023): which nouns of a description are in the image, and its figures.

`official` does what the published scorer does. `corrected` keeps its lists and its threshold and
fixes what depends on the order of words; docs/benchmarks.md names each difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from veridical.scoring.yes_no_answers import YesNoVerdict, parse_answer

Rule: TypeAlias = Literal["corrected", "official"]
Similar: TypeAlias = Callable[[str, str], float]
Entry: TypeAlias = tuple[str, int]

NEAR = 0.8
"""Similarity above which a noun stands for a listed word: the published scorer's default."""


@dataclass(frozen=True)
class WordLists:
    """AMBER's lists of words.

    Attributes:
        associated: each word's other words (`relation.json`).
        safe: words that are never wrong (`safe_words.txt`).
    """

    associated: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    @property
    def vocabulary(self) -> frozenset[str]:
        """The nouns that count."""
        others = {word for words in self.associated.values() for word in words}
        return frozenset(self.associated) | others


@dataclass(frozen=True)
class JudgedDescription:
    """What a description says.

    Attributes:
        nouns: those that count, in order.
        hallucinated: those of them that are not in the image.
        covered: how many listed objects are mentioned.
        objects: how many are listed.
        lured: how many of the objects that annotators expected to be invented are mentioned.
        lures: how many they expected.
    """

    nouns: Sequence[str]
    hallucinated: Sequence[str]
    covered: int
    objects: int
    lured: int
    lures: int


def judge_description(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    lists: WordLists,
    similar: Similar,
    rule: Rule,
) -> JudgedDescription:
    """Judge the nouns of one description.

    Args:
        nouns: its nouns, in order; those outside the vocabulary are left out here.
        truth: the objects in the image, as annotated.
        hallu: the objects that annotators expected to be invented.
        lists: associated and safe words.
        similar: how near two words are, at most 1.
        rule: which rule.
    """
    official = rule == "official"
    objects, lures = truth, hallu
    vocabulary = set(lists.vocabulary)
    if not official:
        objects = list(dict.fromkeys(truth))
        lures = [name for name in dict.fromkeys(hallu) if name not in objects]
        vocabulary = {word.lower() for word in vocabulary}
    kept = [noun for noun in nouns if noun in vocabulary]
    true, expected = _Listed(objects, lists), _Listed(lures, lists)
    meaning = _official_meaning if official else _corrected_meaning
    wrong: list[str] = []
    covered: set[int] = set()
    lured: set[int] = set()
    for noun in kept:
        if noun in lists.safe:
            continue
        named, lure = meaning(noun, true, expected, similar)
        covered |= named
        lured |= lure
        if not named:
            wrong.append(noun)
    return JudgedDescription(kept, wrong, len(covered), len(objects), len(lured), len(lures))


class _Listed:
    """Objects, and each word that stands for one, with its place: associated words first."""

    def __init__(self, objects: Sequence[str], lists: WordLists) -> None:
        self.objects = objects
        self.words: list[Entry] = [
            *(
                (word, place)
                for place, name in enumerate(objects)
                for word in lists.associated[name]
            ),
            *((name, place) for place, name in enumerate(objects)),
        ]


def _official_meaning(
    noun: str, true: _Listed, expected: _Listed, similar: Similar
) -> tuple[set[int], set[int]]:
    """The objects that a noun names: of those in the image, of those that were expected."""
    named = _first_same(noun, true.words)
    if named:
        return named, set()
    # A word can stand for an expected object and, by similarity, for one that is there: then it
    # counts for both.
    lure = _first_same(noun, expected.words) | _first_near(noun, expected.words, similar)
    return _first_near(noun, true.words, similar), lure


def _first_same(noun: str, words: Sequence[Entry]) -> set[int]:
    return set(next(([place] for word, place in words if word == noun), []))


def _first_near(noun: str, words: Sequence[Entry], similar: Similar) -> set[int]:
    return set(next(([place] for word, place in words if similar(noun, word) > NEAR), []))


def _corrected_meaning(
    noun: str, true: _Listed, expected: _Listed, similar: Similar
) -> tuple[set[int], set[int]]:
    """Likewise, with the corrections of the rule."""
    named = _named(noun, true)
    lure = set() if named else _named(noun, expected)
    if named or lure:
        return named, lure
    here, named = _nearest(noun, true.words, similar)
    there, lure = _nearest(noun, expected.words, similar)
    return (set(), lure) if there > here else (named, set())


def _named(noun: str, listed: _Listed) -> set[int]:
    """The object of this very name; else all whose associated word it is."""
    own = {place for place, name in enumerate(listed.objects) if name.lower() == noun}
    return own or {place for word, place in listed.words if word.lower() == noun}


def _nearest(noun: str, words: Sequence[Entry], similar: Similar) -> tuple[float, set[int]]:
    """The greatest similarity above the threshold, and the objects that have it."""
    found = [(similar(noun, word), place) for word, place in words]
    best = max((value for value, _ in found), default=0.0)
    if best <= NEAR:
        return NEAR, set()
    return best, {place for value, place in found if value == best}


def read_verdict(answer: str, rule: Rule, question: str) -> YesNoVerdict | None:
    """What an answer to a yes/no question says; None if it says neither.

    The published scorer reads "Yes" and "No", written exactly so, and nothing else.
    """
    if rule == "official":
        exact: Mapping[str, YesNoVerdict] = {"Yes": "yes", "No": "no"}
        return exact.get(answer)
    return parse_answer(answer, "strict", question)


def printed_figures(totals: Mapping[str, float]) -> dict[str, float]:
    """The figures that the published scorer prints, in percent, with its rounding.

    It begins each denominator at 0.001, rounds to a decimal, and makes F1 of the rounded figures.

    Args:
        totals: sums over all answers, by column of `amber_counts`.
    """
    found = {}
    if totals["descriptions"]:
        right = totals["descriptions"] - totals["wrong_descriptions"]
        found = {
            "chair": _percent(totals["hallucinated"], totals["nouns"]),
            "cover": _percent(totals["covered"], totals["objects"]),
            "hal": round(100 - right / (totals["descriptions"] + 0.001) * 100, 1),
            "cog": _percent(totals["lured"], totals["lures"]),
        }
    if totals["questions"]:
        found |= printed_yes_no(totals)
    if totals["descriptions"] and totals["questions"]:
        found["score"] = round((100 - found["chair"] + found["f1"]) / 2, 2)
    return found


def printed_yes_no(
    totals: Mapping[str, float], added: float = 0.0001, started: int = 1
) -> dict[str, float]:
    """Accuracy, precision, recall and F1 as the published scorer prints them.

    Args:
        totals: as of `printed_figures`.
        added: to F1's denominator; the scorer has 0.001 for existence and 0.0001 elsewhere.
        started: denominators that are added up, each of which begins at 0.001.
    """
    precision = _percent(totals["true_no"], totals["said_no"], started)
    recall = _percent(totals["true_no"], totals["is_no"], started)
    shares = precision / 100, recall / 100
    return {
        "accuracy": _percent(totals["right"], totals["questions"], started),
        "precision": precision,
        "recall": recall,
        "f1": round(2 * shares[0] * shares[1] / (sum(shares) + added) * 100, 1),
    }


def _percent(part: float, whole: float, started: int = 1) -> float:
    return round(part / (whole + 0.001 * started) * 100, 1)
