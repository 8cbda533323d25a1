"""Two answers and a column that says which is better: what is recognized, and what is asked."""

from __future__ import annotations

from typing import Any

import pytest

from veridical.data.importers.winners import by_winner, find_two_answers, further_answers
from veridical.data.record_kinds import LeftOutError, RowError


def rows(winner: str, values: list[Any], a: str = "response_a", b: str = "response_b") -> Any:
    return [{"q": "Q?", a: "one", b: "two", winner: value} for value in values]


@pytest.mark.parametrize(
    ("found", "values"),
    [
        (rows("winner", ["A", "b", "tie"]), ("a", "b")),
        (rows("winner", ["model_a", "model_b", "tie (bothbad)"]), ("a", "b")),
        (rows("preference", ["Response A", "Response B"]), ("a", "b")),
        (rows("better", ["first", "second"]), ("first", "second")),
        (rows("winner", [1, 2, 1]), ("1", "2")),
        (rows("winner", ["1", "2"]), ("1", "2")),
        (rows("winner", [1.0, 1.0], "answer_1", "answer_2"), ("1", "2")),
        (rows("better_response_id", [1, 1], "response_0", "response_1"), ("0", "1")),
        # A label of 1 may say that the first is the better one; so may true.
        (rows("label", [0, 1]), ()),
        (rows("winner", [1, 1]), ()),
        (rows("winner", [0, 1, 2]), ()),
        (rows("winner", ["A", "B", "C"]), ()),  # which may be a tie
    ],
)
def test_which_answer_a_value_means_is_recognized_where_it_is_unmistakable(
    found: list[dict[str, object]], values: tuple[str, ...]
) -> None:
    two = find_two_answers(found)
    assert two is not None
    assert two.values == values
    assert found[0][two.columns["a"]] == "one"


@pytest.mark.parametrize(
    "found",
    [
        rows("comment", ["A", "B"]),
        rows("winner", ["gpt", "llava"]),
        rows("winner", ["tie", "tie"]),
        rows("bad_response", ["A", "B"]),  # which says the opposite
        rows("not_preferred", ["A", "B"]),
        rows("less_preferred", [1, 2]),
        rows("loser_label", ["first", "second"]),
        rows("winner", ["A", "B"], "image_a", "image_b"),
        rows("winner", ["A", "B"], "response_a", "answer_b"),
        [{"response_a": "one", "response_b": "two"}],
        [],
    ],
)
def test_other_columns_are_not_taken_for_a_winner_and_its_answers(
    found: list[dict[str, object]],
) -> None:
    assert find_two_answers(found) is None


def test_a_missing_answer_is_named() -> None:
    with pytest.raises(RowError, match="b: is missing"):
        by_winner({"a": "one", "b": None, "winner": "A"}, ())


def test_authors_are_those_of_the_two_answers() -> None:
    found = [row | {"model_a": "x", "model_b": "y"} for row in rows("winner", ["A", "B"])]
    two = find_two_answers(found)
    assert two is not None
    assert (two.columns["a_by"], two.columns["b_by"]) == ("model_a", "model_b")
    row = {"q": "Q?", "a": "one", "b": "two", "a_by": "x", "b_by": "y", "winner": "B"}
    assert by_winner(row, two.values) == {
        "q": "Q?", "chosen": "two", "rejected": "one", "chosen_by": "y", "rejected_by": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "values", "chosen"),
    [
        ("A", (), "one"), ("model_b", (), "two"), (2, ("1", "2"), "two"), (1.0, ("1", "2"), "one"),
        ("0", ("0", "1"), "one"), (1, ("1", "0"), "one"), ("GPT", ("gpt", "llava"), "one"),
        (True, ("true", "false"), "one"), ("same", ("same", "other"), "one"),
    ],
)  # fmt: skip
def test_a_winner_is_the_chosen_answer(said: object, values: tuple[str, ...], chosen: str) -> None:
    found = by_winner({"a": "one", "b": "two", "winner": said}, values)
    assert {found["chosen"], found["rejected"]} == {"one", "two"}
    assert found["chosen"] == chosen


@pytest.mark.parametrize(
    ("said", "values", "error"),
    [
        ("tie", (), LeftOutError), (None, (), LeftOutError), (" ", ("1", "2"), LeftOutError),
        (0, ("1", "2", "0"), LeftOutError), ("Tie (bothbad)", ("a", "b"), LeftOutError),
        (0, ("1", "2"), RowError), ("1", (), RowError), ("x", ("a", "b"), RowError),
        ("A", ("1", "2"), RowError), ([1], ("1", "2"), RowError),
    ],
)  # fmt: skip
def test_ties_are_left_out_and_other_values_are_errors(
    said: object, values: tuple[str, ...], error: type[RowError]
) -> None:
    with pytest.raises(RowError, match="winner: is") as refusal:
        by_winner({"a": "one", "b": "two", "winner": said}, values)
    assert type(refusal.value) is error


def test_a_row_without_a_winner_does_not_hide_the_others() -> None:
    found = [{"q": "Q?", "response_a": "one", "response_b": "two"}, *rows("winner", ["A", "B"])]
    two = find_two_answers(found)
    assert two is not None
    assert two.columns["winner"] == "winner"
    with pytest.raises(LeftOutError, match="is empty: neither answer"):
        by_winner({"a": "one", "b": "two"}, ("a", "b"))


def test_more_than_two_answers_are_seen() -> None:
    row = {"response_a": "x", "response_b": "y", "response_c": "z", "response_x": "", "q": "Q?"}
    assert further_answers([row]) == ["response_a", "response_b", "response_c"]
    assert further_answers([{"Answer 0": "x", "Answer 1": "y", "Answer 2": "z"}])[-1] == "Answer 2"
    assert further_answers([{"answer_1": "x", "answer_2": "y", "answer_4": "z"}]) == []
    assert further_answers([{"image_a": "x", "image_b": "y", "image_c": "z"}]) == []
    assert further_answers([row | {"response_c": None}]) == []
