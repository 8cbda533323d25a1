"""Sentences: nothing lost, nothing torn, and no end declared before it is certain."""

from __future__ import annotations

import pytest

from veridical.sentences import (
    ends_sentence,
    first_sentence,
    split_sentences,
    starts_with_yes_or_no,
    swap_yes_no,
)

SPLITS = {
    "plain": ["A red cup.", " It stands on a table."],
    "decimal": ["It is 3.5 cm wide.", " It costs $2.99 today."],
    "number at the end": ["There are 3.", " They are red."],
    "list": ["I see:", "\n1. a cup", "\n2. a ball."],
    "list with stops": ["1. A cup.", "\n2. A ball."],
    "lettered list": ["a. A cup.", "\nb. A ball."],
    "title": ["Dr. Smith and Mrs. Jones sit.", " They read."],
    "latin": ["Some fruit, e.g. apples, lie there.", " I.e. food is there."],
    "initials inside": ["The U.S. Army truck is green.", " It is parked."],
    "initials at the end": ["It was made in the U.S.", " The car is old."],
    "name": ["A poster of J. Smith hangs there.", " It is torn."],
    "saint": ["A view of St. Louis.", " He is on Main St.", " The sun shines."],
    "etc": ["Cups, plates, etc. are there.", " Cups, plates, etc.", " Nobody eats."],
    "ellipsis inside": ["He waits... and waits.", " Then he goes."],
    "ellipsis at the end": ["He waits…", " Then he goes."],
    "speech": ['"Stop!" says the sign.', ' "Go."', " It is old."],
    "quotation at the end": ['The sign says "stop."', " The car waits."],
    "bracket": ["A cup (it is red.)", " It stands."],
    "question": ["Is it red?", " Yes!", " It is."],
    "no": ["No.", " There is no dog."],
    "numbered": ["Bus No. 5 waits.", " Fig. 2 shows it."],
    "letter": ["It is plan B.", " The dog sits."],
    "I": ["So do I.", " He laughs."],
    "small letters": ["a red ball.", " a blue cup."],
    "wrapped line": ["A cup stands\non the table.", "\n\nA dog sleeps."],
    "heading": ["Summary", "\n\nA dog sleeps"],
    "wide": ["一只狗。", "它在睡觉。"],
    "spaces": ["  A cup.", "   A ball.  \n"],
    "web": ["See example.com for more.", " Bye."],
    "empty": [],
    "blank": [" \n "],
}


@pytest.mark.parametrize("sentences", SPLITS.values(), ids=SPLITS.keys())
def test_split_tears_nothing_and_loses_nothing(sentences: list[str]) -> None:
    text = "".join(sentences)
    found = split_sentences(text)
    assert "".join(found) == text
    assert found == sentences


def test_what_stands_before_a_sentence_never_ends_in_a_space() -> None:
    text = "One cup.  Two  balls!\n\n 3. Three? Yes. \t No… Done. "
    sentences = split_sentences(text)
    for number in range(1, len(sentences)):
        before = "".join(sentences[:number])
        assert before == before.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "A cup on a table.",
        "Is it red?",
        "Yes!",
        "No.",
        "the answer is no.",
        'The sign says "stop."',
        "A cup (red).",
        "So do I.",
        "There are 3. They",
        "A cup\n\n",
        "A cup\nThe",
        "一只狗。",
        "It is 3.5 cm wide.",
    ],
)
def test_certain_ends(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A cup",
        "There are about 3.",
        "Dr.",
        "A photo of Dr.",
        "cups, e.g.",
        "made in the U.S.",
        "cups, etc.",
        "1.",
        "He waits...",
        "He waits…",
        'He says "stop.',
        "A cup (it is red.",
        'The "why?"',
        "Bus No.",
        "A cup\n",
        "plan B.",
        "\n\n",
    ],
)
def test_no_end_is_declared_while_more_may_come(text: str) -> None:
    assert not ends_sentence(text)


def test_a_given_beginning_counts_as_context_and_not_as_an_end() -> None:
    assert not ends_sentence("", before="A whole sentence.")
    assert not ends_sentence(".", before="It is 3")
    assert not ends_sentence("5 cm", before="It is 3.")
    assert not ends_sentence(".", before="We see Dr")
    assert ends_sentence(" table.", before="A cup on the")
    assert first_sentence(". Smith waves. He", before="We see Dr") == ". Smith waves."
    assert first_sentence(" A dog. A cat.", before="A cup.") == " A dog."


def test_first_sentence_keeps_its_stop_and_drops_the_rest() -> None:
    assert first_sentence(" a red cup. It stands.") == " a red cup."
    assert first_sentence(" 3.5 cm wide. Really.") == " 3.5 cm wide."
    assert first_sentence("no stop at all ") == "no stop at all"
    assert first_sentence(' "stop." The car') == ' "stop."'
    assert first_sentence("") == ""


def test_generation_character_by_character_stops_at_the_same_place_as_the_cut() -> None:
    text = ' the U.S. flag, 3.5 m wide, e.g. "a flag." It waves. A man is there.'
    for length in range(1, len(text) + 1):
        if ends_sentence(text[:length]):
            break
    assert first_sentence(text[:length]) == ' the U.S. flag, 3.5 m wide, e.g. "a flag."'
    assert first_sentence(text[:length]) == first_sentence(text)


@pytest.mark.parametrize(
    ("sentence", "swapped"),
    [
        ("Yes, there is.", "No, there is."),
        (" no, it is not.", " yes, it is not."),
        ("\nNo.", "\nYes."),
        ("yes", "no"),
    ],
)
def test_yes_and_no_are_swapped_with_their_case(sentence: str, swapped: str) -> None:
    assert starts_with_yes_or_no(sentence)
    assert swap_yes_no(sentence) == swapped
    assert swap_yes_no(swapped) == sentence


@pytest.mark.parametrize("sentence", ["Nothing.", "Now it rains.", "No-one.", "YES", "A yes.", ""])
def test_other_sentences_stay(sentence: str) -> None:
    assert not starts_with_yes_or_no(sentence)
    assert swap_yes_no(sentence) == sentence
