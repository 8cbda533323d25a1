"""From sampled tokens to text: with the spacing that they have behind the answer's beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import regex

from veridical.data.responses import Response
from veridical.data.text.sentences import ends_sentence, first_sentence
from veridical.data.text.thoughts import answer_tokens
from veridical.sampling.requests import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEAR = 8
"""Tokens of a given beginning that can have a say in how the next ones are spaced (our choice)."""

# A character whose bytes are several tokens is read as U+FFFD until the last of them is there.
_STOPS = regex.compile(r"[\r\n\u2026\u2028\u2029\ufffd]|\p{Sentence_Terminal}")


class Reader:
    """Reads the responses of some requests. A thought before an answer is not part of its text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        in_thought: bool = False,
    ) -> None:
        """Take what was asked, one request a response, and whether prompts begin a thought."""
        self.tokenizer = tokenizer
        self.in_thought = in_thought
        self.prefixes: list[list[int]] = [
            tokenizer(request.prefix, add_special_tokens=False)["input_ids"]
            if request.prefix
            else []
            for request in requests
        ]
        self.before = [self._decode(ids) for ids in self.prefixes]
        # Of the sentence alone where it is known, since what is before it decides nothing.
        self.begun = [
            before if request.begun is None else request.begun
            for request, before in zip(requests, self.before, strict=True)
        ]
        self.languages = [request.language for request in requests]
        self._may_end: dict[int, bool] = {}

    def text(self, row: int, ids: Sequence[int]) -> str:
        """What a row's tokens say, without special tokens."""
        if not self.prefixes[row]:
            return self._decode(answer_tokens(self.tokenizer, ids, self.in_thought)).strip()
        return self._decode([*self.prefixes[row], *ids])[len(self.before[row]) :]

    def read(self, row: int, said: Response, until_sentence_end: bool) -> Response:
        """A row's response with its text; with `until_sentence_end`, its first sentence alone."""
        text = self.text(row, said.token_ids)
        if until_sentence_end:
            # Where only the next word showed that the sentence was over, that word is cut off.
            text = first_sentence(text, self.begun[row], self.languages[row])
        return replace(said, text=text)

    def watch(self, row: int) -> SentenceEnd:
        """Follow one row as its tokens come."""
        return SentenceEnd(self, row)

    def may_end(self, token: int) -> bool:
        """Whether a token holds a character that can end a sentence in some language."""
        if token not in self._may_end:
            self._may_end[token] = can_end(self._decode([token]))
        return self._may_end[token]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


class SentenceEnd:
    """Whether a row's first sentence is over, asked after every token.

    The text is looked at only from the first character on that can end a sentence: what comes
    before can't, and a full stop is often understood only by the words behind it.
    """

    def __init__(self, reader: Reader, row: int) -> None:
        """Begin before the row's first token."""
        self.reader = reader
        self.near = reader.prefixes[row][-NEAR:]
        self.near_text = reader._decode(self.near)
        self.begun, self.language = reader.begun[row], reader.languages[row]
        self.undecided = False

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether the sentence is over with these tokens, of which the last one is new."""
        self.undecided = self.undecided or self.reader.may_end(ids[-1])
        return self.undecided and ends_sentence(self._text(ids), self.begun, self.language)

    def _text(self, ids: Sequence[int]) -> str:
        if not self.near:
            return self.reader._decode(ids).strip()
        return self.reader._decode([*self.near, *ids])[len(self.near_text) :]


def can_end(text: str) -> bool:
    """Whether a text holds a character that ends a sentence in some language, or a part of one."""
    return _STOPS.search(text) is not None
