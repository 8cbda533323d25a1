"""A family's probes decide the same in every dtype; rounding decides nothing."""

from __future__ import annotations

import pytest
import torch
from family_models import Family
from PIL import Image

from veridical.models import Policy
from veridical.precision import cast_weights
from veridical.prefix_sharing import sharing
from veridical.probes import masking_refusal
from veridical.records import user_message
from veridical.rendering import Group
from veridical.sampling import Request


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_probes_decide_the_same_in(
    dtype: str,
    family: Family,
    policy: Policy,
    groups: list[Group],
    pictures: list[Image.Image],
) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    shares = sharing(policy, groups)
    assert shares.allowed == (family.shares is None), shares.reason
    prompt = [user_message("Describe the image.")]
    refusal = masking_refusal(policy, Request("r", pictures[:1], prompt))
    assert (refusal is None) == (family.masks is None), refusal
