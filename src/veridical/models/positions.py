"""What a family's forward takes beside its tokens: positions, in as many dimensions as it has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

TOKEN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
)
"""What a processor says of every token; everything else that it gives belongs to the images."""


def vision_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a processor made of the images alone."""
    return {name: value for name, value in inputs.items() if name not in TOKEN_INPUTS}


def first_tokens(inputs: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """What a processor made, with the first `count` tokens of each row alone."""
    return {n: value[:, :count] if n in TOKEN_INPUTS else value for n, value in inputs.items()}


def token_positions(core: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Where each token stands, as the model's own forward counts.

    Args:
        core: Transformers' model.
        inputs: what its processor made, padded on the right.

    Returns:
        Shape: (rows, length); (3, rows, length) where image tokens stand in time, height and
        width (Qwen-VL). Padding stands anywhere.
    """
    own = getattr(core.model, "get_rope_index", None)
    if own is None:
        return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    wanted = inspect.signature(own).parameters
    positions: Tensor = own(**{name: inputs[name] for name in wanted if name in inputs})[0]
    return positions


def special_layers(core: PreTrainedModel) -> str | None:
    """Layers that do more than look at every earlier token; None where there are none.

    A window is counted in tokens and a state runs through them, so that both depend on tokens
    that a mask hides or that are left out.
    """
    config = core.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return ", ".join(sorted(kinds - {"full_attention"}))
    windowed = getattr(config, "use_sliding_window", True) and not hasattr(config, "layer_types")
    return "sliding_attention" if windowed and getattr(config, "sliding_window", None) else None


def window(core: PreTrainedModel) -> int | None:
    """How many tokens back some layers look, where the rest look at all; None where that is not so.

    Only where the configuration lists its layers' kinds do they take a mask for each kind.
    """
    config = core.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    listed = "sliding_attention" in kinds and kinds <= {"sliding_attention", "full_attention"}
    size = getattr(config, "sliding_window", None)
    return int(size) if listed and size else None


def layer_kinds(core: PreTrainedModel) -> tuple[str, ...]:
    """The kinds of layers that take a mask of their own; one where all take the same."""
    return ("full_attention",) if window(core) is None else ("full_attention", "sliding_attention")


def masks_by_layer(
    core: PreTrainedModel, masks: Mapping[str, Tensor], positions: Tensor
) -> Tensor | dict[str, Tensor]:
    """The mask, or one for each kind of layer where some look through a window.

    Args:
        core: Transformers' model.
        masks: for each of `layer_kinds`, without its window. Shape of each:
            (rows, 1, length, length).
        positions: of each token in its own branch. Shape: (rows, length).
    """
    size = window(core)
    if size is None:
        return masks["full_attention"]
    near = (positions[:, None, :, None] - positions[:, None, None, :]) < size
    windowed = masks["sliding_attention"] & near
    return {"full_attention": masks["full_attention"], "sliding_attention": windowed}


def continued(positions: Tensor, tokens: int) -> Tensor:
    """The positions of `tokens` text tokens that follow one row's.

    Args:
        positions: of the row. Shape: (length,) or (3, length).
        tokens: how many follow.

    Returns:
        Shape: (tokens,) or (3, tokens).
    """
    start = int(positions.max()) + 1
    following = torch.arange(start, start + tokens, device=positions.device)
    return following.expand(*positions.shape[:-1], tokens)
