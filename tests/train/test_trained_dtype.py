"""Every weight that is trained moves at a learning rate of 1e-6, whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.checks.proving import noise_floor, prove
from veridical.judges.named import Judging
from veridical.models.adapters import adapter_parameters
from veridical.models.batching import collate, row_batch
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy, adapters_off
from veridical.models.precision import cast_weights
from veridical.models.rendering import Group
from veridical.models.reward_model import own_adapter, response_rewards
from veridical.models.tuning import Tuning, prepare_training, require_wide, widen_trained
from veridical.runtime.errors import UserError
from veridical.train.options import Training
from veridical.train.rl.actors import VALUE, build_actors

HALVES = ["bfloat16", "float16"]
DTYPES = ["float32", *HALVES]
STEPS = 2
"""The first moves what begins at zero (`lora_B`), the second what is before it."""
ALL = Training(
    learning_rate=1e-6, lora_rank=4, lora_alpha=8, train_projector=True, train_vision=True
)


@pytest.fixture(params=DTYPES)
def typed(request: pytest.FixtureRequest, policy: Policy) -> Policy:
    cast_weights(policy.model, getattr(torch, request.param))
    return policy


def moved(step: Callable[[], Tensor], trained: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of each parameter's weights that a few steps of Adam at 1e-6 move."""
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-6, weight_decay=0.0, eps=1e-30)
    for _ in range(STEPS):
        step().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: float((trained[name] != was).float().mean()) for name, was in before.items()}


def trained_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_adapters_projector_and_tower_move(typed: Policy, groups: list[Group]) -> None:
    policy = prepare_training(typed, ALL.trained)
    batch = row_batch(policy, groups)
    trained = trained_of(policy.model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    shares = moved(lambda: response_logps(policy.model, batch).sums.sum(), trained)
    assert any("projector" in n for n in shares) and any("vision_tower" in n for n in shares)
    assert {name: share for name, share in shares.items() if share < 0.95} == {}


@pytest.mark.parametrize("one_base", [False, True])
def test_value_model_and_heads_move(typed: Policy, groups: list[Group], one_base: bool) -> None:
    judging = Judging(judge="none")
    actors = build_actors(typed, "tiny", judging, ALL, critic=True, one_base=one_base)
    critic = actors.critic
    assert critic is not None
    # A new head passes gradients on that float16 does not know.
    nn.init.normal_(critic.head.weight)
    batch = row_batch(critic.policy, groups)

    def loss() -> Tensor:
        with own_adapter(critic):
            return response_rewards(critic.policy.model, critic.head, batch).sum()

    names = {id(p): n for n, p in actors.trained().named_parameters()}
    trained = {names[id(p)]: p for p in actors.value_parameters()}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    shares = moved(loss, trained)
    assert "head.weight" in shares and any("projector" in name for name in shares)
    assert {name: share for name, share in shares.items() if share < 0.95} == {}
    assert all(p.grad is None for p in actors.policy_parameters())


def test_what_can_not_be_float32_is_refused(typed: Policy) -> None:
    typed.core.requires_grad_(False)
    weight = typed.core.get_output_embeddings().weight.requires_grad_(True)
    if weight.dtype == torch.float32:
        require_wide(typed.core)
        return
    with pytest.raises(UserError, match=r"lm_head\.weight would be trained in half precision"):
        require_wide(typed.core)
    with pytest.raises(UserError, match="Full fine-tuning"):
        prepare_training(typed, Tuning("full"))


@pytest.mark.parametrize("share", [False, True])
def test_a_wide_projector_is_the_reference_and_passes_the_proofs(
    typed: Policy, groups: list[Group], share: bool
) -> None:
    tuning = Tuning(rank=4, alpha=8, train_projector=True)
    widen_trained(typed, tuning)
    batch = collate(typed, groups, share)
    with torch.no_grad():
        before = response_logps(typed.model, batch).sums
        stock = torch.stack([stock_logps(typed, group) for group in groups])
    policy = prepare_training(typed, tuning)
    with torch.no_grad():
        start = response_logps(policy.model, batch).sums
        with adapters_off(policy.model):
            reference = response_logps(policy.model, batch).sums
    assert torch.equal(before, start)
    assert torch.equal(before, reference)
    floor = noise_floor(policy, groups)
    assert float((before - stock).abs().max()) < 10 * floor
    proofs = prove(policy, groups, lambda some, rows: collate(some, rows, share))
    assert all(proof.passed and not proof.blind for proof in proofs)


def test_an_adapter_is_found_by_what_holds_it_not_by_its_name(policy: Policy) -> None:
    # A layer called as the adapter is: BLIP's attention has `query`, `key` and `value`.
    layer = policy.core.get_decoder().layers[0].self_attn
    layer.value = layer.v_proj
    layer.v_proj = _Call(layer)
    actors = build_actors(
        policy, "tiny", Judging(judge="none"), Training(learning_rate=1e-6, lora_rank=4),
        critic=True, one_base=True,
    )  # fmt: skip
    value = adapter_parameters(policy.core, VALUE)
    default = adapter_parameters(policy.core, "default")
    assert len(value) == len(default) > 0
    assert not {id(p) for p in value} & {id(p) for p in default}
    assert {id(p) for p in default} == {id(p) for p in actors.policy_parameters()}
    named = dict(actors.policy.model.named_parameters())
    odd = [n for n in named if ".value.lora_A.default" in n]
    assert odd and all(id(named[n]) in {id(p) for p in actors.policy_parameters()} for n in odd)


class _Call(nn.Module):
    """Calls the layer of another name, without holding it."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner: list[Any] = [owner]

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = self.owner[0].value(states)
        return result
