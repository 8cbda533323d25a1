"""A family's probes decide the same in every dtype; rounding decides nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_models import Family
from PIL import Image

from veridical.checks import probes
from veridical.checks.prefix_sharing import sharing
from veridical.checks.probes import masking_refusal
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.rendering import Group
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
    refusal = masking_refusal(policy, Request(Prompt("r", pictures[:1], prompt)))
    assert (refusal is None) == (family.masks is None), refusal


def tried(stock: float, hidden: float, whole: float, half: float) -> Any:
    """A prompt whose logits are off by so much: by the stock forward, with a mask; by dropping."""
    every, some = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, False])
    layer = torch.nn.Embedding(1, 1, dtype=torch.bfloat16)
    core = SimpleNamespace(get_input_embeddings=lambda: layer)
    return SimpleNamespace(
        policy=SimpleNamespace(device=torch.device("cpu"), model=core, core=core),
        every=every,
        half=some,
        stock=lambda: torch.full((2, 3), stock),
        hidden=lambda seen: torch.full((2, 3), hidden),
        dropped=lambda seen: torch.full((2, 3), whole if bool(seen.all()) else half),
    )


def test_a_router_that_chooses_otherwise_under_the_mask_is_no_reason_to_refuse() -> None:
    precise = tried(0.0, 0.0, 0.0, 0.0)
    assert probes._near_the_copy(tried(0.02, 0.18, 0.02, 0.18), precise) is None
    assert probes._near_the_copy(tried(0.18, 0.02, 0.18, 0.02), precise) is None
    refusal = probes._near_the_copy(tried(0.02, 0.02, 0.02, 0.18), precise)
    assert "dropping image tokens differs by 0.18" in str(refusal)
    refusal = probes._near_the_copy(tried(0.02, 0.02, 0.18, 0.02), precise)
    assert "its logits differ by 0.18" in str(refusal)
