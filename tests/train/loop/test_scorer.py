"""Policy and reference in one step: what they share, and that they leave each other alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from veridical.models.batching import collate
from veridical.models.logprobs import logps_of
from veridical.models.policy import Policy, frozen_copy
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.dpo import DPO
from veridical.objectives.preference import Preference
from veridical.objectives.wpo import WPO
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.scorer import Scorer


def prepare(policy: Policy, kind: str, **options: Any) -> tuple[Policy, Policy | None]:
    """The policy and, for full tuning, the copy that is its reference."""
    frozen = frozen_copy(policy) if kind == "full" else None
    tuning = Tuning("full" if kind == "full" else "lora", 4, 8, **options)
    return prepare_training(policy, tuning), frozen


def count_images(model: Any) -> list[int]:
    """How many pictures the vision tower sees, call by call."""
    seen: list[int] = []

    def count(_: nn.Module, __: Any, named: Any, output: Any) -> None:
        seen.append(len(output.last_hidden_state))

    model.model.vision_tower.register_forward_hook(count, with_kwargs=True)
    return seen


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_images_are_encoded_once_for_policy_and_reference(
    policy: Policy, groups: list[Group], kind: str, share_prefix: bool
) -> None:
    policy, frozen = prepare(policy, kind)
    scorer = Scorer(policy, frozen).train()
    batches = [collate(policy, groups[start : start + 2], share_prefix) for start in (0, 2)]
    alone = [scorer(batch)[0] for batch in batches]
    seen = count_images(policy.core)
    theirs = seen if frozen is None else count_images(frozen.core)
    for batch, expected in zip(batches, alone, strict=True):
        scorer(batch, reference=True)
        assert torch.equal(scorer(batch)[0], expected)
    assert len(theirs) == 2
    assert seen is theirs or not seen
    scorer(batches[0], reference=True)
    assert torch.equal(scorer(batches[1])[0], alone[1])  # not the other batch's
    assert torch.equal(scorer(batches[1])[0], alone[1])


def test_held_out_rows_are_not_weighed(policy: Policy, groups: list[Group]) -> None:
    """WPO's weights fall where the policy says neither answer: that is no better checkpoint."""
    scorer, batch = Scorer(policy, squares=True), collate(policy, groups, True)
    reference = torch.zeros_like(scorer(batch).sums)
    found = []
    for learns in (True, False):
        with torch.set_grad_enabled(learns):
            scores = scorer(batch)
            logps = logps_of(batch, scores.sums, scores.counts, scores.squares)
            found += [
                float(preference_outcome(Preference(loss))(logps, reference).loss_sum.detach())
                for loss in (WPO(), DPO())
            ]
    assert found[0] < 0.9 * found[1] and found[2] == pytest.approx(found[1]) == found[3]


@pytest.mark.parametrize("why", ["projector", "vision", "another reference", "noise"])
def test_images_are_encoded_twice_where_that_differs(
    policy: Policy, groups: list[Group], why: str
) -> None:
    frozen = None
    if why == "another reference":
        frozen = frozen_copy(policy)
        frozen.core.model.vision_tower.get_parameter(
            next(n for n, _ in frozen.core.model.vision_tower.named_parameters())
        ).data += 1
    if why == "noise":
        policy.core.config.vision_config.attention_dropout = 0.1
    policy, _ = prepare(
        policy, "lora", train_projector=why == "projector", train_vision=why == "vision"
    )
    scorer = Scorer(policy, frozen, model_dropout=why == "noise")
    batch = collate(policy, groups[:2], True)
    seen = count_images(policy.core)
    scorer(batch, reference=True)
    scorer(batch)
    assert len(seen) == (1 if why == "another reference" else 2)
    assert "get_image_features" not in vars(policy.core.model)


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_encoder_is_not_followed_back(
    policy: Policy, groups: list[Group], trained: bool
) -> None:
    """Checkpointing makes patches want gradients, which lead nowhere; weights get the same."""
    policy, _ = prepare(policy, "lora", train_vision=trained)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    policy.core.enable_input_require_grads()
    graphs: list[bool] = []
    policy.core.model.vision_tower.register_forward_hook(
        lambda _, __, output: graphs.append(output.last_hidden_state.requires_grad)
    )
    batch = collate(policy, groups[:2], True)
    found = []
    for honest in (True, False):
        scorer = Scorer(policy).train()
        scorer._needs_no_graph = scorer._needs_no_graph and honest
        scorer(batch)[0].sum().backward()
        weights = [p for p in policy.model.parameters() if p.requires_grad]
        found.append([p.grad.clone() for p in weights if p.grad is not None])
        policy.model.zero_grad()
    assert graphs == [trained, True]
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_reference_has_no_dropout_and_the_policy_keeps_its_own(
    policy: Policy, groups: list[Group]
) -> None:
    policy, _ = prepare(policy, "lora", dropout=0.5)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    scorer = Scorer(policy).train()
    policy.core.model.vision_tower.eval()  # as some keep a frozen tower
    modes = [module.training for module in scorer.modules()]
    batch = collate(policy, groups[:2], True)
    first, second = (scorer(batch, reference=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in scorer.modules()] == modes
    assert not torch.equal(scorer(batch)[0], scorer(batch)[0])


def test_switching_reaches_what_was_switched_below(policy: Policy) -> None:
    policy, _ = prepare(policy, "lora")
    assert policy.model.training  # as PEFT makes its wrapper, around a model that is not
    assert not policy.core.training
    scorer = Scorer(policy, model_dropout=True).train()
    assert all(module.training for module in scorer.modules())
    policy.core.eval()
    assert scorer.training
    assert all(module.training for module in scorer.train().modules())
    assert not any(module.training for module in scorer.eval().modules())
