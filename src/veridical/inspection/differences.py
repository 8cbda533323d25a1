"""How the two answers of a pair differ: length, similarity, and in what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Indel

from veridical.data.text.leading_yes_no import leading_yes_or_no
from veridical.data.vocabulary import COCO_VOCABULARY, read_vocabulary
from veridical.inspection.facts import Fact, mean_fact, quantiles, share
from veridical.inspection.texts import words

COLORS = frozenset(
    (
        "beige", "black", "blue", "bronze", "brown", "cream", "crimson", "cyan", "gold",
        "golden", "gray", "green", "grey", "indigo", "ivory", "khaki", "lavender", "lime",
        "magenta", "maroon", "navy", "olive", "orange", "pink", "purple", "red", "scarlet",
        "silver", "tan", "teal", "turquoise", "violet", "white", "yellow",
    )
)  # fmt: skip
COUNTS = frozenset(
    (
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "dozen", "dozens", "single", "pair", "couple", "several", "many",
        "few",
    )
)  # fmt: skip
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_VOCABULARY = read_vocabulary(COCO_VOCABULARY)
KINDS = ("objects", "colors", "counts", "numbers", "yes or no")
SIMILARITY, DIFFERS = "How alike the two answers are", "In what they differ"


@dataclass(frozen=True, slots=True)
class AnswerDifference:
    """How a pair's answers differ.

    Attributes:
        chosen_words: of the chosen answer, separated by white space.
        rejected_words: of the rejected one.
        chosen_letters: of the chosen answer.
        rejected_letters: of the rejected one.
        lines: of the chosen answer minus those of the rejected.
        similarity: of their words in order, in [0, 1].
        kinds: a bit for each of `KINDS` in which they differ.
        only_chosen: objects that only the chosen answer names.
        only_rejected: objects that only the rejected answer names.
    """

    chosen_words: int
    rejected_words: int
    chosen_letters: int
    rejected_letters: int
    lines: int
    similarity: float
    kinds: int
    only_chosen: int
    only_rejected: int


def compare_answers(chosen: str, rejected: str) -> AnswerDifference:
    """Compare a pair's answers. Objects are COCO's 80 classes, by our list of words."""
    one, other = words(chosen), words(rejected)
    objects = [{found.name for found in _VOCABULARY.mentions(text)} for text in (chosen, rejected)]
    differs = (
        objects[0] != objects[1],
        COLORS & {*one} != COLORS & {*other},
        COUNTS & {*one} != COUNTS & {*other},
        {*_NUMBER.findall(chosen)} != {*_NUMBER.findall(rejected)},
        leading_yes_or_no(chosen) != leading_yes_or_no(rejected),
    )
    return AnswerDifference(
        len(chosen.split()),
        len(rejected.split()),
        len(chosen),
        len(rejected),
        chosen.count("\n") - rejected.count("\n"),
        float(Indel.normalized_similarity(one, other)),
        sum(1 << place for place, here in enumerate(differs) if here),
        len(objects[0] - objects[1]),
        len(objects[1] - objects[0]),
    )


def describe_differences(found: Sequence[AnswerDifference], groups: Sequence[int]) -> list[Fact]:
    """Similarity, and the share of pairs that differ in objects, colors, counts and so on."""
    alike = [pair.similarity for pair in found]
    facts = [
        quantiles(SIMILARITY, "Words in common, median", alike, "share"),
        share(SIMILARITY, "Pairs that share 90 % of their words or more",
              [float(value >= 0.9) for value in alike], groups),
        share(SIMILARITY, "Pairs that share 20 % or less",
              [float(value <= 0.2) for value in alike], groups),
    ]  # fmt: skip
    for place, kind in enumerate(KINDS):
        hits = [float(pair.kinds >> place & 1) for pair in found]
        facts.append(share(DIFFERS, f"Different {kind}", hits, groups))
    nothing = [float(not pair.kinds) for pair in found]
    facts.append(share(DIFFERS, "None of these", nothing, groups))
    for branch in ("chosen", "rejected"):
        counts = [float(getattr(pair, f"only_{branch}")) for pair in found]
        facts.append(
            mean_fact(DIFFERS, f"Objects that only the {branch} answer names", counts, groups)
        )
    return facts
