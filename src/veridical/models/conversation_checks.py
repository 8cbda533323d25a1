"""What is refused in a conversation: special tokens, images that lack, thoughts that are off."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from veridical.data.image_checks import require_images
from veridical.data.images import ImageLike
from veridical.data.messages import Message, text_of
from veridical.data.text.thoughts import split_own_thought
from veridical.models.policy import Policy
from veridical.models.templates import (
    keeps_thoughts,
    thinking_advice,
    thinking_is_on,
)
from veridical.models.turns import prepared
from veridical.runtime.errors import RefusedRowError
from veridical.runtime.progress import counted


def refuse_special_tokens(policy: Policy, messages: Sequence[Message]) -> None:
    """Refuse text that holds what the model reads as a special token.

    Raises:
        RefusedRowError: it does.
    """
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
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin,
    size: int,
    listed: tuple[str, ...],
) -> list[str]:
    marked = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    own = [value for name, value in vars(processor).items() if name.endswith("_token")]
    found = {*listed, *marked, *(token for token in own if isinstance(token, str))}
    return sorted(token for token in found if token)


def require_thought_as_switched(policy: Policy, answer: Message, begun: bool) -> None:
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
        raise RefusedRowError(thinking_is_off(policy))
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


def thinking_is_off(policy: Policy) -> str:
    """Says why an answer with a thought can't be used, and what to set."""
    return "the answer has a thought, and thinking is switched off; " + thinking_advice(
        policy.processor, policy.template, "true", "give answers without thoughts"
    )


def check_images(
    policy: Policy, images: Sequence[ImageLike], turns: Sequence[Sequence[Message]]
) -> None:
    """Refuse turns whose image blocks are not as many as the images.

    Raises:
        RefusedRowError: they are not.
    """
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


def require_every_image(
    policy: Policy,
    images: Sequence[ImageLike],
    response_images: Sequence[Sequence[ImageLike] | None],
) -> None:
    """Those of the prompt, and those that a response has in their place."""
    for own in (images, *response_images):
        require_images(policy.processor, own or ())
