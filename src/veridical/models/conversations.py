"""Conversations of which every assistant turn is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby

import torch

from veridical.data.image_checks import require_images
from veridical.data.images import ImageLike
from veridical.data.messages import Message, count_images
from veridical.data.text.thoughts import opens_thought
from veridical.models.answer_bounds import answer_span, own_ids, up_to_end
from veridical.models.answer_parts import RenderedAnswer
from veridical.models.conversation_checks import (
    check_images,
    refuse_special_tokens,
    require_thought_as_switched,
)
from veridical.models.policy import Policy, end_token_ids
from veridical.models.rendering import Group, make_group, render_group
from veridical.models.text_tokens import Tokens, tokenize
from veridical.models.turns import Rendered, locate, prepared
from veridical.runtime.errors import RefusedRowError


def render_conversation(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    messages: Sequence[Message],
    max_response_tokens: int | None = None,
) -> list[Group]:
    """A conversation of which every assistant turn is learned, and nothing else.

    What follows the first question is one response, whose user turns do not count. A second group
    begins, with all before it as its prompt, where a later question brings an image of its own
    (image placeholders cannot stand in a response). Every turn has a group of its own where the
    template renders an earlier turn otherwise than it asks for one (Qwen3.5 leaves the thought's
    place out), without its thought (Gemma 4) or without an end token (LLaVA-1.5): each answer is
    learned after what the model is given when it answers, and with its end.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id, and every group's.
        images: in the order of the placeholders.
        messages: they end with an assistant turn.
        max_response_tokens: longer responses lose their end, end token included.

    Raises:
        RefusedRowError: as for `render_group`.
    """
    check_images(policy, images, [messages])
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    groups = []
    for seen, turns in groupby(answers, key=lambda turn: count_images(messages[:turn])):
        own, pictures = list(turns), images[:seen]
        if len(own) > 1:
            together = _one_response(policy, id, pictures, messages, own, max_response_tokens)
            if together is not None:
                groups.append(together)
                continue
        groups += [
            render_group(
                policy, id, pictures, messages[:turn], [messages[turn : turn + 1]],
                max_response_tokens,
            )
            for turn in own
        ]  # fmt: skip
    require_images(policy.processor, images)
    return groups


def _one_response(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    messages: Sequence[Message],
    answers: Sequence[int],
    max_response_tokens: int | None,
) -> Group | None:
    """Several answers as one response.

    None where one would not follow what the model is given when it answers, or lacks an end token.
    """
    refuse_special_tokens(policy, messages[: answers[-1] + 1])
    try:
        whole = locate(policy, messages[: answers[-1] + 1])
        asked = [locate(policy, messages[:turn], generation=True).text for turn in answers]
        if not all(whole.text.startswith(text) and not opens_thought(text) for text in asked):
            return None
        if not _keeps_thoughts(policy, whole, messages, answers):
            return None
        for turn in answers:
            (answer,) = prepared(policy, messages[turn : turn + 1])
            require_thought_as_switched(policy, answer, begun=False)
        text, tokens = up_to_end(policy, whole.text, answer_span(whole.spans[answers[-1]])[1])
        learned = torch.zeros(len(tokens.ids), dtype=torch.bool)
        for turn, before in zip(answers[:-1], asked, strict=False):
            stop = _answer_end(policy, whole, tokens, turn)
            if stop is None:
                return None
            learned[tokens.before(len(before)) : stop] = True
        learned[tokens.before(len(asked[-1])) :] = True
        begin = tokens.before(len(asked[0]))
        prompt_ids = tokenize(policy.processor.tokenizer, asked[0]).ids
        ids = own_ids(asked[0], prompt_ids, tokens)
    except RefusedRowError:
        # Answer by answer it may work; if not, that error says why.
        return None
    group = make_group(
        id, images, asked[0], [RenderedAnswer(text[len(asked[0]) :], ids)], max_response_tokens, ()
    )
    kept = len(group.response_ids[0])
    return dataclasses.replace(group, learned=(learned[begin : begin + kept],))


def _keeps_thoughts(
    policy: Policy, whole: Rendered, messages: Sequence[Message], answers: Sequence[int]
) -> bool:
    """Whether every answer stands behind its thought: templates drop those of earlier turns."""
    ready = prepared(policy, messages)
    for turn in answers:
        start, end = answer_span(whole.spans[turn])
        if ready[turn].get("reasoning_content", "").strip() not in whole.text[start:end]:
            return False
    return True


def _answer_end(policy: Policy, whole: Rendered, tokens: Tokens, turn: int) -> int | None:
    """How many tokens there are up to the end token of a turn's answer; None if it has none."""
    stop, ends = tokens.before(answer_span(whole.spans[turn])[1]), end_token_ids(policy)
    # The end token stands before the next turn's text.
    until = sum(end <= whole.next_text[turn] for end in tokens.ends)
    closing = next((i for i in range(stop, until) if tokens.ids[i] in ends), None)
    return None if closing is None else closing + 1
