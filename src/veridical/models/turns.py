"""Where each turn's text stands in a rendered conversation.

Nothing is searched for: the conversation is rendered a second time with a mark in place of every
text, and what stands between the marks has to stand between the texts. So a text is found also
where it occurs twice, and a template that changes, repeats or leaves out a text is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from veridical.data.messages import Block, Message, text_block
from veridical.data.text.thoughts import split_own_thought
from veridical.models.policy import Policy
from veridical.models.templates import keeps_thoughts, render
from veridical.runtime.errors import RefusedRowError


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: the whole of it.
        spans: for each message where its text begins and ends, its thought included; None where it
            has no text.
        next_text: for each message where the next message's text begins; the end after the last.
    """

    text: str
    spans: tuple[tuple[int, int] | None, ...]
    next_text: tuple[int, ...]


@dataclass(frozen=True)
class _Piece:
    message: int
    text: str
    may_be_left_out: bool


def prepared(policy: Policy, messages: Sequence[Message]) -> list[Message]:
    """Messages as they are rendered.

    Neighboring text blocks become one. White space at an answer's ends is not part of it. A thought
    before an answer is given apart, as `reasoning_content`, where the template renders that.
    """
    apart = None
    result = []
    for message in messages:
        blocks: list[Block] = []
        for block in message["content"]:
            if blocks and block["type"] == blocks[-1]["type"] == "text":
                blocks[-1] = text_block(blocks[-1]["text"] + block["text"])
            else:
                blocks.append(block.copy())
        ready: Message = {"role": message["role"], "content": blocks}
        if message["role"] == "assistant" and len(blocks) == 1 and blocks[0]["type"] == "text":
            answer = blocks[0]["text"].strip()
            reply = split_own_thought(answer)
            if reply.thought is not None and reply.finished:
                if apart is None:
                    apart = keeps_thoughts(policy.processor, policy.template)
                if apart:
                    answer = reply.answer
                    ready["reasoning_content"] = reply.thought
            ready["content"] = [text_block(answer)]
        result.append(ready)
    return result


def locate(
    policy: Policy,
    messages: Sequence[Message],
    generation: bool = False,
    answer_alone: bool = False,
) -> Rendered:
    """Render a conversation and find each message's text.

    Args:
        policy: whose template is used.
        messages: the conversation.
        generation: end where the model is to answer.
        answer_alone: only the last message's text has to be there.

    Raises:
        RefusedRowError: the template refuses it, or changes, repeats or leaves out a text.
    """
    ready = prepared(policy, messages)
    mark = "VeridicalText"
    while any(mark in text for message in ready for text in _texts(message)):
        mark += "X"
    marked, pieces = _marked(ready, mark)
    scaffold = re.split(
        rf"{mark}(\d+)z", render(policy.processor, policy.template, marked, generation)
    )
    text = render(policy.processor, policy.template, ready, generation)
    numbers = [int(number) for number in scaffold[1::2]]
    needed = range(len(ready) - 1 if answer_alone else 0, len(ready))
    _check_order(numbers, pieces, ready, needed)
    between = scaffold[::2]
    if not text.startswith(between[0]):
        raise RefusedRowError("the chat template writes something else around other texts")
    place = len(between[0])
    found: dict[int, list[int]] = {}
    for number, following in zip(numbers, between[1:], strict=True):
        piece, last = pieces[number], number == numbers[-1]
        written = _written(text, place, piece.text, following, last)
        if written is None:
            role = ready[piece.message]["role"]
            raise RefusedRowError(f"the chat template changes the text of a turn ({role})")
        span = found.setdefault(piece.message, [place, place])
        span[1] = place + len(written)
        place += len(written) + len(following)
    spans = [tuple(found[i]) if i in found else None for i in range(len(ready))]
    following_texts = [
        min((span[0] for later, span in found.items() if later > i), default=len(text))
        for i in range(len(ready))
    ]
    return Rendered(text, tuple((s[0], s[1]) if s else None for s in spans), tuple(following_texts))


def _texts(message: Message) -> list[str]:
    own = [block["text"] for block in message["content"] if block["type"] == "text"]
    return [*own, message.get("reasoning_content", "")]


def _marked(messages: Sequence[Message], mark: str) -> tuple[list[Message], list[_Piece]]:
    pieces: list[_Piece] = []
    last = len(messages) - 1

    def marked_text(number: int, text: str, may_be_left_out: bool = False) -> str:
        if not text.strip():
            return text
        pieces.append(_Piece(number, text, may_be_left_out))
        return f"{mark}{len(pieces) - 1}z"

    result: list[Message] = []
    for number, message in enumerate(messages):
        copy = message.copy()
        if "reasoning_content" in message:
            # Templates drop the thoughts of earlier turns, as the model will not see them either.
            thought = marked_text(number, message["reasoning_content"], number < last)
            copy["reasoning_content"] = thought
        copy["content"] = [
            text_block(marked_text(number, block["text"])) if block["type"] == "text" else block
            for block in message["content"]
        ]
        result.append(copy)
    return result, pieces


def _check_order(
    numbers: Sequence[int],
    pieces: Sequence[_Piece],
    messages: Sequence[Message],
    needed: range,
) -> None:
    for number, piece in enumerate(pieces):
        times = numbers.count(number)
        role = messages[piece.message]["role"]
        if times > 1:
            raise RefusedRowError(f"the chat template repeats the text of a turn ({role})")
        if times == 0 and piece.message in needed and not piece.may_be_left_out:
            raise RefusedRowError(f"the chat template leaves out the text of a turn ({role})")


def _written(text: str, place: int, piece: str, following: str, last: bool) -> str | None:
    """How a text is written at its place: as it is, or without white space at its ends."""
    for written in (piece, piece.strip(), piece.lstrip(), piece.rstrip()):
        end = place + len(written)
        ended = not last or end + len(following) == len(text)
        if ended and text.startswith(written, place) and text.startswith(following, end):
            return written
    return None
