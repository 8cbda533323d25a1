"""The shared prefix's mask as FlexAttention takes it: which blocks of tokens are looked at at all.

Made from the same description as the mask of all pairs in `prefix_masks`, which it never holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, or_masks
from transformers import PreTrainedModel

from veridical.models.positions import layer_kinds, window

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of batch, head, query and key: whether the query may attend to the key."""


def block_masks(
    core: PreTrainedModel, segments: Tensor, blocks: Mapping[str, Tensor], positions: Tensor
) -> BlockMask | dict[str, BlockMask]:
    """The mask, or one for each kind of layer where some look through a window.

    Args:
        core: Transformers' model.
        segments: as for `prefix_masks.shared_mask`. Shape: (rows, length).
        blocks: by the kind of layer, images whose tokens see each other. Shape of each:
            (rows, length).
        positions: of each token in its own branch. Shape: (rows, length).
    """
    size, found = window(core), {}
    for kind in layer_kinds(core):
        near = size if kind == "sliding_attention" else None
        found[kind] = _mask(_rule(segments, blocks.get(kind), positions, near), segments)
    return found if size is not None else found["full_attention"]


def opened(mask: BlockMask) -> BlockMask:
    """A mask that also lets every token look at all earlier ones."""
    rows, _, length, _ = mask.shape
    rule = or_masks(mask.mask_mod, lambda b, h, query, key: query >= key)
    return create_block_mask(rule, rows, None, length, length, device=mask.kv_indices.device)


def _mask(rule: Rule, segments: Tensor) -> BlockMask:
    rows, length = segments.shape
    # Only compiled it never holds all pairs; compiling for a CPU takes longer than it saves.
    compiled = segments.device.type == "cuda"
    return create_block_mask(
        rule, rows, None, length, length, device=segments.device, _compile=compiled
    )


def _rule(segments: Tensor, blocks: Tensor | None, positions: Tensor, near: int | None) -> Rule:
    """What `prefix_masks.shared_mask` and `positions.masks_by_layer` say of one pair of tokens."""

    def allowed(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = segments[row, query], segments[row, key]
        seen = query >= key
        if blocks is not None:
            block = blocks[row, key]
            seen = seen | ((blocks[row, query] == block) & (block >= 0))
        seen = seen & ((other == 0) | (other == own)) & (other >= 0)
        seen = seen | (query == key)
        if near is not None:
            seen = seen & (positions[row, query] - positions[row, key] < near)
        return seen

    return allowed
