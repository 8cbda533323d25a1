"""The image encoder's output for a batch's pictures, computed once for policy and reference.

Where the reference runs in the step and the tower is frozen, both would make the same of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from veridical.models.policy import Policy, unwrap
from veridical.models.tuning import trains_vision
from veridical.runtime import processes


def see_alike(policy: Policy, frozen: Policy | None, model_dropout: bool) -> bool:
    """Whether policy and reference make the same of a picture at every step, without noise.

    Processes that share the tower's weights out have to run it equally often, so there each runs
    it for itself.
    """
    if processes.world_size() > 1 or trains_vision(policy):
        return False
    ours = _vision_side(policy.core)
    if model_dropout or not hasattr(policy.core.model, "get_image_features"):
        return False
    if frozen is None:
        return True
    theirs = _vision_side(frozen.core)
    return ours.keys() == theirs.keys() and all(
        one.shape == other.shape and torch.equal(one, other)
        for name in ours
        for one, other in zip(
            ours[name].parameters(recurse=False),
            theirs[name].parameters(recurse=False),
            strict=True,
        )
    )


def _vision_side(core: PreTrainedModel) -> dict[str, nn.Module]:
    """Every module that is no part of the language model, by its name."""
    sides = (core.get_decoder(), core.get_output_embeddings(), core.get_input_embeddings())
    language = {id(module) for side in sides for module in side.modules()}
    return {name: m for name, m in core.named_modules() if id(m) not in language}


@contextmanager
def watched_features(model: PreTrainedModel) -> Iterator[list[object]]:
    """Collect what the image encoder gives to the language model."""
    core = unwrap(model).model
    found: list[Any] = []
    stock = getattr(core, "get_image_features", None)
    if stock is None:
        yield found
        return

    def watched(*arguments: object, **named: object) -> object:
        features = stock(*arguments, **named)
        for name in ("hidden_states", "attentions"):  # large, and nobody's business
            if getattr(features, name, None) is not None:
                setattr(features, name, None)
        found.append(features)
        return features

    with _instead(core, watched):
        yield found


@contextmanager
def given_features(model: PreTrainedModel, features: object) -> Iterator[None]:
    """Give the language model features that are known, instead of running the image encoder."""
    act = None if features is None else lambda *_, **__: features
    with _instead(unwrap(model).model, act):
        yield


@contextmanager
def _instead(core: PreTrainedModel, act: object) -> Iterator[None]:
    if act is None:
        yield
        return
    core.get_image_features = act
    try:
        yield
    finally:
        del core.get_image_features
