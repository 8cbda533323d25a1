"""Deliberately broken batches: an experiment that accepts one of these cannot tell.

Where only half precision fits memory, a limit is measured, and it says nothing by itself: rounding
may be as large as what a fault does. So these have to be rejected at the same limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from veridical.data.images import ImageLike
from veridical.models.batch import Batch
from veridical.models.block_masks import opened
from veridical.models.policy import Policy
from veridical.models.precision import dtype_name
from veridical.models.rendering import Group, open_images
from veridical.runtime.float64 import in_float64

HALF_MARGIN = 3.0
"""How many times the stock path's own rounding, in half precision, still count as equal (our
choice; healthy models of the tests stay below 1.5)."""


def blind(policy: Policy, fault: str) -> str:
    """Says that an experiment cannot tell, and what would let it."""
    return (
        f"the experiment can't tell: in {dtype_name(policy)}, {fault} would pass too. It can where "
        "a float32 copy of the model fits memory"
    )


def rms(values: Tensor) -> float:
    """Root of the mean square; steadier than the largest value, so that limits can be close."""
    return float(in_float64(values).square().mean().sqrt())


def excess(moved: Tensor, noise: Sequence[Tensor]) -> float:
    """How many times its noise a difference is: of all tokens, or of the worst one if that is more.

    A fault in one token of many is lost in a mean over all, so each has its own noise, which is
    never taken for less than half of what it is over all.

    Args:
        moved: the difference. Shape: (tokens, width).
        noise: differences between honest ways. Shape: (tokens, width) each.
    """
    floor = max(map(rms, noise))
    if floor == 0:
        return float("inf") if moved.any() else 0.0
    own = torch.stack([_by_token(one) for one in noise]).amax(0).clamp(min=floor / 2)
    return max(rms(moved) / floor, float((_by_token(moved) / own).max()))


def _by_token(values: Tensor) -> Tensor:
    return in_float64(values).square().mean(-1).sqrt()


def other_kernel() -> AbstractContextManager[object]:
    """Another of PyTorch's implementations of attention, which rounds in other places."""
    manager: AbstractContextManager[object] = sdpa_kernel(SDPBackend.MATH)
    return manager


def shifted(batch: Batch) -> Batch:
    """The batch with the positions of all response tokens one too high."""
    positions = batch.inputs["position_ids"]
    length = positions.shape[-1]
    rows = len(batch.inputs["input_ids"])
    first = torch.full((rows,), length, device=positions.device)
    first = first.scatter_reduce(0, batch.rows, batch.sources, "amin")
    after = torch.arange(length, device=positions.device) > first.unsqueeze(-1)
    inputs = {**batch.inputs, "position_ids": positions + after.to(positions.dtype)}
    return dataclasses.replace(batch, inputs=inputs)


def shifted_at_the_end(batch: Batch) -> Batch:
    """The batch with the positions of the last two tokens that predict one too high."""
    positions = batch.inputs["position_ids"].clone()
    positions[..., batch.sources.max() - 1 : batch.sources.max() + 1] += 1
    return dataclasses.replace(batch, inputs={**batch.inputs, "position_ids": positions})


def leaking(batch: Batch) -> Batch:
    """The batch with responses that see each other."""
    mask = batch.inputs["attention_mask"]
    leaky = (
        {kind: _causal(one) for kind, one in mask.items()}
        if isinstance(mask, dict)
        else _causal(mask)
    )
    return dataclasses.replace(batch, inputs={**batch.inputs, "attention_mask": leaky})


def _causal(mask: Any) -> Any:
    if isinstance(mask, BlockMask):
        return opened(mask)
    return torch.ones_like(mask).tril() | mask


def with_images_turned(group: Group) -> Group:
    """The row with its images upside down: the same patches in reverse order."""
    return _with_images(group, lambda image: image.transpose(Image.Transpose.ROTATE_180))


def with_gray_images(group: Group) -> Group:
    """The row with plain gray in place of its images."""
    return _with_images(group, lambda image: Image.new("RGB", image.size, (127, 127, 127)))


def _with_images(group: Group, change: Any) -> Group:
    def changed(images: Sequence[ImageLike]) -> tuple[ImageLike, ...]:
        return tuple(change(image) for image in open_images(images))

    own = tuple(None if one is None else changed(one) for one in group.response_images)
    return dataclasses.replace(group, images=changed(group.images), response_images=own)
