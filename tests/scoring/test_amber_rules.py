"""AMBER's two rules, on cases small enough to check by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from veridical.scoring.amber_rules import (
    Rule,
    Similar,
    WordLists,
    judge_description,
    printed_figures,
    printed_yes_no,
    read_verdict,
)

LISTS = WordLists(
    {
        "man": ["person"],
        "person": ["people", "man"],
        "tree": ["forest"],
        "bush": ["forest"],
        "ship": [],
        "car": [],
        "truck": [],
        "lorry": [],
        "van": [],
        "dog": [],
        "camera": [],
        "T-shirt": [],
    },
    frozenset({"camera"}),
)
Near = Mapping[frozenset[str], float]
APART: Near = {}
CLOSE: Near = {frozenset({"car", "truck"}): 0.9, frozenset({"truck", "lorry"}): 0.95}


def similar(near: Near) -> Similar:
    return lambda one, other: 1.0 if one == other else near.get(frozenset({one, other}), 0.0)


# Each row: nouns, objects in the image, expected inventions, similarities, and by rule the wrong
# nouns, covered objects of all, and inventions that came of all expected.
CASES = {
    "a listed object is covered": (
        ["dog"], ["dog", "car"], ["ship"], APART,
        ([], (1, 2), (0, 1)), ([], (1, 2), (0, 1)),
    ),
    "an associated word covers its object": (
        ["people"], ["person"], ["ship"], APART,
        ([], (1, 1), (0, 1)), ([], (1, 1), (0, 1)),
    ),
    "a noun of neither list is wrong": (
        ["dog"], ["car"], ["ship"], APART,
        (["dog"], (0, 1), (0, 1)), (["dog"], (0, 1), (0, 1)),
    ),
    "an expected invention is wrong and counted": (
        ["ship", "ship"], ["car"], ["ship", "dog"], APART,
        (["ship", "ship"], (0, 1), (1, 2)), (["ship", "ship"], (0, 1), (1, 2)),
    ),
    "a safe word is never wrong and covers nothing": (
        ["camera"], ["camera"], ["ship"], APART,
        ([], (0, 1), (0, 1)), ([], (0, 1), (0, 1)),
    ),
    "a near noun covers": (
        ["truck"], ["car"], ["ship"], CLOSE,
        ([], (1, 1), (0, 1)), ([], (1, 1), (0, 1)),
    ),
    "a noun at the threshold is not near": (
        ["van"], ["car"], ["ship"], {frozenset({"van", "car"}): 0.8},
        (["van"], (0, 1), (0, 1)), (["van"], (0, 1), (0, 1)),
    ),
    # Officially "man" is found first among the associated words of "person".
    "a noun covers the object of its own name": (
        ["man", "people"], ["man", "person"], ["ship"], APART,
        ([], (1, 2), (0, 1)), ([], (2, 2), (0, 1)),
    ),
    "a word of two objects covers both": (
        ["forest"], ["tree", "bush"], ["ship"], APART,
        ([], (1, 2), (0, 1)), ([], (2, 2), (0, 1)),
    ),
    "an object that is listed twice is one": (
        ["ship", "ship"], ["ship", "ship"], ["dog"], APART,
        ([], (1, 2), (0, 1)), ([], (1, 1), (0, 1)),
    ),
    "what is in the image is not an expected invention": (
        ["car"], ["car"], ["car", "dog"], APART,
        ([], (1, 1), (0, 2)), ([], (1, 1), (0, 1)),
    ),
    # Officially right, because it is near the car, and an invention too.
    "a named invention is not excused by what it is near to": (
        ["truck"], ["car"], ["truck"], CLOSE,
        ([], (1, 1), (1, 1)), (["truck"], (0, 1), (1, 1)),
    ),
    # Officially the noun itself and the first near word count.
    "one noun is one invention": (
        ["truck"], ["dog"], ["lorry", "truck"], CLOSE,
        (["truck"], (0, 1), (2, 2)), (["truck"], (0, 1), (1, 2)),
    ),
    "the nearer of two decides, here what is there": (
        ["van"], ["car"], ["truck"],
        {frozenset({"van", "car"}): 0.95, frozenset({"van", "truck"}): 0.9},
        ([], (1, 1), (1, 1)), ([], (1, 1), (0, 1)),
    ),
    "the nearer of two decides, here the invention": (
        ["van"], ["car"], ["truck"],
        {frozenset({"van", "car"}): 0.9, frozenset({"van", "truck"}): 0.95},
        ([], (1, 1), (1, 1)), (["van"], (0, 1), (1, 1)),
    ),
    "of two as near, what is there decides": (
        ["van"], ["car"], ["truck"],
        {frozenset({"van", "car"}): 0.9, frozenset({"van", "truck"}): 0.9},
        ([], (1, 1), (1, 1)), ([], (1, 1), (0, 1)),
    ),
    "a near invention is wrong": (
        ["lorry"], ["dog"], ["truck"], CLOSE,
        (["lorry"], (0, 1), (1, 1)), (["lorry"], (0, 1), (1, 1)),
    ),
    # The nearest of several, whatever their order: the first is officially covered.
    "a noun covers the nearest object": (
        ["van", "dog"], ["ship", "car"], ["tree"],
        {frozenset({"van", "ship"}): 0.85, frozenset({"van", "car"}): 0.95,
         frozenset({"dog", "ship"}): 0.9},
        ([], (1, 2), (0, 1)), ([], (2, 2), (0, 1)),
    ),
    "a list in upper case": (
        ["t-shirt"], ["T-shirt"], ["ship"], APART,
        ([], (0, 1), (0, 1)), ([], (1, 1), (0, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", ["official", "corrected"])
def test_a_description(name: str, rule: Rule) -> None:
    nouns, truth, hallu, near, *expected = CASES[name]
    found = judge_description(nouns, truth, hallu, LISTS, similar(near), rule)
    wrong, covered, lured = expected[rule == "corrected"]
    assert found.hallucinated == wrong
    assert (found.covered, found.objects) == covered
    assert (found.lured, found.lures) == lured


@pytest.mark.parametrize("rule", ["official", "corrected"])
def test_only_nouns_of_the_vocabulary_count(rule: Rule) -> None:
    """A safe word counts among the nouns; "sky" is in no list."""
    nouns = ["sky", "camera", "dog"]
    found = judge_description(nouns, ["car"], ["ship"], LISTS, similar(APART), rule)
    assert found.nouns == ["camera", "dog"]


def test_the_official_rule_finds_no_capitals() -> None:
    found = judge_description(["Dog"], ["car"], ["ship"], LISTS, similar(APART), "official")
    assert found.nouns == found.hallucinated == []


@pytest.mark.parametrize(
    ("answer", "official", "corrected"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("Yes.", None, "yes"),
        ("no", None, "no"),
        ("No, the sky is gloomy.", None, "no"),
        ("Perhaps", None, None),
        ("", None, None),
    ],
)
def test_a_verdict(answer: str, official: str | None, corrected: str | None) -> None:
    question = "Is the sky sunny in this image?"
    assert read_verdict(answer, "official", question) == official
    assert read_verdict(answer, "corrected", question) == corrected


def totals(names: Sequence[str], numbers: Sequence[float]) -> dict[str, float]:
    return dict(zip(names, numbers, strict=True))


DESCRIPTIONS = ("descriptions", "wrong_descriptions", "nouns", "hallucinated", "covered",
                "objects", "lured", "lures")  # fmt: skip
QUESTIONS = ("questions", "right", "is_no", "said_no", "true_no")


def test_figures_as_they_are_printed() -> None:
    """Every denominator begins at 0.001, and F1 is made of rounded figures.

    chair 1 / 3.001 = 33.3 %, cover 2 / 4.001 = 50.0, cog 1 / 6.001 = 16.7;
    hal 100 - 1 / 2.001 = 50.0 %. Precision 2 / 3.001 = 66.6 % (66.7 without the 0.001), recall
    2 / 2.001 = 100.0 (99.95), F1 2 * 0.666 / (1.666 + 0.0001) = 79.9 %.
    """
    found = printed_figures(
        totals(DESCRIPTIONS, [2, 1, 3, 1, 2, 4, 1, 6]) | totals(QUESTIONS, [4, 3, 2, 3, 2])
    )
    assert found == {
        "chair": 33.3, "cover": 50.0, "hal": 50.0, "cog": 16.7,
        "accuracy": 75.0, "precision": 66.6, "recall": 100.0, "f1": 79.9,
        "score": pytest.approx((100 - 33.3 + 79.9) / 2, abs=0.006),
    }  # fmt: skip


def test_figures_of_one_half() -> None:
    none = [0.0] * 8
    found = printed_figures(totals(DESCRIPTIONS, none) | totals(QUESTIONS, [1, 0, 1, 0, 0]))
    # Nobody said no: 0 / 0.001, and F1 is 0 / 0.0001.
    assert found == {"accuracy": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    found = printed_figures(
        totals(DESCRIPTIONS, [1, 0, 0, 0, 0, 1, 0, 1]) | totals(QUESTIONS, [0] * 5)
    )
    # Not a noun is not a hallucination: 100 - 1 / 1.001 = 0.1 %.
    assert found == {"chair": 0.0, "cover": 0.0, "hal": 0.1, "cog": 0.0}


def test_constants_of_the_groups() -> None:
    """F1 of existence has a larger constant; attributes add up three denominators.

    Precision and recall are 1 / 100.001 = 1.0 %, so F1 is 0.0002 / (0.02 + 0.0001) = 0.995 %,
    printed 1.0, and with 0.01 instead of 0.0001 0.0002 / 0.03 = 0.67 %, printed 0.7. Of one right
    answer, 1 / 1.001 = 99.9 % and 1 / 1.003 = 99.7 %.
    """
    rare = totals(QUESTIONS, [100, 1, 100, 100, 1])
    assert printed_yes_no(rare)["f1"] == 1.0
    assert printed_yes_no(rare, added=0.01)["f1"] == 0.7
    one = totals(QUESTIONS, [1, 1, 1, 1, 1])
    assert printed_yes_no(one)["accuracy"] == 99.9
    assert printed_yes_no(one, started=3)["accuracy"] == 99.7
