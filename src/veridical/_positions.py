"""What a family's forward is told beside its tokens: positions, in as many dimensions as it has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TOKEN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
)
"""What a processor says of every token; everything else that it gives belongs to the images."""


def vision_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a processor made of the images alone."""
    return {name: value for name, value in inputs.items() if name not in TOKEN_INPUTS}


def token_positions(core: Any, inputs: Mapping[str, Tensor]) -> Tensor:
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


def special_layers(core: Any) -> str | None:
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


def window(core: Any) -> int | None:
    """How many tokens back some layers look, where the rest look at all; None where that is not so.

    Only where the configuration lists its layers' kinds do they take a mask for each kind.
    """
    config = core.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    listed = "sliding_attention" in kinds and kinds <= {"sliding_attention", "full_attention"}
    size = getattr(config, "sliding_window", None)
    return int(size) if listed and size else None


def image_blocks(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Which image's tokens see each other in both directions (Gemma 3); None where none do.

    Returns:
        Numbers from 0, -1 where a token only looks back. Shape: (rows, length).
    """
    if "token_type_ids" not in inputs:
        return None
    is_image = inputs["token_type_ids"] == 1
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return torch.where(is_image, starts.cumsum(-1) - 1, -1)


def masks_by_layer(
    core: Any, mask: Tensor, positions: Tensor, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """The mask, or one for each kind of layer where some look through a window.

    Args:
        core: Transformers' model.
        mask: for layers that look at everything. Shape: (rows, 1, length, length).
        positions: of each token in its own branch. Shape: (rows, length).
        device: where the model is.
    """
    size = window(core)
    if size is None:
        return mask.to(device)
    near = (positions[:, None, :, None] - positions[:, None, None, :]) < size
    return {"full_attention": mask.to(device), "sliding_attention": (mask & near).to(device)}


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
