"""SteerLM's prompt: what is asked, how it is written, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from veridical.data.messages import Block, Message, assistant_message, text_of, user_message
from veridical.data.steering import (
    ATTRIBUTES,
    REQUEST,
    numerals_for,
    parse_steer,
    steer_prompt,
    steered,
    steering_text,
)
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError

HIGHEST = dict.fromkeys(ATTRIBUTES, 4)


def test_what_is_asked_for() -> None:
    assert parse_steer("all-4") == HIGHEST
    assert parse_steer("all-4,verbosity: 1") == HIGHEST | {"Verbosity": 1}
    written = "Verbosity:1,Helpfulness:0,Correctness:4,Coherence:3,Complexity:2"
    assert list(parse_steer(written).items()) == [
        ("Helpfulness", 0), ("Correctness", 4), ("Coherence", 3), ("Complexity", 2),
        ("Verbosity", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steer", "message"),
    [
        ("Helpfulness:4", "leaves out Correctness, Coherence, Complexity, Verbosity"),
        ("all-4,Verbosity:5", "can't take 'Verbosity:5'"),
        ("all-4,Truth:4", "can't take 'Truth:4'"),
        ("all-4,Verbosity:1,Verbosity:2", "can't take 'Verbosity:2'"),
        ("all-3", "can't take 'all-3'"),
        ("", "can't take ''"),
    ],
)
def test_what_cannot_be_asked_for(steer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_steer(steer)


def test_marks_in_digits_and_in_words() -> None:
    marks = HIGHEST | {"Verbosity": 0}
    assert steering_text(marks) == (
        f"{REQUEST}\nHelpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:0"
    )
    assert steering_text(marks, "words") == (
        f"{REQUEST}\nHelpfulness: four, Correctness: four, Coherence: four, Complexity: four, "
        "Verbosity: zero"
    )


def test_only_the_last_question_gets_the_request() -> None:
    prompt = [user_message("What?"), assistant_message("A dog."), user_message("Sure?", 0)]
    steered_prompt = steer_prompt(prompt, HIGHEST, "digits")
    assert steered_prompt[:2] == prompt[:2]
    assert text_of(steered_prompt[2]) == f"Sure?\n{steering_text(HIGHEST)}"
    assert text_of(prompt[2]) == "Sure?"
    blocks: list[Block] = [{"type": "text", "text": "Q"}, {"type": "image"}]
    only_image: list[Message] = [{"role": "user", "content": blocks}]
    last = steer_prompt(only_image, HIGHEST, "digits")[0]["content"]
    assert last == [*only_image[0]["content"], {"type": "text", "text": steering_text(HIGHEST)}]


def test_nothing_asked_changes_nothing(policy: Policy) -> None:
    prompt = [user_message("What?")]
    assert steered(prompt, None, policy.processor) == prompt


def test_a_tokenizer_without_digits_gets_words(policy: Policy) -> None:
    assert numerals_for(policy.processor.tokenizer) == "words"
    assert "Verbosity: one" in text_of(
        steered([user_message("What?")], "all-4,Verbosity:1", policy.processor)
    )


def test_a_tokenizer_with_digits_and_one_that_knows_nothing() -> None:
    def letters(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def nothing(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text.split())}

    assert numerals_for(letters) == "digits"
    with pytest.raises(UserError, match="as the same tokens"):
        numerals_for(nothing)
