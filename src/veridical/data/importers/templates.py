"""A prompt that holds a whole chat template, as messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from veridical.data.record_kinds import RowError

_END = re.compile(r"\s*(</s>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>)\s*$")


def without_template(prompt: object, marks: Sequence[str]) -> list[dict[str, str]]:
    """The turns of a prompt, without what a template put around them.

    Args:
        prompt: a text, or one message with a text.
        marks: what begins a user's turn, and what begins an assistant's.

    Raises:
        RowError: it is not text, or has no user's turn by these marks.
    """
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("content")
    if not isinstance(prompt, str):
        raise RowError("prompt", "is not text that a template could be taken from")
    user, assistant = marks
    parts = re.split(f"({re.escape(user)}|{re.escape(assistant)})", prompt)
    turns = [
        {"role": "user" if mark == user else "assistant", "content": _END.sub("", text).strip()}
        for mark, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()  # what opens the answer
    if not turns:
        raise RowError("prompt", f"has no turn that begins with {user}")
    return turns
