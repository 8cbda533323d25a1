"""Pairs whose answers are the same once they are rendered: nothing can be learned from them."""

from __future__ import annotations

from collections.abc import Container
from itertools import takewhile, zip_longest

import torch

from veridical.data.images import image_bytes_key
from veridical.models.policy import Policy
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


def refuse_collapsed(group: Group, policy: Policy) -> None:
    """Refuse a pair whose answer to compare with is the chosen one again: nothing is left of it.

    Args:
        group: the pair.
        policy: whose tokenizer made it.

    Raises:
        RefusedRowError: says why.
    """
    equal = collapsed(group)
    if 1 in equal:
        raise RefusedRowError(why_collapsed(group, 1, "rejected", policy))
    # Of all losses the first answer that is read once more is the chosen one, elsewhere.
    if _answers(group) in equal:
        raise RefusedRowError("contrast_images show the same as images")
    if again := [i for i in equal if i > _answers(group)]:
        raise RefusedRowError(why_collapsed(group, again[0], "contrast_chosen", policy))


def further_collapsed(group: Group, policy: Policy) -> dict[int, str]:
    """The further rejected answers that are the chosen one again, and why."""
    equal = [i for i in collapsed(group) if i > 1]
    return {i: why_collapsed(group, i, answer_field(i), policy) for i in equal}


def _answers(group: Group) -> int:
    """How many responses are not repeated under other images."""
    return len(group.response_ids) - (group.contrasts or 0)


def answer_field(response: int) -> str:
    """What a record calls a response behind the first two, such as `more_rejected/0`."""
    return f"more_rejected/{response - 2}"


def why_collapsed(group: Group, response: int, which: str, policy: Policy) -> str:
    """Why a response, called so, is the chosen one again."""
    same = f"chosen and {which} are the same"
    if group.cut[0] and group.cut[response]:
        tokens = len(group.response_ids[0])
        return f"{same} in their first {tokens} tokens, where --max-response-tokens cuts"
    words = [text.split() for text in (group.response_texts[0], group.response_texts[response])]
    if words[0] == words[1]:
        return f"{same} once they are rendered and tokenized"
    two = next(((a, b) for a, b in zip_longest(*words, fillvalue="") if a != b), ("", ""))
    tokenizer = policy.processor.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    read = [i for word in two for i in tokenizer(word, add_special_tokens=False)["input_ids"]]
    named = " and ".join(repr(word[:40]) for word in _without_end(*two) if word)
    if unknown is not None and unknown in read:
        why = f"{policy.name} does not know {named}: its tokenizer reads {tokenizer.unk_token}"
    else:
        why = f"the tokenizer of {policy.name} reads {named} alike"
    return f"{same} once they are tokenized ({why})"


def _without_end(one: str, other: str) -> tuple[str, str]:
    """Two words without the marks at their end that both have."""
    shared = takewhile(lambda two: two[0] == two[1], zip(one[::-1], other[::-1], strict=False))
    same = "".join(letter for letter, _ in shared)[::-1]
    end = len(same) - next((n for n, letter in enumerate(same) if not letter.isalnum()), len(same))
    return one[: len(one) - end], other[: len(other) - end]


def without_responses(group: Group, dropped: Container[int]) -> Group:
    """The group without some of its responses."""
    kept = [i for i in range(len(group.response_ids)) if i not in dropped]
    return group if len(kept) == len(group.response_ids) else take_responses(group, kept)
