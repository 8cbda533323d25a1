"""How VQA's answers are normalized and scored."""

from __future__ import annotations

import pytest

from veridical.scoring.vqa_rules import (
    CONTRACTIONS,
    agreement,
    lmms_eval_pair,
    normalized,
    normalized_pair,
    plain,
    strip_punctuation,
    strip_words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cup.", "cup"),
        ("a  dog\nand\ta cat", "dog and cat"),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("what?", "what"),
        ("John's", "john 's"),
        ("1,000", "1000"),
        ("isnt", "isn't"),
        ("couldnt've", "couldn't've"),
        ("3.5 m", "3.5 m"),
        ("end of 3.", "end of 3"),
        ("red/blue", "red blue"),
        # A slash that is next to a space: all of them go.
        ("red/ blue/green", "red bluegreen"),
        ("coca-cola", "coca cola"),
        ("$5", "$5"),
        ("", ""),
    ],
)
def test_an_answer_is_normalized(text: str, expected: str) -> None:
    assert normalized(text, "official") == normalized(text) == expected


def test_official_leaves_periods_after_the_first_32() -> None:
    """Python's `re.UNICODE` is the number 32, and stands where the number of replacements does."""
    assert normalized("x" + "." * 40, "official") == "x" + "." * 8
    assert normalized("x" + "." * 40) == "x"


def test_a_comma_between_digits_removes_every_mark() -> None:
    """VQAv2 leaves commas to this rule."""
    assert strip_punctuation("1,000-2", "official") == "10002"
    assert strip_punctuation("1000-2", "official") == "1000 2"


def test_contractions_get_their_apostrophes() -> None:
    """The published table has 120; four are in capitals and two change nothing."""
    assert len(CONTRACTIONS) == 120 - 4 - 2
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert CONTRACTIONS["twas"] == "'twas" and CONTRACTIONS["ow's'at"] == "'ow's'at"
    assert strip_words("somebody'd Ive") == "somebodyd ive"


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (0, 0.0),
        (1, 9 * (1 / 3) / 10),  # left out once
        (2, (2 * (1 / 3) + 8 * (2 / 3)) / 10),
        (3, (3 * (2 / 3) + 7) / 10),
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_agreement_leaves_each_person_out_once(matches: int, expected: float) -> None:
    assert agreement("x", ["x"] * matches + ["y"] * (10 - matches)) == pytest.approx(expected)


def test_vqav2_leaves_peoples_articles_and_numbers() -> None:
    """Official: "two" becomes "2" in the answer only, so it never matches."""
    people = ["two"] * 4 + ["a few"] * 6
    said, theirs = normalized_pair("Two", people, "official")
    assert (said, agreement(said, theirs)) == ("2", 0.0)
    said, theirs = normalized_pair("Two", people, "corrected")
    assert agreement(said, theirs) == 1.0
    # People who agree keep their punctuation; those who differ do not.
    assert normalized_pair("x", ["a-b"] * 10, "official")[1] == ["a-b"] * 10
    assert normalized_pair("x", ["a-b", "c"], "official")[1] == ["a b", "c"]
    assert normalized_pair("x\ny", ["The a-b"] * 2, "corrected") == ("x y", ["b", "b"])


def test_how_harnesses_compare() -> None:
    """VLMEvalKit keeps a comma between words as a space; lmms-eval compares as people's differ."""
    assert (plain("red,blue", "official"), normalized("red,blue", "official")) == (
        "red blue", "redblue",
    )  # fmt: skip
    assert lmms_eval_pair("The two", ["two"] * 10) == ("2", ["two"] * 10)
    assert lmms_eval_pair("The two", ["two", "a dog"]) == ("2", ["2", "dog"])
