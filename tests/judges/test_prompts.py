"""What a judging model is asked, and what of its replies counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.data.messages import assistant_message, count_images, text_of, user_message
from veridical.data.prompts import Prompt
from veridical.judges.criterion import NAMES, parse_criterion, read_criterion
from veridical.judges.judging import Case
from veridical.judges.prompts import (
    UnreadableError,
    question_messages,
    read_marks,
)
from veridical.runtime.errors import UserError

ASPECTS = {"Helpfulness": (0, 4), "Correctness": (0, 4)}
GOOD = "One sees a dog.\nMARKS\nResponse 1: Helpfulness=1, Correctness=4\nResponse 2: {}"


@pytest.mark.parametrize(
    "row",
    [
        "Helpfulness=0, Correctness=2",
        "Correctness: 2; helpfulness: 0.",
        "**Helpfulness** = 0 | Correctness = 2",
    ],
)
def test_marks_by_hand(row: str) -> None:
    reasoning, marks = read_marks(GOOD.format(row), 2, ASPECTS)
    assert reasoning == "One sees a dog."
    assert marks == [
        {"Helpfulness": 1.0, "Correctness": 4.0},
        {"Helpfulness": 0.0, "Correctness": 2.0},
    ]


def test_marks_that_are_given_twice_have_to_agree() -> None:
    """A draft without all marks is none; whole ones that differ are not read."""
    last = GOOD.format("Helpfulness=0, Correctness=2")
    for draft in ("MARKS\nResponse 1: Helpfulness=0, Correctness=0\nOnce more.\n", f"{last}\n"):
        assert read_marks(draft + last, 2, ASPECTS)[1][0] == {
            "Helpfulness": 1.0,
            "Correctness": 4.0,
        }
    with pytest.raises(UnreadableError, match="differ"):
        read_marks(GOOD.format("Helpfulness=4, Correctness=4") + "\n" + last, 2, ASPECTS)


@pytest.mark.parametrize(
    "row",
    [
        "Helpfulness=0",
        "Helpfulness=0, Correctness=5",
        "Helpfulness=0, Correctness=-1",
        "Helpfulness=0, Correctness=2.5",
        "Helpfulness=0, Correctness=2/4",
        "Helpfulness=0, Correctness=2, Correctness=3",
        "Helpfulness=0, Correctness=2, Charm=3",
        "Helpfulness=0, Correctness=2 or 3",
        "Helpfulness=0, Correctness=2\nResponse 2: Helpfulness=1, Correctness=2",
        "Helpfulness=0, Correctness=2\nResponse 3: Helpfulness=1, Correctness=2",
        "",
    ],
)
def test_marks_that_are_not_whole_are_not_read(row: str) -> None:
    with pytest.raises(UnreadableError):
        read_marks(GOOD.format(row), 2, ASPECTS)


def test_a_question_shows_everything_once_and_asks_for_what_is_read() -> None:
    criterion = read_criterion("five", "marks")
    prompt = [user_message("What is it?"), assistant_message("A cat."), user_message("Sure?", 0)]
    case = Case(Prompt("a", ["x.png"], prompt, ["It is a dog."]), ["Yes.", "MARKS", "No."])
    [message] = question_messages(case, criterion, show_facts=False)
    assert (message["role"], count_images([message])) == ("user", 1)
    text = text_of(message)
    assert "User: [image 1] What is it?\nAssistant: A cat.\nUser: Sure?" in text
    assert "--- Response 2 begins ---\nMARKS\n--- Response 2 ends ---" in text
    assert "It is a dog." not in text
    assert "It is a dog." in text_of(question_messages(case, criterion, show_facts=True))
    # What the form asks for is what the parser takes, once the question marks are filled in.
    form = text[text.rindex("\nMARKS") :].replace("?", "3")
    assert read_marks(form, 3, criterion.aspects)[1] == [dict.fromkeys(criterion.aspects, 3.0)] * 3


def test_criteria_that_ship_and_those_that_are_wrong(tmp_path: Path) -> None:
    assert set(read_criterion("three", "marks").aspects.values()) == {(1, 5)}
    assert read_criterion("honesty", "choice").names == NAMES
    own = tmp_path / "own.md"
    own.write_text("---\nform: choice\nnames: [A, B]\n---\nThe shorter one.\n")
    assert read_criterion(str(own), "choice").names == ("A", "B")
    for name, form in (("honesty", "marks"), ("nowhere", "marks")):
        with pytest.raises(UserError, match=name):
            read_criterion(name, form)  # type: ignore[arg-type]
    for text in (
        "No head.",
        "---\nform: marks\n---\nText",
        "---\nform: marks\naspects: {A: [4, 0]}\n---\nText",
        "---\nform: marks\naspects: {two words: [0, 4]}\n---\nText",
        "---\nform: choice\nnames: [A, a]\n---\nText",
        "---\nform: [\n---\nText",
        "---\nform: choice\n---\n",
    ):
        with pytest.raises(UserError, match="--criteria own"):
            parse_criterion("own", text)
