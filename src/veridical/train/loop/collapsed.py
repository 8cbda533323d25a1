"""Pairs whose answers are the same once they are rendered: nothing can be learned from them."""

from __future__ import annotations

from collections.abc import Container

import torch

from veridical.data.images import image_bytes_key
from veridical.models.rendering import Group, RefusedRowError, take_responses


def collapsed(group: Group) -> list[int]:
    """The responses that are the first one again: the same tokens under the same images.

    Answers that differ in a file may be equal once they are rendered, stripped and cut. Such a
    pair teaches nothing, and would be counted as one of margin 0.
    """

    def seen(response: int) -> list[str]:
        keys = [image_bytes_key(image) for image in group.images_of(response)]
        return [*keys, f"hidden {group.hidden_of(response)}"]

    first = group.response_ids[0]
    equal = [i for i, ids in enumerate(group.response_ids) if i and torch.equal(ids, first)]
    own = bool(group.response_images)
    return [i for i in equal if not own or seen(i) == seen(0)]


def refuse_collapsed(group: Group) -> None:
    """Refuse a pair whose answer to compare with is the chosen one again: nothing is left of it.

    Raises:
        RefusedRowError: says why.
    """
    equal = collapsed(group)
    if 1 in equal:
        raise RefusedRowError(why_collapsed(group, 1, "rejected"))
    # Of all losses the first answer that is read once more is the chosen one, elsewhere.
    if _answers(group) in equal:
        raise RefusedRowError("contrast_images show the same as images")
    if again := [i for i in equal if i > _answers(group)]:
        raise RefusedRowError(why_collapsed(group, again[0], "contrast_chosen"))


def further_collapsed(group: Group) -> dict[int, str]:
    """The further rejected answers that are the chosen one again, and why."""
    return {i: why_collapsed(group, i, answer_field(i)) for i in collapsed(group) if i > 1}


def _answers(group: Group) -> int:
    """How many responses are not repeated under other images."""
    return len(group.response_ids) - (group.contrasts or 0)


def answer_field(response: int) -> str:
    """What a record calls a response behind the first two, such as `more_rejected/0`."""
    return f"more_rejected/{response - 2}"


def why_collapsed(group: Group, response: int, which: str) -> str:
    """Why a response, called so, is the chosen one again."""
    cut = group.cut[0] and group.cut[response]
    why = (
        f"in their first {len(group.response_ids[0])} tokens, where --max-response-tokens cuts"
        if cut
        else "once they are rendered and tokenized"
    )
    return f"chosen and {which} are the same {why}"


def without_responses(group: Group, dropped: Container[int]) -> Group:
    """The group without some of its responses."""
    kept = [i for i in range(len(group.response_ids)) if i not in dropped]
    return group if len(kept) == len(group.response_ids) else take_responses(group, kept)
