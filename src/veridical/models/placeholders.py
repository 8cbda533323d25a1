"""Image placeholders in the text, and the features that the image encoder makes for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from veridical.data.messages import user_message
from veridical.models.batch import Batch
from veridical.models.policy import Policy, image_features, image_token_id
from veridical.models.positions import vision_inputs
from veridical.models.processing import process
from veridical.models.prompt_texts import render_prompt


def placeholder_counts(policy: Policy, batch: Batch) -> tuple[list[int], list[int]]:
    """Image placeholders in each row, and the features that the image encoder makes for it.

    Returns:
        Two lists with one number a row; equal lists are what the model needs.
    """
    ids = batch.inputs["input_ids"]
    placeholders = (ids == image_token_id(policy)).sum(-1).tolist()
    vision = vision_inputs(batch.inputs)
    if not vision:
        return placeholders, [0] * len(placeholders)
    features = [len(f) for f in image_features(policy.core, vision).pooler_output]
    per_row = _images_per_row(placeholders, features)
    return placeholders, per_row


def _images_per_row(placeholders: Sequence[int], features: Sequence[int]) -> list[int]:
    """Deal the images out in order: each row takes images until its placeholders are filled."""
    totals, image = [], 0
    for wanted in placeholders:
        total = 0
        while image < len(features) and total < wanted:
            total += features[image]
            image += 1
        totals.append(total)
    if image < len(features) and totals:
        totals[-1] += sum(features[image:])
    return totals


def blank_vision(policy: Policy) -> dict[str, Tensor]:
    """What `image_features` takes for one gray picture."""
    text = render_prompt(policy, [user_message("", images=1)])
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    seeing = dataclasses.replace(policy, vision=None)
    return vision_inputs(process(seeing, [[picture]], [text], "right"))
