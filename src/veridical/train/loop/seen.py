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
    """Every module that is not part of the language model, by its name."""
    sides = (core.get_decoder(), core.get_output_embeddings(), core.get_input_embeddings())
    language = {id(module) for side in sides for module in side.modules()}
    return {name: m for name, m in core.named_modules() if id(m) not in language}


def needs_no_graph(policy: Policy) -> bool:
    """Whether nothing that images pass is trained, so that no gradient has to go back there.

    Activation checkpointing lets embeddings want gradients, those of patches too, and a frozen
    encoder would be computed twice and followed back for nothing. Processes that share weights out
    follow the graph to know when to.
    """
    return not trains_vision(policy) and not processes.shares_out_weights()


@contextmanager
def without_graph(model: PreTrainedModel, wanted: bool = True) -> Iterator[None]:
    """Keep nothing of the image encoder for the backward pass.

    Args:
        model: whose encoder it is.
        wanted: whether at all.
    """
    stock = getattr(unwrap(model).model, "get_image_features", None)
    if not wanted or stock is None:
        yield
        return
    with _instead(unwrap(model).model, torch.no_grad()(stock)):
        yield


@contextmanager
def watched_features(model: PreTrainedModel, graph: bool = True) -> Iterator[list[object]]:
    """Collect what the image encoder gives to the language model.

    Args:
        model: whose encoder it is.
        graph: whether to keep what a backward pass needs of it.
    """
    core = unwrap(model).model
    found: list[Any] = []
    stock = getattr(core, "get_image_features", None)
    if stock is None:
        yield found
        return

    def watched(*arguments: object, **named: object) -> object:
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
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
