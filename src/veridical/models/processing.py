"""The model's own processor on a batch of rows, and why it refuses some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from veridical.data.images import ImageLike, image_key, load_image
from veridical.models.policy import Policy
from veridical.models.precision import working_dtype
from veridical.models.refused_rows import RefusedRowsError
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.lacking import is_memory_full


def process(
    policy: Policy,
    images: Sequence[Sequence[ImageLike]],
    texts: Sequence[str],
    padding_side: str,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """The stock processor on a batch; images of a row in the order of its placeholders.

    Where the policy has a cache of features, they come in the place of pixels.

    Args:
        policy: whose processor it is.
        images: of each row.
        texts: of each row.
        padding_side: `left` or `right`.
        device: where the tensors are put; to the policy's if not given.

    Raises:
        RefusedRowsError: the processor refuses rows of the batch even alone.
        UserError: it takes each row alone, and not all together.
    """
    device = policy.device if device is None else device
    if policy.vision is not None:
        kept = policy.vision.process(policy, images, texts, padding_side)
        return {name: value.to(device) for name, value in kept.items()}
    opened = _loaded(images)
    try:
        encoded = _processed(policy, opened, texts, padding_side)
    # Processors are others' code, and refuse a picture with whatever they meet.
    except Exception as error:
        if is_memory_full(error):
            raise  # of the machine, not of a row
        reasons = _refused_alone(policy, opened, texts, padding_side)
        if not reasons:
            raise UserError(
                f"The processor of {policy.name} takes each of these {len(texts)} rows alone, but "
                f"not together ({reason_of(error)}). Set --batch-size 1, which "
                "will do for sampling and evaluation; the proofs of a training run read up to 4 "
                "rows together, so there set the processor to make equally many tiles of every "
                "image."
            ) from error
        raise RefusedRowsError(policy.name, reasons) from error
    # With labels a forward computes a loss, and PaliGemma's processor always writes some.
    inputs = {name: value for name, value in encoded.items() if name != "labels"}
    dtype = working_dtype(policy)
    return {n: v.to(device, dtype if v.is_floating_point() else v.dtype) for n, v in inputs.items()}


def _loaded(images: Sequence[Sequence[ImageLike]]) -> list[list[Image.Image]]:
    """Every image decoded once, however many rows of the batch see it."""
    opened: dict[str | int, Image.Image] = {}
    for row in images:
        for image in row:
            key = image_key(image)
            if key not in opened:
                opened[key] = load_image(image)
    return [[opened[image_key(image)] for image in row] for row in images]


def _processed(
    policy: Policy, opened: list[list[Image.Image]], texts: Sequence[str], padding_side: str
) -> Any:
    bos = policy.processor.tokenizer.bos_token
    return policy.processor(
        # Row by row even where a row has none: some tell from it how to cut each image.
        images=opened if any(opened) else None,
        text=list(texts),
        return_tensors="pt",
        padding=True,
        padding_side=padding_side,
        add_special_tokens=not (bos and texts[0].startswith(bos)),
    )


def _refused_alone(
    policy: Policy, opened: list[list[Image.Image]], texts: Sequence[str], padding_side: str
) -> dict[int, str]:
    """Which rows the processor refuses by themselves, and why."""
    reasons = {}
    for row, (own, text) in enumerate(zip(opened, texts, strict=True)):
        try:
            _processed(policy, [own], [text], padding_side)
        except Exception as error:
            if is_memory_full(error):
                raise
            sizes = ", ".join(f"{image.width} x {image.height}" for image in own)
            seen = f" with images of {sizes} pixels" if own else ""
            reasons[row] = f"the processor refuses it{seen}: {reason_of(error)}"
    return reasons
