"""How many tokens rows have for a model, its weights not loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from veridical.data.messages import Message, assistant_message
from veridical.inspection.rows import Row
from veridical.models.lengths import Counting, counting, prompt_length
from veridical.models.policy import Policy
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import Group, render_group
from veridical.runtime.errors import RefusedRowError

FIRST = 64
"""Rows by which it is found out how a processor's image tokens are counted."""


@dataclass(frozen=True)
class Measured:
    """Tokens of a row: the prompt with its images, the longest answer; or why there are none."""

    prompt: int = 0
    answer: int = 0
    refusal: str = ""


def own_limit(policy: Policy) -> int | None:
    """The most tokens that the model's positions are made for."""
    limit = getattr(policy.core.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def measuring(
    policy: Policy, first: Sequence[Row], limit: int
) -> tuple[Callable[[Row], Measured], str]:
    """A function that counts a row's tokens, and why it has to prepare each image, if it has.

    Pixels do not matter, so an image is a blank one of its size.

    Args:
        policy: whose processor and template count; its weights are not used.
        first: some of the rows.
        limit: near which the processor has the last word.
    """
    rendered = [_rendered(policy, row) for row in first[:FIRST] if row.record is not None]
    groups = [group for group in rendered if isinstance(group, Group)]
    counts = counting(policy, [(group.images, group.prompt_text) for group in groups])

    def measure(row: Row) -> Measured:
        group = _rendered(policy, row)
        if isinstance(group, str):
            return Measured(refusal=group)
        return _measured(policy, counts, group, limit)

    return measure, counts if isinstance(counts, str) else ""


def _measured(policy: Policy, counts: Counting | str, group: Group, limit: int) -> Measured:
    longest = max(len(ids) for ids in group.response_ids)
    try:
        prompt = (group.images, group.prompt_text)
        return Measured(prompt_length(policy, counts, prompt, limit - longest), longest)
    except RefusedRowsError as error:
        return Measured(refusal=error.reason)


def _rendered(policy: Policy, row: Row) -> Group | str:
    assert row.record is not None
    prompt, responses = _asked(row)
    images = [Image.new("RGB", picture.size) for picture in row.pictures]
    try:
        return render_group(policy, row.id, images, prompt, responses)
    except RefusedRowError as error:
        return str(error)


def _asked(row: Row) -> tuple[list[Message], list[list[Message]]]:
    """A record's prompt and its answers."""
    record = row.record or {}
    if row.kind == "conversation":
        return record["messages"][:-1], [record["messages"][-1:]]
    if row.kind == "preference":
        return record["prompt"], [record["chosen"], record["rejected"]]
    if row.kind == "unpaired":
        return record["prompt"], [record["completion"]]
    answers = record.get("responses") or [[assistant_message(_TEXT["text"])]]
    return record["prompt"], answers


_TEXT = {"type": "text", "text": "."}
"""The shortest answer of a prompt that has none."""
