"""Conversations become text and tokens: where each answer begins, and what of it is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from veridical.data.image_checks import require_images
from veridical.data.images import ImageLike, load_image
from veridical.data.messages import Message, assistant_message, count_images, text_of, user_message
from veridical.data.text.thoughts import is_empty_thought, opens_thought, split_own_thought
from veridical.models.policy import Policy, end_token_ids
from veridical.models.templates import (
    begins_thoughts,
    keeps_thoughts,
    thinking_advice,
    thinking_is_on,
)
from veridical.models.text_tokens import Tokens, tokenize
from veridical.models.turns import Rendered, locate, prepared
from veridical.runtime.errors import RefusedRowError as RefusedRowError
from veridical.runtime.progress import counted


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
        token_counts: how many tokens each response's text has, those that were cut off included;
            empty where none were cut off.
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

    def images_of(self, response: int) -> tuple[ImageLike, ...]:
        """What is seen when this response is judged."""
        own = self.response_images[response] if self.response_images else None
        return self.images if own is None else own

    def learned_of(self, response: int) -> Tensor:
        """Which of a response's tokens count. Boolean. Shape: (tokens,)."""
        if self.learned:
            return self.learned[response]
        return torch.ones(len(self.response_ids[response]), dtype=torch.bool)

    def tokens_of(self, response: int) -> int:
        """How many tokens a response's text has, whether they are kept or not."""
        if self.token_counts:
            return self.token_counts[response]
        return len(self.response_ids[response])


def open_images(images: Sequence[ImageLike]) -> list[Image.Image]:
    """A row's images, decoded, in the order of its placeholders."""
    return [load_image(image) for image in images]


def render_prompt(policy: Policy, prompt: Sequence[Message], prefix: str = "") -> str:
    """Render a conversation up to the point where the model goes on.

    Args:
        policy: whose chat template is used.
        prompt: messages that end with a user turn.
        prefix: the beginning of the answer, which the model is to continue. It must not end in a
            space: tokenizers attach the space to the next word.

    Raises:
        RefusedRowError: special tokens in the text, or a template that refuses the conversation,
            changes its texts or cannot hold the prefix.
    """
    return _rendered(policy, prompt, [prefix])[0]


def render_requests(policy: Policy, requests: Sequence[tuple[Sequence[Message], str]]) -> list[str]:
    """What `render_prompt` gives for each prompt and prefix; a prompt object is rendered once.

    Raises:
        RefusedRowError: as for `render_prompt`.
    """
    places: dict[int, list[int]] = {}
    for place, (prompt, _) in enumerate(requests):
        places.setdefault(id(prompt), []).append(place)
    texts = [""] * len(requests)
    for same in places.values():
        prefixes = [requests[place][1] for place in same]
        rendered = _rendered(policy, requests[same[0]][0], prefixes)
        for place, text in zip(same, rendered, strict=True):
            texts[place] = text
    return texts


def _rendered(policy: Policy, prompt: Sequence[Message], prefixes: Sequence[str]) -> list[str]:
    """A prompt with each of several beginnings of its answer."""
    _refuse_special_tokens(policy, prompt)
    asked = locate(policy, prompt, generation=True)
    between: dict[str, str] = {}  # what stands before each beginning that was rendered
    # White space at an answer's ends is no part of it.
    bare = [prefix.lstrip() for prefix in prefixes]
    for prefix in sorted(set(bare) - {""}, key=len, reverse=True):
        if prefix != prefix.rstrip():
            raise RefusedRowError("the guided prefix ends in white space")
        longer = next((known for known in between if known.startswith(prefix)), None)
        # What a template does with a text it does with the beginning of that text.
        known = None if longer is None else between[longer]
        between[prefix] = _between(policy, asked, prompt, prefix) if known is None else known
    return [asked.text + (between[prefix] + prefix if prefix else "") for prefix in bare]


def _between(policy: Policy, asked: Rendered, prompt: Sequence[Message], prefix: str) -> str:
    """What the template puts between a prompt and the answer's beginning."""
    beginning = assistant_message(prefix)
    _refuse_special_tokens(policy, [beginning])
    if opens_thought(asked.text):
        raise RefusedRowError(
            "the prompt begins a thought, so the answer's beginning can't be given; "
            + thinking_advice(policy.processor, policy.template, "false", "name another model")
        )
    whole = locate(policy, [*prompt, beginning], answer_alone=True)
    start, _ = _span(whole.spans[-1])
    return whole.text[_joint(asked, whole) : start]


def in_thought(policy: Policy) -> bool:
    """Whether this policy's prompts end with a thought that has just begun."""
    return begins_thoughts(policy.processor, policy.template)


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
    for messages in (prompt, *responses):
        _refuse_special_tokens(policy, messages)
    _check_images(policy, images, [prompt])
    asked = locate(policy, prompt, generation=True)
    prompt_ids = tokenize(policy.processor.tokenizer, asked.text).ids
    parts = []
    for response in responses:
        text, own = _after_prompt(policy, asked, [*prompt, *response])
        parts.append((text, _own_ids(asked.text, prompt_ids, own)))
    _require_every_image(policy, images, response_images)
    return _group(id, images, asked.text, parts, max_response_tokens, response_images)


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
    _check_images(policy, images, [prompt])
    after = user_message(question, images=0)
    _refuse_special_tokens(policy, [*prompt, after])
    asked = locate(policy, prompt, generation=True).text
    wholes, bounds = [], []
    for response in responses:
        _refuse_special_tokens(policy, response)
        whole = locate(policy, [*prompt, *response, after], generation=True)
        if whole.text.startswith(asked):
            bounds.append(len(asked))  # An empty answer has no place of its own, but a score.
        else:
            bounds.append(_bare_end(whole.text, _span(whole.spans[len(prompt)])[0]))
        wholes.append(whole.text)
    prompt_text = wholes[0][: min(bounds)]
    if not all(whole.startswith(prompt_text) for whole in wholes):
        raise RefusedRowError("the chat template renders the prompt differently for each answer")
    tokenizer = policy.processor.tokenizer
    prompt_ids = tokenize(tokenizer, prompt_text).ids
    parts = [
        (
            whole[len(prompt_text) :],
            _own_ids(prompt_text, prompt_ids, tokenize(tokenizer, whole)),
        )
        for whole in wholes
    ]
    _require_every_image(policy, images, response_images)
    return _group(id, images, prompt_text, parts, None, response_images)


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
    _check_images(policy, images, [messages])
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


def tokenize_after(policy: Policy, text: str, after: str) -> list[int]:
    """The tokens of `text` where it follows `after`: the two are tokenized as one.

    Raises:
        RefusedRowError: a token reaches from one into the other.
    """
    tokens = tokenize(policy.processor.tokenizer, after + text)
    return tokens.ids[tokens.before(len(after)) :]


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
    _refuse_special_tokens(policy, messages[: answers[-1] + 1])
    try:
        whole = locate(policy, messages[: answers[-1] + 1])
        asked = [locate(policy, messages[:turn], generation=True).text for turn in answers]
        if not all(whole.text.startswith(text) and not opens_thought(text) for text in asked):
            return None
        if not _keeps_thoughts(policy, whole, messages, answers):
            return None
        for turn in answers:
            (answer,) = prepared(policy, messages[turn : turn + 1])
            _require_thought_as_switched(policy, answer, begun=False)
        text, tokens = _ended(policy, whole.text, _span(whole.spans[answers[-1]])[1])
        learned = torch.zeros(len(tokens.ids), dtype=torch.bool)
        for turn, before in zip(answers[:-1], asked, strict=False):
            stop = _answer_end(policy, whole, tokens, turn)
            if stop is None:
                return None
            learned[tokens.before(len(before)) : stop] = True
        learned[tokens.before(len(asked[-1])) :] = True
        begin = tokens.before(len(asked[0]))
        prompt_ids = tokenize(policy.processor.tokenizer, asked[0]).ids
        ids = _own_ids(asked[0], prompt_ids, tokens)
    except RefusedRowError:
        # Answer by answer it may work; if not, that error says why.
        return None
    group = _group(id, images, asked[0], [(text[len(asked[0]) :], ids)], max_response_tokens, ())
    kept = len(group.response_ids[0])
    return dataclasses.replace(group, learned=(learned[begin : begin + kept],))


def _keeps_thoughts(
    policy: Policy, whole: Rendered, messages: Sequence[Message], answers: Sequence[int]
) -> bool:
    """Whether every answer stands behind its thought: templates drop those of earlier turns."""
    ready = prepared(policy, messages)
    for turn in answers:
        start, end = _span(whole.spans[turn])
        if ready[turn].get("reasoning_content", "").strip() not in whole.text[start:end]:
            return False
    return True


def _answer_end(policy: Policy, whole: Rendered, tokens: Tokens, turn: int) -> int | None:
    """How many tokens there are up to the end token of a turn's answer; None if it has none."""
    stop, ends = tokens.before(_span(whole.spans[turn])[1]), end_token_ids(policy)
    # The end token stands before the next turn's text.
    until = sum(end <= whole.next_text[turn] for end in tokens.ends)
    closing = next((i for i in range(stop, until) if tokens.ids[i] in ends), None)
    return None if closing is None else closing + 1


def _after_prompt(
    policy: Policy, asked: Rendered, conversation: Sequence[Message]
) -> tuple[str, Tokens]:
    """What follows the prompt, up to its end token, and the tokens of prompt and response."""
    whole = locate(policy, conversation, answer_alone=True)
    answer = prepared(policy, conversation)[-1]
    thought = answer.get("reasoning_content")
    if not any(block["text"].strip() for block in answer["content"]):
        raise RefusedRowError("the answer is empty")
    _require_thought_as_switched(policy, answer, opens_thought(asked.text))
    if thought and not whole.text.startswith(asked.text):
        raise RefusedRowError(_thinking_is_off(policy))
    joint = _joint(asked, whole)
    text = asked.text + whole.text[joint:]
    stop = len(asked.text) + _span(whole.spans[-1])[1] - joint
    text, tokens = _ended(policy, text, stop)
    return text[len(asked.text) :], tokens


def _require_thought_as_switched(policy: Policy, answer: Message, begun: bool) -> None:
    """A thought before the answer where thinking is on, and none where it is off.

    Args:
        policy: whose template may have a switch.
        answer: as `prepared` gives it.
        begun: whether the prompt ends with a thought that has just begun.

    Raises:
        RefusedRowError: it is not so.
    """
    apart = answer.get("reasoning_content")
    thought = apart or split_own_thought(text_of(answer)).thought
    on = thinking_is_on(policy.processor, policy.template)
    if thought and on is False:
        raise RefusedRowError(_thinking_is_off(policy))
    if (begun and not apart) or (on and not thought):
        what = "the prompt begins a thought" if begun else "thinking is switched on"
        raise RefusedRowError(
            f"{what}, and the answer has none; "
            + thinking_advice(
                policy.processor,
                policy.template,
                "false",
                "give answers with their thoughts"
                if keeps_thoughts(policy.processor, policy.template)
                else "choose a chat template that keeps thoughts",
            )
        )


def _thinking_is_off(policy: Policy) -> str:
    return "the answer has a thought, and thinking is switched off; " + thinking_advice(
        policy.processor, policy.template, "true", "give answers without thoughts"
    )


def _joint(asked: Rendered, whole: Rendered) -> int:
    """From where on the whole conversation follows the prompt.

    The prompt is what the model is given, even where the template renders what precedes an answer
    otherwise later on. But it has to ask with what the answer is rendered behind. Other white
    space (LLaVA-OneVision) and an empty thought that is left out later make no difference.
    """
    turn = len(asked.spans)
    start, _ = _span(whole.spans[turn])
    if whole.text.startswith(asked.text) and len(asked.text) <= start:
        return len(asked.text)
    given = asked.text[_last_text(asked, turn) :]
    rendered = whole.text[_last_text(whole, turn) : start].rstrip()
    if rendered.split() == given.split():
        return start
    if given.startswith(rendered) and is_empty_thought(given[len(rendered) :]):
        return start
    raise RefusedRowError(
        "the chat template renders the prompt differently once the answer follows, "
        "so the answer's tokens can't be found"
    )


def _last_text(rendered: Rendered, turn: int) -> int:
    """Where the last text before a turn ends."""
    return max((span[1] for span in rendered.spans[:turn] if span), default=0)


def _ended(policy: Policy, text: str, stop: int) -> tuple[str, Tokens]:
    """The text up to the end token behind an answer, and its tokens.

    One is put where the answer stops if the template leaves it to the trainer (LLaVA-1.5's).
    """
    tokenizer, ends = policy.processor.tokenizer, end_token_ids(policy)
    tokens = tokenize(tokenizer, text)
    for i in range(len(tokens.ids)):
        begins = tokens.ends[i - 1] if i else 0
        if tokens.ids[i] in ends and begins >= stop:
            last = tokens.ends[i]
            return text[:last], Tokens(tokens.ids[: i + 1], tokens.ends[: i + 1])
    if tokenizer.eos_token is None:
        raise RefusedRowError("neither the template nor the tokenizer has an end token")
    text = text[:stop] + tokenizer.eos_token
    return text, tokenize(tokenizer, text)


def _own_ids(prompt_text: str, prompt_ids: list[int], whole: Tokens) -> list[int]:
    """The response's tokens; those before it have to be the prompt's, as the model is asked."""
    count = whole.before(len(prompt_text))
    if whole.ids[:count] != prompt_ids:
        raise RefusedRowError(
            "the tokenizer reads the prompt differently once the answer follows, "
            "so the answer's tokens can't be found"
        )
    return whole.ids[count:]


def _group(
    id: str,
    images: Sequence[ImageLike],
    prompt_text: str,
    parts: Sequence[tuple[str, list[int]]],
    max_response_tokens: int | None,
    response_images: Sequence[Sequence[ImageLike] | None],
) -> Group:
    limit = max_response_tokens
    return Group(
        id,
        tuple(images),
        prompt_text,
        tuple(text for text, _ in parts),
        tuple(torch.tensor(ids[:limit]) for _, ids in parts),
        tuple(limit is not None and len(ids) > limit for _, ids in parts),
        tuple(None if one is None else tuple(one) for one in response_images),
        token_counts=tuple(len(ids) for _, ids in parts),
    )


def _bare_end(text: str, place: int) -> int:
    """The end of what stands before a place, without white space: no token ends inside that."""
    return len(text[:place].rstrip())


def _span(span: tuple[int, int] | None) -> tuple[int, int]:
    if span is None:
        raise RefusedRowError("the answer is empty")
    return span


def _check_images(
    policy: Policy, images: Sequence[ImageLike], turns: Sequence[Sequence[Message]]
) -> None:
    blocks = sum(
        block["type"] == "image"
        for turn in turns
        for message in turn
        for block in message["content"]
    )
    if blocks != len(images):
        raise RefusedRowError(
            f"{counted(blocks, 'image blocks')} in the prompt, but {counted(len(images), 'images')}"
        )


def _require_every_image(
    policy: Policy,
    images: Sequence[ImageLike],
    response_images: Sequence[Sequence[ImageLike] | None],
) -> None:
    """Those of the prompt, and those that a response has in their place."""
    for own in (images, *response_images):
        require_images(policy.processor, own or ())


def _refuse_special_tokens(policy: Policy, messages: Sequence[Message]) -> None:
    special = special_tokens(policy)
    for message in prepared(policy, messages):
        texts = [block.get("text", "") for block in message["content"]]
        for text in (*texts, message.get("reasoning_content", "")):
            found = next((token for token in special if token in text), None)
            if found:
                raise RefusedRowError(
                    f"the text holds {found!r}, which this model reads as a special token; "
                    "write it differently"
                )


def special_tokens(policy: Policy) -> list[str]:
    """Every token that text must not hold: listed as special, marked so, or the processor's own."""
    tokenizer, processor = policy.processor.tokenizer, policy.processor
    return _special_tokens(
        tokenizer, processor, len(tokenizer), tuple(tokenizer.all_special_tokens)
    )


@lru_cache(maxsize=8)
def _special_tokens(
    tokenizer: Any, processor: Any, size: int, listed: tuple[str, ...]
) -> list[str]:
    marked = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    own = [value for name, value in vars(processor).items() if name.endswith("_token")]
    found = {*listed, *marked, *(token for token in own if isinstance(token, str))}
    return sorted(token for token in found if token)
