"""Object HalBench's rules, branch by branch."""

from __future__ import annotations

import pytest

from veridical.scoring.halbench_rules import (
    is_short,
    listed_named,
    noun_groups,
    read_listed,
    tables_of,
    words_named,
)

TABLES = tables_of(
    [
        "person, girl, man\n",
        "dog, puppy\n",
        "chair, seat\n",
        "toilet\n",
        "tie\n",
        "train\n",
        "wine glass\n",
        "dining table, table\n",
        "stop sign, red stop sign\n",
    ]
)


@pytest.mark.parametrize(
    ("lemmas", "named"),
    [
        ("a man and a girl", [("man", "person"), ("girl", "person")]),  # repeats count
        ("a baby dog", [("dog", "dog")]),
        ("a bow tie", [("tie", "tie")]),
        ("a wine glas", [("wine glass", "wine glass")]),
        ("a train track and a train", [("train", "train")]),  # "train track" hides its words
        ("the seat", [("seat", "chair")]),
        ("the seat of the toilet", [("toilet", "toilet")]),
        ("the toilet seat", [("toilet", "toilet")]),
        ("a passenger train", [("train", "train")]),
        ("a dining table", [("dining table", "dining table")]),
        ("a red stop sign", [("stop sign", "stop sign")]),  # phrases of two words only
        ("dogs", []),  # not in its dictionary form
    ],
)
def test_words_by_the_official_rule(lemmas: str, named: list[tuple[str, str]]) -> None:
    assert words_named("", TABLES, lemmas.split()) == named


def test_words_by_the_corrected_rule() -> None:
    """Plurals are found without NLTK, and the longest phrase is one word."""
    text = "Two Dogs on a red stop sign, beside a train track and the seat of a toilet."
    assert words_named(text, TABLES, None) == [
        ("dogs", "dog"), ("red stop sign", "stop sign"), ("toilet", "toilet"),
    ]  # fmt: skip


def tag(text: str) -> list[tuple[str, str]]:
    """Every word but articles and colors is a noun."""
    kinds = {"a": "DT", "of": "IN", "red": "JJ"}
    return [(word.removesuffix("s"), kinds.get(word, "NN")) for word in text.lower().split()]


def test_a_judges_list_by_the_official_rule() -> None:
    """A phrase goes first; else nouns in a row are one word; a word counts once.

    "kitchen table" is one group and in no table; "man" and "girl" are two words for a person.
    """
    listed = ["dining tables", "kitchen table", "man", "girl", "man", "red dogs", "back of chair"]
    assert listed_named(listed, TABLES, tag) == [
        ("dining table", "dining table"), ("man", "person"), ("girl", "person"), ("dog", "dog"),
        ("chair", "chair"),
    ]  # fmt: skip
    assert noun_groups(tag("a back of red dining table")) == ["back", "dining table"]


def test_a_judges_list_by_the_corrected_rule() -> None:
    """An object counts once, by its first word; the table in "kitchen table" is found."""
    listed = ["kitchen table", "man", "girl", "red dogs", "sky"]
    assert listed_named(listed, TABLES, None) == [
        ("table", "dining table"), ("man", "person"), ("dogs", "dog"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ('["dog", "man"]', ["dog", "man"], ["dog", "man"]),
        ('Here:\n["dog"]', ["dog"], ["dog"]),
        ('["dog"] as you see', None, ["dog"]),
        ('```json\n["dog"]\n```', ["dog"], ["dog"]),
        ("```json\n[]\n```", [], []),
        ("[]", None, []),  # the published scorer asks again, up to a hundred times
        ("()", None, []),
        ('```json\nno\n```\n["dog"]', ["dog"], ["dog"]),
        ('```json\n{"a": 1}\n```', None, None),
        ('["dog"]\n["cat"]', ["cat"], None),
        ('["dog", ["cat"]]', None, None),
        ("[1, 2]", None, None),
        ("dog, cat", None, None),
        ("", None, None),
    ],
)
def test_replies(reply: str, official: list[str] | None, corrected: list[str] | None) -> None:
    assert read_listed(reply, "official") == official
    assert read_listed(reply, "corrected") == corrected


def test_short_answers() -> None:
    assert is_short("A red dog.") and is_short("") and not is_short("There is a dog.")
