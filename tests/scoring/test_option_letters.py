"""Which option an answer names, by both rules."""

from __future__ import annotations

import pytest

from veridical.scoring.option_letters import official_option, read_option

OPTIONS = {"A": "a dog", "B": "a cat", "C": "a black cat"}


@pytest.mark.parametrize(
    ("answer", "official", "corrected"),
    [
        ("B", "B", "B"),
        ("(B)", "B", "B"),
        ("B. a cat", "B", "B"),
        ("Answer: C", "C", "C"),
        ("The answer is **B**.", "B", "B"),
        ("b", None, "B"),
        # The article counts as a letter by the published rule.
        ("A black animal", "A", None),
        ("A black one, so it must be this cat", None, None),
        ("I see a black cat.", "C", "C"),
        ("a cat, or rather a black cat", None, None),
        ("a cat or a dog", None, None),
        ("a dog", "A", "A"),
        ("It is a dog!", "A", "A"),
        # Not among the last four words, and "answer is B" in other words; then by its text.
        ("B because of what is seen there", None, "B"),
        ("B is the one shown", None, "B"),
        ("B is the one", "B", "B"),
        ("The correct answer is B because of the tail and of the ears", "B", "B"),
        ("A or B", None, None),
        ("Both A and B", None, None),
        ("Z", "Z", None),
        ("I can't process this file.", "Z", None),
        ("Failed to obtain answer via API", None, None),
        ("D", None, None),
        ("", None, None),
        ("First I look.\nAnswer: A", "A", "A"),
        ("Option A is incorrect. The answer is B.", "B", "B"),
        ("A is wrong, B is right", None, "B"),
        ("A is not correct", "A", None),
        ("A is right and it is not a cat", "B", "A"),
        ("B is correct", "B", "B"),
    ],
)
def test_what_an_answer_names(answer: str, official: str | None, corrected: str | None) -> None:
    assert official_option(answer, OPTIONS) == official
    assert read_option(answer, OPTIONS) == corrected


def test_an_option_that_is_a_part_of_another_does_not_count_beside_it() -> None:
    options = {"A": "cat", "B": "black cat"}
    assert read_option("It is a black cat.", options) == "B"
    assert read_option("It is a cat.", options) == "A"
    assert official_option("It is a black cat.", options) is None


def test_a_long_answer_is_not_searched_for_texts_by_the_published_rule() -> None:
    """The options have 21 characters together; the answer more than 42."""
    answer = "What is shown in this picture here is surely a dog"
    assert official_option(answer, OPTIONS) is None
    assert read_option(answer, OPTIONS) == "A"


@pytest.mark.parametrize(
    ("answer", "texts", "expected"),
    [("", ("=", "two"), None), ("=", ("=", "two"), "A"), ("-3", ("3", "-3"), "B"),
     ("It is -3.", ("3", "-3"), "B"), ("3", ("3", "-3"), "A")],
)  # fmt: skip
def test_options_of_signs_and_numbers(
    answer: str, texts: tuple[str, str], expected: str | None
) -> None:
    assert read_option(answer, dict(zip("AB", texts, strict=True))) == expected
