"""AMBER's rules (Wang et al. 2023): which nouns of a description are in the image, and its figures.

`official` does what the published scorer does. `corrected` keeps its lists and its threshold and
mends what depends on the order of words; docs/benchmarks.md names each difference.
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
    if rule == "official":
        kept = [noun for noun in nouns if noun in lists.vocabulary]
        return _official(kept, truth, hallu, lists, similar)
    vocabulary = {word.lower() for word in lists.vocabulary}
    kept = [noun for noun in nouns if noun in vocabulary]
    objects = list(dict.fromkeys(truth))
    lures = [name for name in dict.fromkeys(hallu) if name not in objects]
    return _corrected(kept, objects, lures, lists, similar)


def _entries(objects: Sequence[str], lists: WordLists) -> list[Entry]:
    """Each word that stands for an object, with the object's place: associated words first."""
    others = [
        (word, place) for place, name in enumerate(objects) for word in lists.associated[name]
    ]
    return [*others, *((name, place) for place, name in enumerate(objects))]


def _official(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    lists: WordLists,
    similar: Similar,
) -> JudgedDescription:
    true_words, lure_words = _entries(truth, lists), _entries(hallu, lists)
    wrong: list[str] = []
    covered: set[int] = set()
    lured: set[int] = set()
    for noun in nouns:
        if noun in lists.safe:
            continue
        named = _first_same(noun, true_words)
        if not named:
            # A word can stand for an expected object and, by similarity, for one that is there:
            # then it counts for both.
            lured |= _first_same(noun, lure_words) | _first_near(noun, lure_words, similar)
            named = _first_near(noun, true_words, similar)
        covered |= named
        if not named:
            wrong.append(noun)
    return JudgedDescription(nouns, wrong, len(covered), len(truth), len(lured), len(hallu))


def _first_same(noun: str, words: Sequence[Entry]) -> set[int]:
    return set(next(([place] for word, place in words if word == noun), []))


def _first_near(noun: str, words: Sequence[Entry], similar: Similar) -> set[int]:
    return set(next(([place] for word, place in words if similar(noun, word) > NEAR), []))


def _corrected(
    nouns: Sequence[str],
    objects: Sequence[str],
    lures: Sequence[str],
    lists: WordLists,
    similar: Similar,
) -> JudgedDescription:
    true_words, lure_words = _entries(objects, lists), _entries(lures, lists)
    wrong: list[str] = []
    covered: set[int] = set()
    lured: set[int] = set()
    for noun in nouns:
        if noun in lists.safe:
            continue
        named, lure = _named(noun, objects, true_words), set[int]()
        if not named:
            lure = _named(noun, lures, lure_words)
        if not named and not lure:
            here, named = _nearest(noun, true_words, similar)
            there, lure = _nearest(noun, lure_words, similar)
            named, lure = (set(), lure) if there > here else (named, set())
        covered |= named
        lured |= lure
        if not named:
            wrong.append(noun)
    return JudgedDescription(nouns, wrong, len(covered), len(objects), len(lured), len(lures))


def _named(noun: str, objects: Sequence[str], words: Sequence[Entry]) -> set[int]:
    """The object of this very name; else all whose associated word it is."""
    own = {place for place, name in enumerate(objects) if name.lower() == noun}
    return own or {place for word, place in words if word.lower() == noun}


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
