"""Conversations become text and tokens: where each answer begins, and what of it is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from veridical.data.images import ImageLike, load_image
from veridical.data.messages import Message
from veridical.data.text.thoughts import opens_thought
from veridical.models.answer_bounds import answer_span, continuation_start, own_ids, up_to_end
from veridical.models.answer_parts import (
    Answer,
    RenderedAnswer,
    given_tokens,
    places,
    token_weights,
)
from veridical.models.conversation_checks import (
    check_images,
    refuse_special_tokens,
    require_every_image,
    require_thought_as_switched,
    thinking_is_off,
)
from veridical.models.policy import Policy
from veridical.models.text_tokens import tokenize
from veridical.models.turns import Rendered, locate, prepared
from veridical.runtime.errors import RefusedRowError as RefusedRowError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """One prompt with its k responses, rendered and tokenized, before any image is opened.

    Attributes:
        id: the row's id.
        images: what `open_image` takes, in the order of the placeholders.
        prompt_text: the rendered conversation up to where the answer starts.
        response_texts: the rest of the rendered conversation, for each response.
        response_ids: its tokens, ending with an end token unless cut. Shape of each: (tokens,).
        cut: for each response, whether its end was cut off.
        response_images: for each response the images it has in place of `images`, or None;
            empty where all share them.
        learned: for each response, True at the tokens that count (a conversation's later user
            turns do not); empty where all count.
        sampled: whether the tokens are those that a policy sampled, which another tokenization of
            the same text need not be.
        beta_factor: what a preference loss multiplies its beta by for this pair.
        weights: for each response, what each token's log-probability is multiplied by; empty where
            all weights are 1. Shape of each: (tokens,), float64.
        contrasts: how many of the last responses are there for a comparison alone: the first ones
            again under other images, or answers of other rows; None where none is.
        label: of a row without a pair, whether its answer is a good one.
        prompt_texts: for each response the prompt that it has in place of `prompt_text`, or None;
            None where all share it.
        hidden: for each response, the share of its own images' tokens that can't be seen; None
            where all can.
        token_counts: how many tokens each response's text has, those that were cut off included;
            empty where none were cut off.
        prompt_tokens: for each response, how many tokens its prompt has, image tokens included;
            empty until `check_lengths` has counted them.
    """

    id: str
    images: tuple[ImageLike, ...]
    prompt_text: str
    response_texts: tuple[str, ...]
    response_ids: tuple[Tensor, ...]
    cut: tuple[bool, ...]
    response_images: tuple[tuple[ImageLike, ...] | None, ...] = ()
    learned: tuple[Tensor, ...] = ()
    sampled: bool = False
    token_counts: tuple[int, ...] = ()
    beta_factor: float = 1.0
    prompt_tokens: tuple[int, ...] = ()
    weights: tuple[Tensor, ...] | None = None
    contrasts: int | None = None
    label: bool | None = None
    prompt_texts: tuple[str | None, ...] | None = None
    hidden: tuple[float, ...] | None = None

    def hidden_of(self, response: int) -> float:
        """The share of image tokens that this response can't see."""
        return self.hidden[response] if self.hidden else 0.0

    def prompt_of(self, response: int) -> str:
        """The rendered conversation up to where this response starts."""
        own = self.prompt_texts[response] if self.prompt_texts else None
        return self.prompt_text if own is None else own

    def images_of(self, response: int) -> tuple[ImageLike, ...]:
        """What is seen when this response is judged."""
        own = self.response_images[response] if self.response_images else None
        return self.images if own is None else own

    def learned_of(self, response: int) -> Tensor:
        """Which of a response's tokens count. Boolean. Shape: (tokens,)."""
        if self.learned:
            return self.learned[response]
        return torch.ones(len(self.response_ids[response]), dtype=torch.bool)

    def weights_of(self, response: int) -> Tensor:
        """What each of a response's tokens weighs. Shape: (tokens,), float64."""
        if self.weights:
            return self.weights[response]
        return torch.ones(len(self.response_ids[response]), dtype=torch.float64)

    def tokens_of(self, response: int) -> int:
        """How many tokens a response's text has, whether they are kept or not."""
        if self.token_counts:
            return self.token_counts[response]
        return len(self.response_ids[response])


def take_responses(group: Group, places: Sequence[int]) -> Group:
    """A group with some of its responses, in another order or repeated."""

    def taken(values: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(values[i] for i in places) if values else values

    return dataclasses.replace(
        group,
        response_texts=taken(group.response_texts),
        response_ids=taken(group.response_ids),
        cut=taken(group.cut),
        response_images=taken(group.response_images),
        learned=taken(group.learned),
        token_counts=taken(group.token_counts),
        prompt_tokens=taken(group.prompt_tokens),
        weights=group.weights and taken(group.weights),
        prompt_texts=group.prompt_texts and taken(group.prompt_texts),
        hidden=group.hidden and taken(group.hidden),
    )


def open_images(images: Sequence[ImageLike]) -> list[Image.Image]:
    """A row's images, decoded, in the order of its placeholders."""
    return [load_image(image) for image in images]


def render_group(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    prompt: Sequence[Message],
    responses: Sequence[Sequence[Message]],
    max_response_tokens: int | None = None,
    response_images: Sequence[Sequence[ImageLike] | None] = (),
) -> Group:
    """Render one prompt and its responses, and find each response's tokens.

    The prompt is what the model is given when it answers. Prompt and response are tokenized
    together, once, and the boundary between them is mapped onto the tokens.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id.
        images: in the order of the placeholders.
        prompt: messages that end with a user turn.
        responses: for each response, its messages: one assistant turn.
        max_response_tokens: longer responses lose their end, end token included.
        response_images: images that a response has in place of `images`, if any has.

    Raises:
        RefusedRowError: images and placeholders differ in number, special tokens stand in the text,
            or the template does not render the prompt and the answers as they are.
    """
    own_images = response_images or [None] * len(responses)
    answers = [Answer(one, own) for one, own in zip(responses, own_images, strict=True)]
    return render_answers(policy, id, images, prompt, answers, max_response_tokens)


def render_answers(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    max_response_tokens: int | None = None,
) -> Group:
    """The same as `render_group`, of answers that may have given beginnings and weights.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id.
        images: in the order of the placeholders.
        prompt: messages that end with a user turn.
        answers: the responses.
        max_response_tokens: longer responses lose their end; a given beginning does not add to it.

    Raises:
        RefusedRowError: as for `render_group`; a beginning or a weighed part ends in a thought.
    """
    for messages in (prompt, *(answer.messages for answer in answers)):
        refuse_special_tokens(policy, messages)
    check_images(policy, images, [prompt])
    asked = locate(policy, prompt, generation=True)
    prompt_ids = tokenize(policy.processor.tokenizer, asked.text).ids
    parts = [
        _after_prompt(policy, asked, prompt_ids, prompt, answer)
        if answer.prompt is None
        else _after_own_prompt(policy, answer.prompt, answer)
        for answer in answers
    ]
    own_images = [answer.images for answer in answers]
    if all(own is None for own in own_images):
        own_images = []
    require_every_image(policy, images, own_images)
    group = make_group(id, images, asked.text, parts, max_response_tokens, own_images)
    hidden = tuple(answer.hidden for answer in answers)
    return dataclasses.replace(group, hidden=hidden) if any(hidden) else group


def _after_own_prompt(policy: Policy, prompt: Sequence[Message], answer: Answer) -> RenderedAnswer:
    """What follows a prompt that is this answer's alone."""
    check_images(policy, answer.images or (), [prompt])
    asked = locate(policy, prompt, generation=True)
    prompt_ids = tokenize(policy.processor.tokenizer, asked.text).ids
    part = _after_prompt(policy, asked, prompt_ids, prompt, answer)
    return dataclasses.replace(part, prompt_text=asked.text)


def _after_prompt(
    policy: Policy,
    asked: Rendered,
    prompt_ids: list[int],
    prompt: Sequence[Message],
    given: Answer,
) -> RenderedAnswer:
    """What follows the prompt, up to its end token."""
    conversation = [*prompt, *given.messages]
    whole = locate(policy, conversation, answer_alone=True)
    answer = prepared(policy, conversation)[-1]
    thought = answer.get("reasoning_content")
    if not any(block["text"].strip() for block in answer["content"]):
        raise RefusedRowError("the answer is empty")
    require_thought_as_switched(policy, answer, opens_thought(asked.text))
    if thought and not whole.text.startswith(asked.text):
        raise RefusedRowError(thinking_is_off(policy))
    joint = continuation_start(asked, whole)
    text = asked.text + whole.text[joint:]
    stop = len(asked.text) + answer_span(whole.spans[-1])[1] - joint
    text, tokens = up_to_end(policy, text, stop)
    ids = own_ids(asked.text, prompt_ids, tokens)
    first, where = len(tokens.ids) - len(ids), places(given.messages, answer, stop)
    return RenderedAnswer(
        text[len(asked.text) :],
        ids,
        given_tokens(given.prefix, where, tokens, first),
        token_weights(given.spans, where, text, tokens, first),
    )


def make_group(
    id: str,
    images: Sequence[ImageLike],
    prompt_text: str,
    parts: Sequence[RenderedAnswer],
    max_response_tokens: int | None,
    response_images: Sequence[Sequence[ImageLike] | None],
) -> Group:
    """A group of rendered responses, each with its tokens; longer ones lose their end."""
    longest = max_response_tokens
    limits = [None if longest is None else part.given + longest for part in parts]
    kept = [part.ids[:limit] for part, limit in zip(parts, limits, strict=True)]
    learned: tuple[Tensor, ...] = ()
    if any(part.given for part in parts):
        pairs = zip(parts, kept, strict=True)
        learned = tuple(torch.arange(len(ids)) >= part.given for part, ids in pairs)
    return Group(
        id,
        tuple(images),
        prompt_text,
        tuple(part.text for part in parts),
        tuple(map(torch.tensor, kept)),
        tuple(len(part.ids) > len(ids) for part, ids in zip(parts, kept, strict=True)),
        tuple(None if one is None else tuple(one) for one in response_images),
        learned,
        token_counts=tuple(len(part.ids) for part in parts),
        weights=_weights(parts, kept),
        prompt_texts=(
            tuple(part.prompt_text for part in parts)
            if any(part.prompt_text is not None for part in parts)
            else None
        ),
    )


def _weights(
    parts: Sequence[RenderedAnswer], kept: Sequence[list[int]]
) -> tuple[Tensor, ...] | None:
    """The weights of the tokens that are kept; None where no part has any."""
    if all(part.weights is None for part in parts):
        return None
    return tuple(
        torch.ones(len(ids), dtype=torch.float64)
        if part.weights is None
        else part.weights[: len(ids)]
        for part, ids in zip(parts, kept, strict=True)
    )
