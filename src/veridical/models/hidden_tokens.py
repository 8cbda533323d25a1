"""Image tokens that an answer must not see: which ones, the same in every layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veridical.models.policy import Policy, image_token_id
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator


def hidden_image_tokens(
    policy: Policy, ids: Tensor, rows: Sequence[tuple[Group, int]]
) -> Tensor | None:
    """Which image tokens the rows of a batch must not see, whatever asks.

    Drawn by what a row says, so that policy and reference, each layout and every epoch hide the
    same ones. Positions of the other tokens stay as they are.

    Args:
        policy: whose image tokens they are.
        ids: of the batch's rows. Shape: (rows, length).
        rows: of each, the group and its response with images of its own.

    Returns:
        True at tokens that are hidden; None where all can be seen. Shape: (rows, length).

    Raises:
        UserError: the model has no image tokens in its rows.
    """
    if not any(group.hidden_of(index) for group, index in rows):
        return None
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    for row, (group, index) in enumerate(rows):
        share = group.hidden_of(index)
        if not share:
            continue
        places = (ids[row] == image_token_id(policy)).nonzero().squeeze(-1)
        if not len(places):
            raise UserError(
                f"{policy.name} has no image tokens that could be hidden from an answer. Leave "
                "rejected_masked and contrast_masked out; `build distort --how blocks` covers "
                "parts of the pictures instead."
            )
        names = group.prompt_of(index), group.response_texts[index]
        order = generator(0, "hidden image tokens", *names).permutation(len(places))
        drawn = torch.from_numpy(order[: max(1, round(share * len(places)))])
        hidden[row, places[drawn.to(places.device)]] = True
    return hidden
