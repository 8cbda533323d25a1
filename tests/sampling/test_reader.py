"""Sentence ends in a growing text: looked for seldom, found where every token would find them."""

# ruff: noqa: RUF001 - signs of other scripts are meant

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import regex
from family_models import build_tokenizer

from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.data.text.sentences import ends_sentence, first_sentence
from veridical.sampling.reader import Reader, can_end
from veridical.sampling.requests import Request
from veridical.world.model import build_tokenizer as build_word_tokenizer

TEXTS = [
    "This is a park. There is a red cup at the top left.",
    "There is about 3. 5 or 3.5 of it. Yes.",
    "Dr. Smith from the U.S. Army is here. He waits.",
    "No",
    "Wait... what? It is (see fig. 3.) a dog! Yes.",
    'He said "This is it." and left. Then he came.',
    "1. A cup.\n2. A dog.\n\nThat is all.",
    "a cup\n\nand a dog",
    "```\nx = 1.\n```\nDone. Yes.",
    "这是一个公园。那里有一只狗！",
    "यह एक पार्क है। वहाँ एक कुत्ता है।",
    "هل هذا كلب؟ نعم.",
    "Das ist z. B. ein Hund. Am 3. Mai war er da.",
    "| a | b. |\n| c. | d |\nEnd.",
    "A cat 🐈. And a dog 🐕! Yes…",
]


def asked(prefix: str, begun: str | None = None, language: str | None = None) -> Request:
    return Request(Prompt("row", [], []), prefix, begun, language)


PREFIXES = ["", "This is a park.", "There is a red cup. It", "He said (see"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_end_is_where_a_test_after_every_token_finds_it(prefix: str) -> None:
    tokenizer = build_tokenizer([], "<s>", "</s>", "<pad>")
    reader = Reader(tokenizer, [asked(prefix)])
    before, found = reader.before[0], set()
    for text in TEXTS:
        ids = tokenizer((" " if prefix else "") + text, add_special_tokens=False)["input_ids"]
        slow = [ends_sentence(reader.text(0, ids[:n]), before=before) for n in range(len(ids) + 1)]
        watch, fast = reader.watch(0), [False]
        for n in range(1, len(ids) + 1):
            fast.append(watch.is_over(ids[:n]))
        first = slow.index(True) if True in slow else None
        assert (fast.index(True) if True in fast else None) == first, text
        found.add(first)
    assert len(found) > 4


def tokens(ids: list[int]) -> Response:
    return Response("", tuple(ids))


def test_text_keeps_the_spacing_behind_a_beginning() -> None:
    for tokenizer in (build_tokenizer([], "<s>", "</s>", "<pad>"), build_word_tokenizer()):
        begun, whole = "There is a", "There is a red cup. No."
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        start = len(tokenizer(begun, add_special_tokens=False)["input_ids"])
        reader = Reader(tokenizer, [asked(begun)])
        assert reader.text(0, ids[start:]) == " red cup. No."
        said = reader.read(0, tokens(ids[start:]), until_sentence_end=True)
        assert said.text == first_sentence(" red cup. No.", before=begun) == " red cup."


def test_every_character_that_ends_a_sentence_is_noticed() -> None:
    listed = regex.compile(r"\p{Sentence_Terminal}")
    assert all(can_end(chr(i)) for i in range(sys.maxunicode + 1) if listed.match(chr(i)))
    assert can_end("\n") and can_end("half \ufffd")
    assert not can_end("a red, blue and (green) cup - it's 5:30")


def test_a_text_without_stops_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_word_tokenizer()
    reader = Reader(tokenizer, [asked("This is a")])
    words = tokenizer(" red cup at the top left", add_special_tokens=False)["input_ids"]
    stop = tokenizer(".", add_special_tokens=False)["input_ids"]
    watch, decoded = reader.watch(0), []

    def text(self: Any, ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return " red cup."

    monkeypatch.setattr(type(watch), "_text", text)
    for n in range(1, len(words) + 1):
        assert not watch.is_over(words[:n])
    assert not decoded
    watch.is_over([*words, *stop[-1:]])
    assert decoded == [len(words) + 1]


@pytest.mark.parametrize(("language", "first"), [("de", "Im 3. Stock."), (None, "Im 3.")])
def test_the_rules_are_those_of_the_language_that_is_asked_for(
    language: str | None, first: str
) -> None:
    """The first sentence of an answer of which nothing is given is too short to guess from."""
    tokenizer = build_tokenizer([], "<s>", "</s>", "<pad>")
    reader = Reader(tokenizer, [asked("", "", language)])
    ids = tokenizer("Im 3. Stock. Ja da.", add_special_tokens=False)["input_ids"]
    assert reader.read(0, tokens(ids), until_sentence_end=True).text == first
    if language:
        watch = reader.watch(0)
        over = next(n for n in range(1, len(ids) + 1) if watch.is_over(ids[:n]))
        said = reader.read(0, tokens(ids[:over]), until_sentence_end=True).text
        assert said == first


def test_what_is_before_the_sentence_decides_nothing() -> None:
    """A given beginning with an open quotation or fence before it would keep every end open."""
    tokenizer = build_tokenizer([], "<s>", "</s>", "<pad>")
    before = "He says “no.\n```\nx = 1\n"
    ids = tokenizer(" dog. It sleeps.", add_special_tokens=False)["input_ids"]
    begun = Reader(tokenizer, [asked(before + "A", "A")])
    assert begun.read(0, tokens(ids), until_sentence_end=True).text == " dog."
