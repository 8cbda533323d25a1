"""The exact judge: its order, by hand and in a brute-force comparison, and the five attributes."""

from __future__ import annotations

from itertools import product

import pytest

from veridical.data.messages import user_message
from veridical.data.object_lists import ObjectCounts
from veridical.data.prompts import Prompt
from veridical.data.steering import ATTRIBUTES
from veridical.data.vocabulary import vocabulary_of
from veridical.judges.attributes import coherence, correctness, helpfulness
from veridical.judges.exact import exact_judge, exact_score, judge_exactly
from veridical.judges.judging import Case
from veridical.runtime.errors import UserError

WORDS = vocabulary_of({"dog": ["puppy"], "cat": [], "hat": []})
OBJECTS = {"1": ["cat", "dog"], "2": ["hat"], "3": []}


def counts(invented: int, recalled: int, listed: int, words: int = 10) -> ObjectCounts:
    return ObjectCounts(invented + recalled, invented, invented, recalled, listed, words)


def test_one_answer_by_hand() -> None:
    found = judge_exactly("A puppy, a dog and a hat; a hat.", ["cat", "dog"], WORDS)
    # One invented object (twice mentioned), 1 of 2 found, 9 words.
    assert found.score == pytest.approx(-1 + 0.9 / 2 - 0.0009)
    assert found.reason == "invents hat; 1 of 2 objects; 9 words"


@pytest.mark.parametrize(("listed", "most_words"), [(1, 5000), (4, 999), (9, 999), (30, 299)])
def test_the_score_keeps_the_order(listed: int, most_words: int) -> None:
    """Fewer invented, then more recalled, then fewer words, within the limits that are told."""
    words = (1, 2, most_words // 2, most_words)
    cases = [
        counts(invented, recalled, listed, length)
        for invented, recalled, length in product(range(3), range(listed + 1), words)
    ]
    # From 999 words on length no longer counts.
    wanted = [(c.invented, -c.recalled, min(c.words, 999)) for c in cases]
    scores = [exact_score(c) for c in cases]
    for one, other in product(range(len(cases)), repeat=2):
        if wanted[one] < wanted[other]:
            assert scores[one] > scores[other], (cases[one], cases[other])


def test_beyond_the_limit_words_outweigh_recall() -> None:
    """With 30 listed objects 300 words more cost what one object more is worth: 0.03."""
    assert exact_score(counts(0, 1, 30, 401)) < exact_score(counts(0, 0, 30, 100))


def test_the_judge_finds_lists_by_image_then_by_id() -> None:
    judge = exact_judge(OBJECTS, WORDS, (10, 20, 30, 40))
    prompt = [user_message("Describe.")]
    verdicts = judge(
        [
            Case(Prompt("row", (), prompt), ["A dog.", "A hat."], ["COCO_000001"]),
            Case(Prompt("2", (), prompt), ["A hat."]),
            Case(Prompt("both", (), prompt), ["A dog and a hat."], ["COCO_000001", "2"]),
            Case(Prompt("row", (), prompt), ["A dog."], ["9"]),
        ]
    )
    assert [rating["exact"] for rating in verdicts[0].ratings] == pytest.approx(
        [0.9 / 2 - 0.0002, -1 - 0.0002]
    )
    assert verdicts[0].reasons[1] == "invents hat; 0 of 2 objects; 2 words"
    assert verdicts[1].ratings[0]["exact"] == pytest.approx(0.9 - 0.0002)
    assert verdicts[2].reasons == ("invents nothing; 2 of 3 objects; 5 words",)
    assert (verdicts[3].problem, verdicts[3].ratings) == ("the image has no object list", ())


def test_attributes_of_an_answer() -> None:
    judge = exact_judge(OBJECTS, WORDS, (2, 5, 8, 11))
    (verdict,) = judge([Case(Prompt("1", (), []), ["A dog and a hat. A dog and a hat. And a"])])
    ratings = {name: verdict.ratings[0][name] for name in ATTRIBUTES}
    assert ratings == {
        "Helpfulness": 1,  # 2 of 4 x recall 1/2
        "Correctness": 2,  # 1 of 2 named is there
        "Coherence": 1,  # 2 of 3 sentences are new: 2.67, cut off
        "Complexity": 2,
        "Verbosity": 4,  # 12 words
    }


@pytest.mark.parametrize(
    ("invented", "recalled", "expected"), [(0, 0, 4), (0, 3, 4), (1, 3, 3), (1, 99, 3), (2, 0, 0)]
)
def test_only_an_answer_without_invention_is_correct(
    invented: int, recalled: int, expected: int
) -> None:
    assert correctness(counts(invented, recalled, 100)) == expected


def test_helpfulness_rounds_to_the_nearest() -> None:
    # 4 x 7/8 = 3.5, up; 4 x 6/7 = 3.43, down; nothing to find: as correct as it is.
    assert helpfulness(counts(0, 7, 8)) == 4
    assert helpfulness(counts(0, 6, 7)) == 3
    assert helpfulness(counts(1, 0, 0)) == 0
    assert helpfulness(counts(0, 0, 0)) == 4


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A dog. A cat.", 4),
        ("A dog. a  dog.", 2),
        ("A dog sits on the", 3),
        ('He said "Come."', 4),
        ("Yes", 4),
        ("", 0),
    ],
)
def test_coherence(answer: str, expected: int) -> None:
    assert coherence(answer) == expected


def test_two_images_that_would_share_a_list_are_refused() -> None:
    """`train_1` and `val_1` both end in 1: one list for two pictures."""
    judge = exact_judge(OBJECTS, WORDS, (1, 2, 3, 4))
    cases = [
        Case(Prompt("a", (), [user_message("?")]), ["A dog."], ["train_1"]),
        Case(Prompt("b", (), [user_message("?")]), ["A dog."], ["val_1"]),
    ]
    judge(cases[:1])
    with pytest.raises(UserError, match=r"train_1 and val_1 .*\"1\""):
        judge(cases[1:])
