"""Separate the thought of a model that reasons first from its answer.

The rule, everywhere: what is scored, judged, compared and put into a data set is the answer. The
thought stays among the sampled tokens and is trained on only where thinking is switched on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
)
"""How families open and close a thought: Qwen, GLM and DeepSeek; Mistral; Gemma 4; Kimi."""
PROMPTED_MARKS = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
"""How prompts ask for a thought. In what a model said they are marks as well; in training data they
are text that the user wants to be learned."""


@dataclass(frozen=True)
class SplitThought:
    """A model's text in its two parts.

    Attributes:
        thought: without its marks; None where there is none.
        answer: what follows the thought, without white space at its ends where there is one; empty
            while the thought has no end.
        finished: whether the thought has an end, or there is none.
    """

    thought: str | None
    answer: str
    finished: bool = True


def split_thought(text: str, begun: bool = False) -> SplitThought:
    """Take apart what a model said; a thought may have a family's marks or those of a prompt.

    A thought stands at the beginning. Some prompts end inside one, so that the text has no opening
    mark: a closing mark without one ends a thought too.

    Args:
        text: what the model said, with the marks in it.
        begun: whether the prompt ended inside a thought: then text without any mark is thought.
    """
    return _split(text, begun, (*MARKS, *PROMPTED_MARKS))


def split_own_thought(text: str) -> SplitThought:
    """Take apart a turn of training data: only the families' marks make a thought there."""
    return _split(text, False, MARKS)


def _split(text: str, begun: bool, marks: Sequence[tuple[str, str]]) -> SplitThought:
    stripped = text.lstrip()
    for opening, closing in marks:
        opened = stripped.startswith(opening)
        before, found, after = stripped.partition(closing)
        if found and (opened or opening not in before):
            thought = before.removeprefix(opening).strip()
            return SplitThought(thought, after.strip())
        if opened:
            return SplitThought(stripped.removeprefix(opening).strip(), "", finished=False)
    if begun:
        return SplitThought(stripped.strip(), "", finished=False)
    return SplitThought(None, text)


def answer_of(text: str, begun: bool = False) -> str:
    """What a text says after its thought; the text itself where it has none."""
    return split_thought(text, begun).answer


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], begun: bool = False
) -> list[int]:
    """The tokens of an answer, without those of the thought before it.

    Where a family's marks are special tokens, text that is read without these has lost them.
    """

    def reply(count: int) -> SplitThought:
        return split_thought(tokenizer.decode(list(ids[:count]), skip_special_tokens=False), begun)

    whole = reply(len(ids))
    if whole.thought is None:
        return list(ids)
    if not whole.finished:
        return []
    ended = bisect_left(
        range(len(ids)), True, key=lambda count: reply(count).thought is not None
        and reply(count).finished
    )  # fmt: skip
    return list(ids[ended:])


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends with a thought that has just begun."""
    return prompt.rstrip().endswith(tuple(opening for opening, _ in MARKS))


def is_empty_thought(text: str) -> bool:
    """Whether a text is a thought without a word in it, as prompts have that switch thinking off.

    Nothing at all is one too.
    """
    bare = text.strip()
    if not bare:
        return True
    return any(
        bare.startswith(opening)
        and bare.endswith(closing)
        and not bare.removeprefix(opening).removesuffix(closing).strip()
        for opening, closing in MARKS
    )
