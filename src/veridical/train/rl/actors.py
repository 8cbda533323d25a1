"""The models of reinforcement learning: policy, reference, value and reward.

With adapters all four can share one base: the reference is the base itself, the policy and the
value model are an adapter each, and so is a reward model that was trained on that base. With full
tuning each is a model of its own.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from veridical.judges.named import Judging
from veridical.models.adapters import adapter_base, adapter_parameters
from veridical.models.model_argument import Model, name_of
from veridical.models.policy import Policy, adapters_off, frozen_copy
from veridical.models.reward_model import (
    RewardInputs,
    RewardModel,
    attach_reward_model,
    load_reward_model,
    new_head,
    own_adapter,
)
from veridical.models.tuning import prepare_training, require_wide, without_language_head
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import named_folder
from veridical.train.loop.reference import require_same_inputs
from veridical.train.options import Training

REWARD, VALUE = "reward", "value"
"""What adapters are called on a shared base."""


@dataclass(frozen=True)
class Actors:
    """Who takes part.

    Attributes:
        policy: what is trained.
        frozen: the reference where it is a model of its own; else it is the policy with its
            adapters off.
        reward_model: what `--judge reward:FOLDER` names, or None.
        critic: the value model, a head on states of its own model or adapter; None without one.
    """

    policy: Policy
    frozen: Policy | None
    reward_model: RewardModel | None
    critic: RewardModel | None

    @contextmanager
    def as_reference(self) -> Iterator[object]:
        """The reference's model, without gradients."""
        with torch.no_grad():
            if self.frozen is not None:
                yield self.frozen.model
                return
            with adapters_off(self.policy.model):
                yield self.policy.model

    def trained(self) -> nn.ModuleDict:
        """All modules that hold trained weights; what shares a base is there once."""
        parts: dict[str, nn.Module] = {"policy": self.policy.model}
        if self.critic is not None:
            parts["head"] = self.critic.head
            if self.critic.policy.model is not self.policy.model:
                parts["value"] = self.critic.policy.model
        return nn.ModuleDict(parts)

    def value_parameters(self) -> list[nn.Parameter]:
        """What the value loss trains."""
        if self.critic is None:
            return []
        model, adapter = self.critic.policy.model, self.critic.adapter
        own = adapter_parameters(model, adapter) if adapter else list(model.parameters())
        return [*(p for p in own if p.requires_grad), *self.critic.head.parameters()]

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the policy loss trains."""
        other = {id(parameter) for parameter in self.value_parameters()}
        return [
            parameter
            for parameter in self.policy.model.parameters()
            if parameter.requires_grad and id(parameter) not in other
        ]


def build_actors(
    start: Policy, model: Model, judging: Judging, training: Training, critic: bool, one_base: bool
) -> Actors:
    """Load and prepare everybody.

    The value model begins as the reward model wherever there is one that reads the policy's own
    tokens; else as the start, with a head that expects 0 everywhere.

    Args:
        start: the model that training starts from.
        model: its name.
        judging: who rewards.
        training: the run's options.
        critic: whether there is a value model.
        one_base: let adapters share one base where they can.

    Raises:
        UserError: a reward model can't be loaded.
    """
    folder = Path(judging.named) if judging.kind == "reward" else None
    full = training.tuning == "full"
    fits = folder is None or _fits(folder, name_of(model), training)
    shares = one_base and not full and fits
    # Copied before anything is changed in it.
    frozen = frozen_copy(start) if full else None
    own = copy.deepcopy(start) if critic and not shares else None
    policy = prepare_training(start, training.trained)
    reward_model = None
    if folder is not None:
        if shares:
            reward_model = attach_reward_model(policy, folder, REWARD)
        else:
            reward_model = load_reward_model(
                folder, training.weights_dtype, training.device, training.attention
            )
        reward_model.policy.model.eval()
    value = None
    if critic and own is None:
        value = _shared_critic(policy, reward_model)
    elif critic and own is not None:
        value = _own_critic(own, policy, reward_model, training)
    if reward_model is not None and reward_model.adapter is None:
        reward_model.policy.model.requires_grad_(False)
    actors = Actors(policy, frozen, reward_model, value)
    require_wide(actors.trained())
    return actors


def drop_other_adapters(policy: Policy) -> None:
    """Leave the policy's own adapter alone, so that it is what is saved."""
    if isinstance(policy.model, PeftModel):
        for name in (REWARD, VALUE):
            if name in policy.model.peft_config:
                policy.model.delete_adapter(name)


def _fits(folder: Path, model: str, training: Training) -> bool:
    """Whether a reward model's adapter was trained on what the policy starts from."""
    if not (folder / "adapter_config.json").is_file() or training.init_adapter is not None:
        return False
    return _resolved(adapter_base(folder)) == _resolved(model)


def _resolved(name: str) -> str:
    folder = named_folder(name)
    return str(folder.resolve()) if folder else name


def _shared_critic(policy: Policy, reward_model: RewardModel | None) -> RewardModel:
    """A second trained adapter on the policy's base, that of the reward model if it is there."""
    model = policy.model
    inherits = reward_model is not None and reward_model.adapter is not None
    active = model.active_adapter
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    source = REWARD if inherits else active
    model.add_adapter(VALUE, copy.deepcopy(model.peft_config[source]))
    own = adapter_parameters(model, VALUE)
    if inherits:
        with torch.no_grad():
            for parameter, given in zip(own, adapter_parameters(model, REWARD), strict=True):
                parameter.copy_(given)
    model.set_adapter(active)
    trained |= {id(parameter) for parameter in own}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    head = new_head(policy)
    if reward_model is not None and inherits:
        head.load_state_dict(reward_model.head.state_dict())
        return RewardModel(policy, head, reward_model.reading, VALUE)
    return RewardModel(policy, head, RewardInputs(), VALUE)


def _own_critic(
    start: Policy, policy: Policy, reward_model: RewardModel | None, training: Training
) -> RewardModel:
    """A value model that shares nothing: the reward model's copy, or the start's."""
    base, head = start, None
    if reward_model is not None and _reads_the_same(policy, reward_model.policy):
        base = dataclasses.replace(
            policy, model=copy.deepcopy(reward_model.policy.model), vision=None
        )
        head = copy.deepcopy(reward_model.head).requires_grad_(True)
    plain = dataclasses.replace(training.trained, train_vision=False)
    prepared = without_language_head(prepare_training(base, plain))
    return RewardModel(prepared, head or new_head(prepared), RewardInputs())


def _reads_the_same(policy: Policy, other: Policy) -> bool:
    try:
        require_same_inputs(policy, other)
    except UserError:
        print(
            "The reward model reads other tokens than the policy, so the value model begins as the "
            "policy does."
        )
        return False
    return True


@contextmanager
def as_critic(critic: RewardModel) -> Iterator[Any]:
    """The value model's own adapter at work, its weights trained."""
    with own_adapter(critic):
        yield critic.policy.model
