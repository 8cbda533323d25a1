"""A prompt with its responses, each followed by a question: what a reward model reads."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.data.images import ImageLike
from veridical.data.messages import Message, user_message
from veridical.models.answer_bounds import answer_span, own_ids
from veridical.models.answer_parts import RenderedAnswer
from veridical.models.conversation_checks import (
    check_images,
    refuse_special_tokens,
    require_every_image,
)
from veridical.models.policy import Policy
from veridical.models.rendering import Group, make_group
from veridical.models.text_tokens import tokenize
from veridical.models.turns import locate
from veridical.runtime.errors import RefusedRowError


def render_judged_group(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    prompt: Sequence[Message],
    responses: Sequence[Sequence[Message]],
    question: str,
    response_images: Sequence[Sequence[ImageLike] | None] = (),
) -> Group:
    """A prompt with its responses, each followed by a question about it, up to where one answers.

    A reward model reads its score off the last token. No token counts as learned less than
    another: there is no likelihood here. The prompt is what all responses have before them in the
    rendered conversation; nothing is generated, so it need not be what a model is given to answer.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id.
        images: in the order of the placeholders.
        prompt: messages that end with a user turn.
        responses: for each response, its messages.
        question: the user's turn after the response.
        response_images: images that a response has in place of `images`, if any has.

    Raises:
        RefusedRowError: as for `render_group`.
    """
    check_images(policy, images, [prompt])
    after = user_message(question, images=0)
    refuse_special_tokens(policy, [*prompt, after])
    asked = locate(policy, prompt, generation=True).text
    wholes, bounds = [], []
    for response in responses:
        refuse_special_tokens(policy, response)
        whole = locate(policy, [*prompt, *response, after], generation=True)
        if whole.text.startswith(asked):
            bounds.append(len(asked))  # An empty answer has no place of its own, but a score.
        else:
            bounds.append(_bare_end(whole.text, answer_span(whole.spans[len(prompt)])[0]))
        wholes.append(whole.text)
    prompt_text = wholes[0][: min(bounds)]
    if not all(whole.startswith(prompt_text) for whole in wholes):
        raise RefusedRowError("the chat template renders the prompt differently for each answer")
    tokenizer = policy.processor.tokenizer
    prompt_ids = tokenize(tokenizer, prompt_text).ids
    parts = [
        RenderedAnswer(
            whole[len(prompt_text) :],
            own_ids(prompt_text, prompt_ids, tokenize(tokenizer, whole)),
        )
        for whole in wholes
    ]
    require_every_image(policy, images, response_images)
    return make_group(id, images, prompt_text, parts, None, response_images)


def _bare_end(text: str, place: int) -> int:
    """The end of what stands before a place, without white space: no token ends inside that."""
    return len(text[:place].rstrip())
