"""SteerLM: a prompt that asks for an answer with given attributes (Dong et al. 2023).

In training the request tells how each answer was rated; afterwards it asks for what is wanted.
Both are rendered here, so that they are the same text. That it stands at the end of the last
question, with the marks on a line of their own, follows Li et al. (2024); the words are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from veridical.data.messages import Message, clean_messages, text_block
from veridical.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

Numerals: TypeAlias = Literal["digits", "words"]

ATTRIBUTES = ("Helpfulness", "Correctness", "Coherence", "Complexity", "Verbosity")
"""HelpSteer's attributes, in the order in which they are written."""
MOST = 4
"""They are whole numbers from 0 to this."""
ALL_HIGHEST = "all-4"
REQUEST = "Give an answer with these five marks, from zero (least) to four (most):"
WORDS = ("zero", "one", "two", "three", "four")

_PART = re.compile(r"\s*([A-Za-z]+)\s*:\s*([0-9]+)\s*")


def parse_steer(steer: str) -> dict[str, int]:
    """Read what was asked for with `--steer`.

    Args:
        steer: `all-4`, or all five as "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,
            Verbosity:1", in any order; after `all-4` single ones may follow:
            "all-4,Verbosity:1".

    Raises:
        UserError: an attribute is unknown, missing, given twice or not in 0 to 4.
    """
    parts = steer.split(",")
    base = dict.fromkeys(ATTRIBUTES, MOST) if parts[0].strip() == ALL_HIGHEST else {}
    given: dict[str, int] = {}
    for part in parts[1:] if base else parts:
        match = _PART.fullmatch(part)
        name = match[1].capitalize() if match else ""
        if match is None or name not in ATTRIBUTES or name in given or int(match[2]) > MOST:
            raise UserError(
                f"--steer can't take {part.strip()!r}: write each of {', '.join(ATTRIBUTES)} once, "
                f'from 0 to {MOST}, as "Helpfulness:4,Correctness:4,...", or {ALL_HIGHEST}.'
            )
        given[name] = int(match[2])
    wanted = base | given
    missing = [name for name in ATTRIBUTES if name not in wanted]
    if missing:
        raise UserError(
            f"--steer leaves out {', '.join(missing)}. Give all five, or begin with {ALL_HIGHEST}: "
            f'"{ALL_HIGHEST},{ATTRIBUTES[-1]}:1".'
        )
    return {name: wanted[name] for name in ATTRIBUTES}


def numerals_for(tokenizer: PreTrainedTokenizerBase) -> Numerals:
    """How marks are written for a model: as digits, or as words where it cannot read digits.

    A tokenizer of whole words (the embedded model's) may know no digit, and all marks would be
    the same unknown token. The same model gets the same form in training and afterwards.

    Raises:
        UserError: it cannot tell the marks apart in either form.
    """
    forms: tuple[Numerals, ...] = ("digits", "words")
    for numerals in forms:
        texts = (steering_text(dict.fromkeys(ATTRIBUTES, mark), numerals) for mark in range(5))
        ids = {tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
        if len(ids) == len(WORDS):
            return numerals
    raise UserError(
        "This model's tokenizer reads the marks 0 to 4 as the same tokens, so it can't be steered "
        "by them. Take a model whose tokenizer knows digits."
    )


def steering_text(marks: Mapping[str, int], numerals: Numerals = "digits") -> str:
    """The sentence, and the marks on a line of their own."""
    if numerals == "digits":
        return f"{REQUEST}\n" + ",".join(f"{name}:{marks[name]}" for name in ATTRIBUTES)
    return f"{REQUEST}\n" + ", ".join(f"{name}: {WORDS[marks[name]]}" for name in ATTRIBUTES)


def steer_prompt(
    prompt: Sequence[Message], marks: Mapping[str, int], numerals: Numerals
) -> list[Message]:
    """A prompt whose last user turn ends with the request.

    Args:
        prompt: messages that end with a user turn; left as they are.
        marks: attribute to value, whole numbers 0 to 4.
        numerals: from `numerals_for`.
    """
    *before, last = clean_messages(prompt)
    *blocks, end = last["content"]
    text = steering_text(marks, numerals)
    if end["type"] == "text":
        added = [text_block(f"{end['text']}\n{text}")]
    else:
        added = [end, text_block(text)]
    return [*before, {"role": last["role"], "content": [*blocks, *added]}]


def steered(
    prompt: Sequence[Message], steer: str | None, processor: ProcessorMixin
) -> list[Message]:
    """A prompt with what `--steer` asked for; without it the prompt as it is.

    Raises:
        UserError: as for `parse_steer` and `numerals_for`.
    """
    if not steer:
        return list(prompt)
    return steer_prompt(prompt, parse_steer(steer), numerals_for(processor.tokenizer))
