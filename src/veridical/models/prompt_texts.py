"""Conversations up to where the model goes on: what it is asked when it samples."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.data.messages import Message, assistant_message
from veridical.data.text.thoughts import opens_thought
from veridical.models.answer_bounds import answer_span, continuation_start
from veridical.models.conversation_checks import refuse_special_tokens
from veridical.models.policy import Policy
from veridical.models.templates import begins_thoughts, thinking_advice
from veridical.models.text_tokens import tokenize
from veridical.models.turns import Rendered, locate
from veridical.runtime.errors import RefusedRowError


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
    refuse_special_tokens(policy, prompt)
    asked = locate(policy, prompt, generation=True)
    between: dict[str, str] = {}  # what stands before each beginning that was rendered
    # White space at an answer's ends is not part of it.
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
    refuse_special_tokens(policy, [beginning])
    if opens_thought(asked.text):
        raise RefusedRowError(
            "the prompt begins a thought, so the answer's beginning can't be given; "
            + thinking_advice(policy.processor, policy.template, "false", "name another model")
        )
    whole = locate(policy, [*prompt, beginning], answer_alone=True)
    start, _ = answer_span(whole.spans[-1])
    return whole.text[continuation_start(asked, whole) : start]


def in_thought(policy: Policy) -> bool:
    """Whether this policy's prompts end with a thought that has just begun."""
    return begins_thoughts(policy.processor, policy.template)


def tokenize_after(policy: Policy, text: str, after: str) -> list[int]:
    """The tokens of `text` where it follows `after`: the two are tokenized as one.

    Raises:
        RefusedRowError: a token reaches from one into the other.
    """
    tokens = tokenize(policy.processor.tokenizer, after + text)
    return tokens.ids[tokens.before(len(after)) :]
