"""The model's own dropout is off in training unless asked for, whatever recomputes."""

from __future__ import annotations

import copy
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from veridical.data.records import assistant_message, user_message, write_records
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.batching import collate
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.ppo import PPO
from veridical.runtime.files import read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.modes import checkpoint_activations, learning, set_training
from veridical.train.loop.scorer import Scorer
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def noisy(policy: Policy) -> Policy:
    """A LLaVA with dropout in the attention of both its towers."""
    for module in policy.core.modules():
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.3)
    return policy


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.core.config.text_config.attention_dropout = 0.3
    policy.core.config.vision_config.attention_dropout = 0.3
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    rows = [
        {
            "id": f"pair-{i}",
            "images": [picture],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message("There is a red cup. There is a green chair.")],
            "rejected": [assistant_message("There is a blue dog at the bottom.")],
        }
        for i, picture in enumerate(pictures)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trained_policy_scores_as_an_evaluated_one(
    noisy: Policy, groups: list[Group], dtype: torch.dtype, checkpointing: bool
) -> None:
    noisy.model.to(dtype)
    policy = prepare_training(noisy, Tuning("lora", 4, 8))
    scorer = Scorer(policy)
    batch = collate(policy, groups[:3], True)
    expected = scorer.eval()(batch)[0]
    if checkpointing:
        scorer.activation_checkpointing_enable()
    calls = count_recomputed(policy.core)
    found = scorer.train()(batch)[0]
    assert torch.equal(found, expected)
    found.sum().backward()
    assert (len(calls) > 0) == checkpointing
    loud = Scorer(policy, model_dropout=True).train()
    assert not torch.equal(loud(batch)[0], expected)


def count_recomputed(model: nn.Module) -> list[nn.Module]:
    """Layers whose forward is called in a backward pass."""
    found: list[nn.Module] = []

    def count(layer: nn.Module, *_: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            found.append(layer)

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            next(iter(layer.children())).register_forward_pre_hook(count)
    return found


def test_recomputed_layers_give_the_same_gradients(noisy: Policy, groups: list[Group]) -> None:
    policy = prepare_training(noisy, Tuning("full"))
    scorer = Scorer(policy)
    batch = collate(policy, groups[:3], True)

    def gradients() -> dict[str, Tensor]:
        scorer.train()(batch)[0].sum().backward()
        found = {
            name: parameter.grad.clone()
            for name, parameter in policy.model.named_parameters()
            if parameter.grad is not None
        }
        policy.model.zero_grad()
        return found

    plain = gradients()
    scorer.activation_checkpointing_enable({"use_reentrant": False})
    again = gradients()
    assert plain.keys() == again.keys()
    assert all(torch.allclose(value, again[name], atol=1e-10) for name, value in plain.items())


class Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """A layer with dropout of its own, as some families have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(states), 0.5, training=self.training)


class Model(nn.Module):
    """What `checkpoint_activations` asks of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()

    def activation_checkpointing_enable(self, **_: Any) -> None:
        self.layer.gradient_checkpointing = True
        self.layer._gradient_checkpointing_func = lambda act, *given: (
            torch.utils.checkpoint.checkpoint(act, *given, use_reentrant=False)
        )


@pytest.mark.parametrize("model_dropout", [False, True])
def test_a_layer_that_recomputes_keeps_its_own_dropout_off(model_dropout: bool) -> None:
    model, states = Model(), torch.ones(4, 8, requires_grad=True)
    expected = model.eval().layer(states)
    checkpoint_activations(model, model_dropout, None)
    calls = count_recomputed(model)
    with learning(model, model_dropout):
        found = model.layer(states)
        found.sum().backward()
    assert len(calls) == 1
    assert torch.equal(found, expected) != model_dropout
    assert not any(module.training for module in model.modules())


def test_an_adapters_own_dropout_is_asked_for_and_stays(noisy: Policy, groups: list[Group]) -> None:
    policy = prepare_training(noisy, Tuning("lora", 4, 8, dropout=0.5))
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    scorer = Scorer(policy).train()
    batch = collate(policy, groups[:2], True)
    assert not torch.equal(scorer(batch)[0], scorer(batch)[0])
    at_work = [module for module in policy.model.modules() if module.training]
    assert {type(module).__name__ for module in at_work} == {"NarrowLinear", "Dropout"}


def test_everything_trains_where_the_models_dropout_is_asked_for(policy: Policy) -> None:
    modules = list(copy.deepcopy(policy.model).modules())
    set_training(modules, True)
    assert all(module.training for module in modules)


STILL = {
    "learning_rate": 1e-12, "max_steps": 2, "batch_size": 6, "accumulation": 1, "held_out": 0.0,
    "tuning": "full", "evaluations": 1,
}  # fmt: skip


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("command", ["dpo", "reward", "online", "sft"])
def test_the_losses_of_a_model_that_stays_where_it_is(
    command: str, dropout: bool, saved: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training = Training(**STILL, model_dropout=dropout, trainer={"logging_steps": 1})  # type: ignore[arg-type]
    if command == "dpo":
        train_dpo(saved, pairs, out, training=training)
    elif command == "reward":
        train_reward(saved, pairs, out, training=training)
    elif command == "online":
        lists = {f"pair-{number}": ["cup"] for number in range(6)}
        (tmp_path / "objects.json").write_text(json.dumps(lists))
        online = {"judging": Judging(judge="exact", objects=tmp_path / "objects.json")}
        sampling = Sampling(max_new_tokens=6)
        train_online(saved, pairs, out, "mixed", offline=1.0, sampling=sampling,
            training=training, **online)  # type: ignore[arg-type] # fmt: skip
    else:
        train_sft(saved, pairs, out, kind="preference", training=training)
    losses = [row["loss"] for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
    if command == "sft":  # every step sees every row
        assert (losses[0] == pytest.approx(losses[1], abs=1e-6)) != dropout
        return
    exact = all(abs(loss - math.log(2)) < 1e-5 for loss in losses)
    first = next(row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train")
    if command == "dpo":  # what dropout does to the first step's margin is not rounding
        assert (first["rewards_margin"] == 0) != dropout
    # A reward model's head begins at 0, whatever the states below it are.
    assert exact != dropout or command == "reward"


def test_fine_tuning_keeps_the_models_dropout() -> None:
    defaults = {
        command: inspect.signature(command).parameters["training"].default.model_dropout
        for command in (train_sft, train_steerlm, train_dpo, train_reward, train_online,
            train_ppo, train_rloo)
    }  # fmt: skip
    assert {command for command, dropout in defaults.items() if dropout} == {
        train_sft, train_steerlm,
    }  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("command", ["ppo", "rloo"])
def test_a_policy_that_stays_where_it_is_has_not_moved(
    command: str, checkpointing: bool, saved: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    trainer = {"activation_checkpointing": checkpointing}
    training = Training(**STILL, trainer=trainer)  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "kind": "preference", "judging": Judging(judge="none"), "training": training,
        "symbolic": Symbolic(length_penalty=5.0), "sampling": Sampling(max_new_tokens=6),
    }  # fmt: skip
    if command == "ppo":
        train_ppo(saved, pairs, out, ppo=PPO(inner_epochs=1), **options)
    else:
        train_rloo(saved, pairs, out, standardize=False, **options)
    log = read_jsonl(out / "log.jsonl")
    assert all(row["moved"] < 1e-9 for row in log)
