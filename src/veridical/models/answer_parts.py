"""Which tokens of an answer count, and how much: its given beginning, and weights of its parts.

Records name parts by characters. The conversation is rendered and tokenized once, as a whole, and
the parts are mapped onto its tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.data.images import ImageLike
from veridical.data.messages import Message, text_of
from veridical.models.text_tokens import Tokens
from veridical.runtime.errors import RefusedRowError

Span = tuple[int | None, int | None, float]
"""Start, end and weight in characters of an answer's text; None is the response's own start or end,
its end token included."""


@dataclass(frozen=True)
class Answer:
    """An answer that is to be rendered behind its prompt.

    Attributes:
        messages: one assistant turn.
        images: what it has in place of the prompt's images; None where it has those.
        prefix: the beginning of its text that does not count; no white space at its ends.
        spans: weights of parts of its text; they do not overlap, and the rest has weight 1.
        prompt: what it answers in place of the common prompt, with `images` as its pictures.
        hidden: share of the tokens of its `images` that it can't see.
    """

    messages: Sequence[Message]
    images: Sequence[ImageLike] | None = None
    prefix: str = ""
    spans: Sequence[Span] = ()
    prompt: Sequence[Message] | None = None
    hidden: float = 0.0


@dataclass(frozen=True)
class RenderedAnswer:
    """What follows the prompt in a rendered conversation.

    Attributes:
        text: up to the end token.
        ids: its tokens.
        given: how many of them belong to a given beginning.
        weights: of each token; None where all are 1. Shape: (tokens,).
        prompt_text: the rendered prompt, where it is another than the common one.
    """

    text: str
    ids: list[int]
    given: int = 0
    weights: Tensor | None = None
    prompt_text: str | None = None


@dataclass(frozen=True)
class _Places:
    """Maps characters of an answer's text onto the rendered conversation.

    Both end at the same character. The text may begin with a thought, which a template may write
    in another way; only what follows it has a place then.
    """

    text: str
    begin: int
    stop: int

    def of(self, place: int, what: str) -> int:
        """Where a character of the answer's text stands.

        Raises:
            RefusedRowError: it stands in a thought.
        """
        lead, end = len(self.text) - len(self.text.lstrip()), len(self.text.rstrip())
        if self.begin < 0:
            return self.stop - end + min(max(place, lead), end)
        if place < self.begin:
            raise RefusedRowError(f"{what} ends or begins inside the answer's thought")
        return self.stop - end + min(place, end)


def places(messages: Sequence[Message], answer: Message, stop: int) -> _Places:
    """How an answer's text maps onto a rendered conversation.

    Args:
        messages: the answer as the record has it.
        answer: the same, `prepared`.
        stop: where its text ends in the conversation.
    """
    text = text_of(messages)
    begin = -1
    if "reasoning_content" in answer:
        begin = len(text.rstrip()) - len(text_of(answer))
    return _Places(text, begin, stop)


def given_tokens(prefix: str, where: _Places, tokens: Tokens, first: int) -> int:
    """How many of the response's tokens belong to its given beginning.

    A token that reaches beyond it, as a word's does that begins inside it, is not given: it counts.

    Args:
        prefix: the beginning.
        where: places of the answer's text.
        tokens: of the whole conversation.
        first: which of them is the response's first.

    Raises:
        RefusedRowError: it ends in a thought that is rendered apart.
    """
    if not prefix:
        return 0
    lead = len(where.text) - len(where.text.lstrip())
    place = where.of(lead + len(prefix), "the answer_prefix")
    return max(0, bisect_right(tokens.ends, place) - first)


def token_weights(
    spans: Iterable[Span], where: _Places, text: str, tokens: Tokens, first: int
) -> Tensor | None:
    """The weight of each token of the response; None where all are 1.

    A token has the weight of the span that it shares a character with, white space aside; of two
    spans, that with more of it, and the earlier one where both have as many.

    Args:
        spans: of the answer's text.
        where: places of that text.
        text: of the whole conversation.
        tokens: of it.
        first: which of them is the response's first.

    Raises:
        RefusedRowError: a span begins or ends in a thought that is rendered apart.
    """
    weights = torch.ones(len(tokens.ids), dtype=torch.float64)
    most = [0] * len(tokens.ids)
    starts = _starts(tokens.ends)
    for start, end, weight in sorted(spans, key=lambda span: span[0] or 0):
        begin = starts[first] if start is None else where.of(start, "a part with a weight")
        stop = len(text) if end is None else where.of(end, "a part with a weight")
        for i in range(max(first, bisect_right(tokens.ends, begin)), len(tokens.ids)):
            if starts[i] >= stop:
                break
            part = text[max(begin, starts[i]) : min(stop, tokens.ends[i])]
            # An end token is not white space; a line break that is one token may be all of a span.
            shared = len(part.strip()) or int(begin <= starts[i] and tokens.ends[i] <= stop)
            if shared > most[i]:
                most[i], weights[i] = shared, weight
    own = weights[first:]
    return None if bool((own == 1).all()) else own


def _starts(ends: Sequence[int]) -> list[int]:
    """Where each token begins; those that make one character together begin where it does."""
    starts: list[int] = []
    for i, end in enumerate(ends):
        before = ends[i - 1] if i else 0
        starts.append(before if end > before or not i else starts[i - 1])
    return starts
