"""Conversations become text and tokens: where each answer begins, and what of it is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor

from veridical.images import ImageLike, load_image
from veridical.messages import Message, assistant_message, count_images, user_message
from veridical.models import Policy, end_token_ids


class RefusedRowError(ValueError):
    """A row that cannot be used as it is; the message says why. Callers list it."""


@dataclass(frozen=True)
class Group:
    """One prompt with its k responses, rendered and tokenised, before any image is opened.

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
        sampled: whether the tokens are those that a policy sampled, which another tokenisation of
            the same text need not be.
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

    def images_of(self, response: int) -> tuple[ImageLike, ...]:
        """What is seen when this response is judged."""
        own = self.response_images[response] if self.response_images else None
        return self.images if own is None else own

    def learned_of(self, response: int) -> Tensor:
        """Which of a response's tokens count. Boolean. Shape: (tokens,)."""
        if self.learned:
            return self.learned[response]
        return torch.ones(len(self.response_ids[response]), dtype=torch.bool)


def open_images(images: Sequence[ImageLike]) -> list[Image.Image]:
    """A row's images, decoded, in the order of its placeholders."""
    return [load_image(image) for image in images]


def render_prompt(policy: Policy, prompt: Sequence[Message], prefix: str = "") -> str:
    """Render a conversation up to the point where the model goes on.

    Args:
        policy: whose chat template is used.
        prompt: messages that end with a user turn.
        prefix: the beginning of the answer, which the model is to continue. It must not end in a
            space: tokenisers attach the space to the next word.

    Raises:
        RefusedRowError: special tokens in the text, or a template that cannot hold the prefix.
    """
    beginning: list[Message] = [assistant_message(prefix)] if prefix else []
    _refuse_special_tokens(policy, [*prompt, *beginning])
    template = policy.processor.apply_chat_template
    text: str = template(list(prompt), add_generation_prompt=True, tokenize=False)
    if not prefix:
        return text
    if prefix != prefix.rstrip():
        raise RefusedRowError("the guided prefix ends in white space")
    full: str = template([*prompt, *beginning], tokenize=False)
    start = full.find(prefix, len(text))
    if not full.startswith(text) or start < 0 or full[len(text) : start].strip():
        raise RefusedRowError("the chat template does not keep the answer's beginning as it is")
    return full[: start + len(prefix)]


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

    The boundary comes from the rendered conversation: the prompt's tokens must be a prefix of
    the whole conversation's tokens, which is checked, never assumed.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id.
        images: in the order of the placeholders.
        prompt: messages that end with a user turn.
        responses: for each response, its messages.
        max_response_tokens: longer responses lose their end, end token included.
        response_images: images that a response has in place of `images`, if any has.

    Raises:
        RefusedRowError: images and placeholders differ in number, special tokens stand in the text,
            or the template is not prefix-stable.
    """
    _check_image_count(images, [prompt])
    prompt_text = render_prompt(policy, prompt)
    texts, all_ids, cut = [], [], []
    for response in responses:
        _refuse_special_tokens(policy, response)
        text, ids = _response_tokens(policy, prompt, prompt_text, response)
        too_long = max_response_tokens is not None and len(ids) > max_response_tokens
        texts.append(text)
        all_ids.append(torch.tensor(ids[:max_response_tokens] if too_long else ids))
        cut.append(too_long)
    own = tuple(None if one is None else tuple(one) for one in response_images)
    return Group(id, tuple(images), prompt_text, tuple(texts), tuple(all_ids), tuple(cut), own)


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
    another: there is no likelihood here.

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
    _check_image_count(images, [prompt])
    prompt_text = render_prompt(policy, prompt)
    after = user_message(question, images=0)
    _refuse_special_tokens(policy, [after])
    texts, all_ids = [], []
    for response in responses:
        _refuse_special_tokens(policy, response)
        whole = [*prompt, *response, after]
        full: str = policy.processor.apply_chat_template(
            whole, add_generation_prompt=True, tokenize=False
        )
        if not full.startswith(prompt_text):
            raise RefusedRowError("the chat template renders the prompt differently later on")
        text = full[len(prompt_text) :]
        texts.append(text)
        all_ids.append(torch.tensor(tokenise_after(policy, text, prompt_text)))
    own = tuple(None if one is None else tuple(one) for one in response_images)
    cut = (False,) * len(texts)
    return Group(id, tuple(images), prompt_text, tuple(texts), tuple(all_ids), cut, own)


def render_conversation(
    policy: Policy,
    id: str,
    images: Sequence[ImageLike],
    messages: Sequence[Message],
    max_response_tokens: int | None = None,
) -> list[Group]:
    """A conversation of which every assistant turn is learned, and nothing else.

    What follows the first question is one response, whose user turns do not count. Only where a
    later question brings an image of its own a second group begins, with all before it as its
    prompt: image placeholders cannot stand in a response.

    Args:
        policy: whose template and tokenizer are used.
        id: the row's id, and every group's.
        images: in the order of the placeholders.
        messages: they end with an assistant turn.
        max_response_tokens: longer responses lose their end, end token included.

    Raises:
        RefusedRowError: as for `render_group`.
    """
    _check_image_count(images, [messages])
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    groups = []
    for seen, turns in groupby(answers, key=lambda turn: count_images(messages[:turn])):
        own = list(turns)
        prompt, rest = messages[: own[0]], messages[own[0] : own[-1] + 1]
        group = render_group(policy, id, images[:seen], prompt, [rest], max_response_tokens)
        if len(own) > 1:
            learned = _learned(policy, messages, own, group)
            group = dataclasses.replace(group, learned=(learned,))
        groups.append(group)
    return groups


def _learned(
    policy: Policy, messages: Sequence[Message], answers: Sequence[int], group: Group
) -> Tensor:
    """True at the tokens of the given assistant turns, each with its end token if it has one."""
    template = policy.processor.apply_chat_template
    ids, ends = group.response_ids[0].tolist(), end_token_ids(policy)
    learned = torch.zeros(len(ids), dtype=torch.bool)
    for turn in answers:
        begin: str = template(list(messages[:turn]), add_generation_prompt=True, tokenize=False)
        end: str = template(list(messages[: turn + 1]), tokenize=False)
        start = _tokens_so_far(policy, begin, group, ids)
        stop = _tokens_so_far(policy, end, group, ids)
        last = [i for i in range(start, stop) if ids[i] in ends]
        if turn == answers[-1]:
            stop = len(ids)
        learned[start : last[-1] + 1 if last else stop] = True
    return learned


def _tokens_so_far(policy: Policy, text: str, group: Group, ids: list[int]) -> int:
    """How many tokens of the response a beginning of the conversation makes up."""
    whole = group.prompt_text + group.response_texts[0]
    # The last turn may end in white space that the response was stripped of.
    text = text if whole.startswith(text) else text.rstrip()
    if not (text.startswith(group.prompt_text) and whole.startswith(text)):
        raise RefusedRowError(
            "the chat template renders a turn differently once others follow, "
            "so the answers' tokens can't be told apart"
        )
    tokens = tokenise_after(policy, text[len(group.prompt_text) :], group.prompt_text)
    kept = min(len(tokens), len(ids))
    if tokens[:kept] != ids[:kept]:
        raise RefusedRowError(
            "the tokenizer joins one turn's end with the next turn's beginning, "
            "so the answers' tokens can't be told apart"
        )
    return kept


def _response_tokens(
    policy: Policy, prompt: Sequence[Message], prompt_text: str, response: Sequence[Message]
) -> tuple[str, list[int]]:
    full: str = policy.processor.apply_chat_template([*prompt, *response], tokenize=False)
    if not full.startswith(prompt_text):
        raise RefusedRowError(
            "the chat template renders the prompt differently once the answer follows, "
            "so the answer's tokens can't be told apart"
        )
    text = full[len(prompt_text) :]
    ends = end_token_ids(policy)
    ids = tokenise_after(policy, text, prompt_text)
    last = max((i for i, token in enumerate(ids) if token in ends), default=None)
    if last is None:
        # Some templates (LLaVA-1.5's) leave the end token to the trainer.
        if policy.processor.tokenizer.eos_token is None:
            raise RefusedRowError("neither the template nor the tokenizer has an end token")
        text = text.rstrip() + policy.processor.tokenizer.eos_token
        return text, tokenise_after(policy, text, prompt_text)
    kept = ids[: last + 1]
    if len(kept) < len(ids):
        text = text.rstrip()
    return text, kept


def tokenise_after(policy: Policy, text: str, after: str) -> list[int]:
    """The tokens of `text` where it follows `after`, which must keep its own tokens."""
    tokenizer = policy.processor.tokenizer
    before = tokenizer(after, add_special_tokens=False)["input_ids"]
    both = tokenizer(after + text, add_special_tokens=False)["input_ids"]
    if both[: len(before)] != before:
        raise RefusedRowError(
            "the tokenizer joins the end of the prompt with the beginning of the answer, "
            "so the answer's tokens can't be told apart"
        )
    tokens: list[int] = both[len(before) :]
    return tokens


def _check_image_count(images: Sequence[ImageLike], turns: Sequence[Sequence[Message]]) -> None:
    blocks = sum(
        block["type"] == "image"
        for turn in turns
        for message in turn
        for block in message["content"]
    )
    if blocks != len(images):
        raise RefusedRowError(f"{blocks} image blocks in the prompt, but {len(images)} images")


def _refuse_special_tokens(policy: Policy, messages: Sequence[Message]) -> None:
    special = _special_tokens(policy)
    for message in messages:
        for block in message["content"]:
            found = next((t for t in special if t in block.get("text", "")), None)
            if found:
                raise RefusedRowError(
                    f"the text holds {found!r}, which this model reads as a special token; "
                    "write it differently"
                )


def _special_tokens(policy: Policy) -> list[str]:
    tokenizer = policy.processor.tokenizer
    image = getattr(policy.processor, "image_token", None)
    return [token for token in {*tokenizer.all_special_tokens, image} if token]
