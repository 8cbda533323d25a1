"""Which token may attend to which, where responses share a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from veridical.data.messages import assistant_message, user_message
from veridical.models.decoder_inputs import (
    KINDS,
    Lookahead,
    decoder_blocks,
    find_lookahead,
    known_lookahead,
)
from veridical.models.policy import Policy
from veridical.models.positions import token_positions
from veridical.models.processing import process
from veridical.models.prompt_texts import render_prompt


def shared_mask(segments: Tensor, blocks: Tensor | None = None) -> Tensor:
    """The causal mask with the block between responses cut out.

    Args:
        segments: 0 for prompt tokens, 1..k for the responses', -1 for padding. Shape: (b, n).
        blocks: the number of the image whose tokens all see each other, -1 elsewhere; of the
            prompt, where all responses may look. Shape: (b, n).

    Returns:
        True where query (dim 2) may attend to key (dim 3). Padding attends to itself alone, so
        that no softmax runs over nothing. Shape: (b, 1, n, n).
    """
    queries, keys = segments[:, :, None], segments[:, None, :]
    same_branch = (keys == 0) | (keys == queries)
    length, device = segments.shape[1], segments.device
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    earlier = causal.expand(len(segments), -1, -1)
    if blocks is not None:
        earlier = earlier | ((blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, None, :] >= 0))
    allowed = earlier & same_branch & (keys >= 0)
    return (allowed | torch.eye(length, dtype=torch.bool, device=device)).unsqueeze(1)


def image_blocks(policy: Policy, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which image tokens see each other in both directions, by the kind of layer.

    Found once a model by an experiment: a conversation with two gray pictures, of which the model
    makes its own masks.

    Returns:
        Numbers from 0, -1 where a token only looks back; nothing for a kind of layer in which all
        do. Shape of each: (rows, length).
    """
    lookahead = _lookahead(policy, inputs)
    return {
        kind: decoder_blocks(inputs[lookahead.name], rule) for kind, rule in lookahead.rules.items()
    }


def lookahead_kinds(policy: Policy, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What tells the model which image tokens see each other in both directions, if any do."""
    name = _lookahead(policy, inputs).name
    return {name: inputs[name]} if name else {}


def _lookahead(policy: Policy, inputs: Mapping[str, Tensor]) -> Lookahead:
    if not any(name in inputs for name in KINDS):
        return Lookahead({}, "")
    return known_lookahead(policy.core) or _find_lookahead(policy)


def _find_lookahead(policy: Policy) -> Lookahead:
    """The rule by which image tokens look ahead, from two pictures with words between them."""
    turns = [user_message("First."), assistant_message("Yes."), user_message("Second.")]
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    seeing = dataclasses.replace(policy, vision=None)
    inputs = process(seeing, [[picture, picture]], [render_prompt(policy, turns)], "right")
    inputs["position_ids"] = token_positions(policy.core, inputs)
    return find_lookahead(policy.core, inputs)
