"""Thought and answer: by text, by tokens, and in what judges say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.data.text.thoughts import (
    MARKS,
    PROMPTED_MARKS,
    answer_of,
    answer_tokens,
    is_empty_thought,
    opens_thought,
    split_own_thought,
    split_thought,
)
from veridical.judges.criterion import read_criterion
from veridical.judges.judging import Case
from veridical.judges.prompted import JudgeQuestion, JudgeReply, Questioning, choosing_looker
from veridical.sampling import Request
from veridical.sampling.reader import Reader


@pytest.mark.parametrize(("opening", "closing"), [*MARKS, *PROMPTED_MARKS])
def test_a_thought_is_what_stands_before_the_answer(opening: str, closing: str) -> None:
    text = f"{opening}\nA dog, or a cat?\n{closing}\n\nA dog.\n"
    assert answer_of(text) == "A dog."
    assert split_thought(text).thought == "A dog, or a cat?"
    # A prompt that ends inside a thought leaves the opening mark out of the answer.
    assert answer_of(f"A dog, or a cat?{closing}A dog.") == "A dog."
    assert answer_of(f"{opening}{closing}A dog.") == "A dog."
    unfinished = split_thought(f"{opening}A dog, or")
    assert (unfinished.thought, unfinished.answer, unfinished.finished) == ("A dog, or", "", False)


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_a_family_s_marks_count_in_prompts_and_training_data(opening: str, closing: str) -> None:
    assert split_own_thought(f"{opening}A dog?{closing}Yes.").thought == "A dog?"
    assert opens_thought(f"<user>What?<assistant>{opening}\n")
    assert not opens_thought(f"What is {opening} for?<assistant>")
    assert is_empty_thought(f"{opening}\n\n{closing}\n")
    assert not is_empty_thought(f"{opening}A dog.{closing}")


@pytest.mark.parametrize(("opening", "closing"), PROMPTED_MARKS)
def test_tags_that_a_prompt_asks_for_are_text_in_training_data(opening: str, closing: str) -> None:
    text = f"{opening}A dog?{closing}Yes."
    assert split_own_thought(text).thought is None and split_own_thought(text).answer == text
    assert not opens_thought(f"Begin with {opening}")
    assert not is_empty_thought(f"{opening}{closing}")


def test_a_text_without_a_thought_is_the_answer_as_it_is() -> None:
    assert split_thought(" A dog.\n").answer == " A dog.\n"
    text = "The marks <think> and </think> go around a thought."
    assert answer_of(text) == text
    assert answer_of("A dog, or", begun=True) == ""
    assert answer_of("A dog?</think>Yes.", begun=True) == "Yes."


def test_the_text_of_a_response_is_its_answer() -> None:
    tokenizer = Bytes()
    nothing = Request(Prompt("row", [], []))
    reader = Reader(tokenizer, [nothing, nothing])
    for thought in ("<think>A dog?</think>", "<|channel>thought\nA dog?<channel|>"):
        ids = [*tokenizer.encode(f"{thought}\n\nA dog."), 0]
        response = reader.read(0, Response("", tuple(ids)), until_sentence_end=False)
        assert (response.text, response.token_ids) == ("A dog.", tuple(ids))
    assert reader.text(0, tokenizer.encode("<think>A dog?")) == ""
    assert Reader(tokenizer, [nothing], True).text(0, tokenizer.encode("A d")) == ""
    ids = tokenizer.encode("A dog?</think>Yes.")
    assert tokenizer.decode(answer_tokens(tokenizer, ids, begun=True)) == "Yes."


class Bytes:
    """A token for every character; 0 ends."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(one) for one in ids if one)


REPLIES = [
    "<think>Response 1 is better at first sight. But it invents a dog.</think>\nResponse 2",
    "<think>\nResponse 1 looks better.\n</think>\n\nResponse 2 is better.",
    "Response 1 looks better at first.</think>Response 2",
]


def verdict(text: str) -> int | None:
    def ask(questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        return [JudgeReply(Response(text)) for _ in questions]

    case = Case(Prompt("a", (), [user_message("What?", images=0)]), ["A dog.", "A cat."])
    (look,) = choosing_looker(ask, Questioning(read_criterion("honesty", "choice"), 1))([case])
    return look.better


def test_a_judge_s_verdict_is_what_it_says_after_its_thought() -> None:
    assert [verdict(text) for text in REPLIES] == [1, 1, 1]
    # Cut off inside its thought it has said nothing.
    assert verdict("<think>Response 1 is better") is None


def test_verdicts_that_people_met(test_data: Path) -> None:
    case = test_data / "cases" / "thinking-judge" / "replies.json"
    for text, expected in json.loads(case.read_text())["replies"]:
        assert verdict(text) == expected
