"""Scores that are not numbers: an error that says in which dtype, and what to set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.prompts import Prompt, image_question
from veridical.data.records import assistant_message, user_message
from veridical.eval import pope_auc
from veridical.eval.answers import AnswerSettings
from veridical.eval.asked_model import AskedModel
from veridical.models.finite import not_finite, require_finite
from veridical.models.policy import Policy
from veridical.models.reward_model import (
    RewardInputs,
    RewardModel,
    judged_group,
    new_head,
)
from veridical.models.reward_scores import score_groups
from veridical.runtime.errors import UserError
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.recomputing import recomputed
from veridical.sampling.rollouts import roll_out

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def spoil(policy: Policy, dtype: torch.dtype) -> None:
    """From here on the language model's states are not numbers."""
    policy.model.to(dtype)

    def hook(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * float("inf")
        return output

    policy.core.model.register_forward_hook(hook)


def test_numbers_pass(policy: Policy) -> None:
    require_finite(policy, torch.tensor([1.0, -3e38]), "scores")
    require_finite(policy, torch.tensor([]), "scores")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_none_is_refused_with_what_to_set(policy: Policy, bad: float) -> None:
    advice = {"float16": "bfloat16 or --dtype float32", "bfloat16": "Set --dtype float32;",
              "float32": "Its weights are finite"}  # fmt: skip
    for name, expected in advice.items():
        policy.model.to(getattr(torch, name))
        with pytest.raises(UserError, match=f"The scores of tiny in {name}") as caught:
            require_finite(policy, torch.tensor([0.0, bad]), "scores")
        assert expected in str(caught.value)


def test_a_damaged_weight_is_named(policy: Policy) -> None:
    # Its sum is not finite in float32 either, though each of its numbers is.
    policy.core.lm_head.weight.data[:] = 1e37
    assert "Its weights are finite" in not_finite(policy, "logits")
    policy.core.model.multi_modal_projector.linear_1.weight.data[0, 0] = float("nan")
    assert "multi_modal_projector.linear_1.weight" in not_finite(policy, "logits")


@pytest.mark.parametrize("dtype", DTYPES)
def test_margins_of_yes_and_no(
    policy: Policy,
    pictures: list[Image.Image],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures[0].save(tmp_path / "0.png")
    monkeypatch.setattr(AskedModel, "policy", policy)
    asked = [image_question("q", tmp_path / "0.png", "Is there a dog?")]
    policy.model.to(dtype)
    assert len(pope_auc.yes_margins(asked, AnswerSettings(AskedModel("tiny")))) == 1
    spoil(policy, dtype)
    with pytest.raises(UserError, match='"Yes" and "No" of tiny in'):
        pope_auc.yes_margins(asked, AnswerSettings(AskedModel("tiny")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rewards(policy: Policy, pictures: list[Image.Image], dtype: torch.dtype) -> None:
    policy.model.to(dtype)
    model = RewardModel(policy, new_head(policy), RewardInputs())
    prompt = [user_message("Describe the image.")]
    group = judged_group(
        policy,
        RewardInputs(),
        "r",
        pictures[:1],
        prompt,
        [[assistant_message("A dog.")], [assistant_message("A red cup.")]],
    )
    assert score_groups(model, [group], 1, False) == [[0.0, 0.0]]
    spoil(policy, dtype)
    with pytest.raises(UserError, match="The rewards of tiny in"):
        score_groups(model, [group], 1, False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probs_of_an_engines_answers(
    policy: Policy, pictures: list[Image.Image], dtype: torch.dtype
) -> None:
    policy.model.to(dtype)
    request = Request(Prompt("r", pictures[:1], [user_message("Describe the image.")]))
    said = roll_out(policy, [request], Decoding(4, 1.0), k=2)
    spoil(policy, dtype)
    with pytest.raises(UserError, match="The log-probabilities of tiny in"):
        recomputed(policy, [request], said, Decoding(4, 1.0))


def test_numbers_too_large_for_float16_are_called_so(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    """The comparison with `generate` must not take them for a fault of the decoding."""
    policy.model.to(torch.float16)
    policy.core.lm_head.register_forward_hook(
        lambda _, __, logits: logits.masked_fill(logits == logits.amax(-1, keepdim=True), torch.inf)
    )
    request = Request(Prompt("r", pictures[:1], [user_message("Describe the image.")]))
    with pytest.raises(UserError, match="The logits of tiny in float16 are NaN or infinite"):
        roll_out(policy, [request], Decoding(4, 1.0))
