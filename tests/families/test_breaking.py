"""What the experiments must notice: positions, features and image order, broken on purpose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_family import FAMILIES
from family_models import can_be_built
from PIL import Image
from torch import Tensor

from veridical.checks.prefix_sharing import sharing
from veridical.checks.probes import masking_refusal
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message
from veridical.models import (
    batch,
    batching,
    decoder_inputs,
    masked_prompts,
    row_layout,
    shared_layout,
)
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy
from veridical.models.positions import window
from veridical.models.rendering import Group, render_group
from veridical.sampling import Request


@pytest.fixture(scope="module", params=["Qwen2.5-VL", "Qwen3-VL"])
def qwen(request: pytest.FixtureRequest) -> Policy:
    family = next(family for family in FAMILIES if family.name == request.param)
    if not can_be_built(family):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    return family.build()


@pytest.fixture
def group(qwen: Policy, pictures: list[Image.Image]) -> Group:
    answers = [[assistant_message("This is a park.")], [assistant_message("No.")]]
    prompt = [user_message("Describe the image.")]
    return render_group(qwen, "row", pictures[:1], prompt, answers)


def plain(core: object, inputs: dict[str, Tensor]) -> Tensor:
    """Positions that leave the image's rows and columns out."""
    return (inputs["attention_mask"].cumsum(-1) - 1).expand(3, -1, -1)


def test_answers_that_go_on_from_the_number_of_tokens_are_seen(
    qwen: Policy, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_count(positions: Tensor, tokens: int) -> Tensor:
        start = positions.shape[-1]
        return torch.arange(start, start + tokens).expand(3, -1)

    assert sharing(qwen, [group]).allowed
    monkeypatch.setattr(shared_layout, "continued", by_count)
    assert "differ" in sharing(qwen, [group]).reason


@torch.no_grad()
def test_positions_of_one_dimension_are_not_the_stock_forwards(
    qwen: Policy, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_layout, "token_positions", plain)
    ours = response_logps(qwen.model, batching.row_batch(qwen, [group])).sums[0]
    assert float((ours - stock_logps(qwen, group)).abs().max()) > 1e-3


def test_masking_notices_positions_of_one_dimension(
    qwen: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(Prompt("row", pictures[:1], [user_message("Describe the image.")]))
    assert masking_refusal(qwen, request) is None
    monkeypatch.setattr(masked_prompts, "token_positions", plain)
    assert "stock forward" in str(masking_refusal(qwen, request))


@pytest.mark.parametrize("name", ["Gemma 3", "Gemma 4", "Molmo 2"])
@pytest.mark.parametrize("broken", ["image_blocks", "masks_by_layer"])
def test_the_probe_notices_a_mask_that_is_not_the_models_own(
    name: str, broken: str, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    if not can_be_built(family):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    policy = family.build()
    if window(policy.core) is None and broken == "masks_by_layer":
        pytest.skip("no layer of it looks through a window")
    answers = [[assistant_message("This is a park.")], [assistant_message("No.")]]
    prompt = [user_message("Describe the image.")]
    group = render_group(policy, "row", pictures[:1], prompt, answers)
    assert sharing(policy, [group]).allowed
    if broken == "image_blocks":
        monkeypatch.setattr(shared_layout, broken, lambda policy, inputs: {})
    else:
        first = "full_attention"
        monkeypatch.setattr(batch, broken, lambda core, masks, positions: masks[first])
    assert "differ" in sharing(policy, [group]).reason


def test_a_model_that_takes_no_mask_by_layer_gets_two_rows(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = next(family for family in FAMILIES if family.name == "Gemma 3").build()
    answers = [[assistant_message("This is a park.")], [assistant_message("No.")]]
    prompt = [user_message("Describe the image.")]
    group = render_group(policy, "row", pictures[:1], prompt, answers)
    honest = type(policy.core.model).forward

    def simple(model: object, **inputs: Any) -> object:
        inputs["attention_mask"].dim()
        return honest(model, **inputs)

    monkeypatch.setattr(type(policy.core.model), "forward", simple)
    assert "each kind of layer" in sharing(policy, [group]).reason


def test_masking_notices_features_that_are_left_out(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = next(family for family in FAMILIES if family.name == "Qwen3-VL")
    if not can_be_built(family):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    policy = family.build()
    honest = decoder_inputs.decoder_inputs

    def shallow(core: object, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**honest(core, inputs), "deepstack_visual_embeds": None}

    request = Request(Prompt("row", pictures[:1], [user_message("Describe the image.")]))
    monkeypatch.setattr(masked_prompts, "decoder_inputs", shallow)
    assert "stock forward" in str(masking_refusal(policy, request))
