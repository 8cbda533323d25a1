"""Every key of TrainingArguments, for every algorithm: honored, ours, or refused by name."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import TrainingArguments
from tuning import FULL

from veridical import cli
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.policy import Policy
from veridical.models.tuning import prepare_training
from veridical.runtime.errors import UserError
from veridical.train.dpo import train_dpo
from veridical.train.grpo import train_grpo
from veridical.train.loop.trainer_keys import HONORED, OURS, REFUSED, Loop, loop_of, refusals
from veridical.train.loop.trainer_options import resolve_trainer_options, trainer_arguments
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.reward import train_reward
from veridical.train.rl import learner as rl_learner
from veridical.train.rl.actors import Actors
from veridical.train.rl.learner import Learner, LoopState, _forget_old
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

KEYS = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
COMMANDS: dict[str, Any] = {
    "train dpo": train_dpo, "train sft": train_sft, "train steerlm": train_steerlm,
    "train reward": train_reward, "train online": train_online, "train ppo": train_ppo,
    "train rloo": train_rloo, "train grpo": train_grpo,
}  # fmt: skip
LOOPS: tuple[Loop, ...] = get_args(Loop)
TRAINING = Training(learning_rate=1e-3, held_out=0.0, lora_rank=4, lora_alpha=8)

VALUES: dict[str, Any] = {
    "lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}, "warmup_steps": 3, "optim": "sgd",
    "optim_args": "momentum=0.5", "weight_decay": 0.1, "adam_beta1": 0.5, "adam_beta2": 0.6,
    "adam_epsilon": 1e-3, "max_grad_norm": 0.5, "tf32": False, "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": True}, "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": True}, "save_total_limit": 1,
    "full_determinism": True, "optim_target_modules": "all-linear", "torch_empty_cache_steps": 2,
    "logging_strategy": "epoch", "logging_steps": 3, "logging_first_step": True,
    "log_level": "error", "log_level_replica": "error", "eval_delay": 2.0,
    "debug": "underflow_overflow", "ddp_find_unused_parameters": False, "ddp_bucket_cap_mb": 5,
    "ddp_broadcast_buffers": False, "ddp_static_graph": True,
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_every_key_has_one_fate(loop: Loop) -> None:
    refused, honored = set(refusals(loop)), HONORED[loop]
    assert set(KEYS) <= refused | honored
    # Transformers 5.17 has these under their older names alone.
    newer = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert (refused | honored) - set(KEYS) <= newer
    assert not refused & honored
    assert not set(OURS) & set(REFUSED)
    assert honored <= VALUES.keys()


def test_these_are_all_training_commands() -> None:
    assert set(COMMANDS) == {name for name in cli.COMMANDS if name.startswith("train ")}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_goes_by_the_table(command: str, tmp_path: Path) -> None:
    """Each key is refused by its name before anything is loaded, or passes on to the loading."""
    loop = loop_of(command)
    data = tmp_path / "data.jsonl"
    data.write_text("{}", encoding="utf-8")
    options: dict[str, Any] = {}
    if loop == "reinforcement":
        options["judging"] = Judging(judge="none")
        options["symbolic"] = Symbolic(length_penalty=1.0)
    if command == "train online":
        (tmp_path / "objects.json").write_text('{"a": ["dog"]}', encoding="utf-8")
        options["judging"] = Judging(judge="exact", objects=tmp_path / "objects.json")
    for number, key in enumerate(sorted(refusals(loop))):
        trainer = {key: VALUES.get(key, True)}
        out = tmp_path / f"run-{number}"
        with pytest.raises(UserError) as error:
            COMMANDS[command]("nothing", data, out, training=replace(TRAINING, trainer=trainer),
                **options)  # fmt: skip
        assert f"trainer.{key} can't be set here: {refusals(loop)[key]}." in str(error.value)
        assert not out.exists()


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_honored_arrives(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veridical.train.loop.trainer_options._require_package", lambda kind: None)
    readers = {"optim_args": "sgd", "optim_target_modules": "galore_adamw"}
    for key in sorted(HONORED[loop]):
        beside = {"optim": readers[key]} if key in readers else {}
        training = replace(TRAINING, trainer={key: VALUES[key], **beside})
        found = trainer_arguments(training, tmp_path, 8, False, True, loop)
        value = getattr(found, key)
        if key.startswith("debug"):
            value = value[0].value
        assert getattr(value, "value", value) == VALUES[key], key


def test_a_key_of_another_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {loop: keys - {"optim"} for loop, keys in HONORED.items()}
    monkeypatch.setattr("veridical.train.loop.trainer_options.HONORED", fewer)
    with pytest.raises(UserError, match=r"trainer\.optim is new in this version"):
        resolve_trainer_options({"optim": "sgd"}, "trainer")


@pytest.mark.parametrize(
    ("trainer", "loop", "words"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "trainer", "follows the held-out loss"),
        ({"lr_scheduler_type": "greedy"}, "reinforcement", "Set another schedule"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "trainer", "can't be made with"),
        ({"optim": "schedule_free_adamw"}, "reinforcement", "loop of their own"),
        ({"optim": "adamw_torch", "optim_args": "nonsense"}, "trainer", "trainer.optim_args"),
        ({"lr_scheduler_kwargs": {"odd": 1}}, "reinforcement", "can't be made with"),
        ({"max_grad_norm": 1.0, "warmup_steps": -1}, "trainer", "trainer.warmup_steps"),
    ],
)
def test_what_cannot_work_is_no_traceback(
    trainer: dict[str, Any], loop: Loop, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        trainer_arguments(replace(TRAINING, trainer=trainer), tmp_path, 8, False, True, loop)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tf32 may work here")
def test_tf32_without_a_gpu_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.tf32"):
        trainer_arguments(replace(TRAINING, trainer={"tf32": True}), tmp_path, 8, False, True)


def test_a_plateau_is_followed_where_rows_are_held_out(tmp_path: Path) -> None:
    training = replace(TRAINING, trainer={"lr_scheduler_type": "reduce_lr_on_plateau"})
    trainer_arguments(training, tmp_path, 8, True, True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lora_rank": 0}, "--lora-rank is 0"),
        ({"lora_alpha": 0}, "--lora-alpha is 0"),
        ({"projector_learning_rate": 1e-5}, "--train-projector true"),
        ({"projector_learning_rate": 0.0, "train_projector": True}, "--projector-learning-rate"),
    ],
)
def test_options_that_would_fail_late(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(TRAINING, **changed).check()


def learner_of(policy: Policy, out: Path, **changed: Any) -> tuple[Learner, Policy]:
    training = replace(TRAINING, **{"max_steps": 10, **changed})
    trained = prepare_training(policy, training.trained)
    actors = Actors(trained, None, None, None)
    return Learner(actors, [(actors.policy_parameters(), 1e-3)], training, out, 8), trained


def test_rl_takes_the_optimizer_that_is_asked_for(policy: Policy, tmp_path: Path) -> None:
    learner, _ = learner_of(
        policy, tmp_path, **FULL,
        trainer={"optim": "rmsprop", "weight_decay": 0.1, "full_determinism": False},
    )  # fmt: skip
    assert isinstance(learner.optimizer, torch.optim.RMSprop)
    norms = {id(p) for m in policy.model.modules() if type(m).__name__.endswith("Norm")
             for p in m.parameters()}  # fmt: skip
    for group in learner.optimizer.param_groups:
        inside = {id(parameter) for parameter in group["params"]}
        assert group["weight_decay"] == (0.0 if inside & norms else 0.1)
    every = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert len(every) == len({id(p) for p in every})
    assert {id(p) for p in every} == {id(p) for p in policy.model.parameters() if p.requires_grad}


def test_rl_gives_the_projector_its_own_rate(policy: Policy, tmp_path: Path) -> None:
    learner, _ = learner_of(
        policy, tmp_path, train_projector=True, projector_learning_rate=1e-5,
        trainer={"lr_scheduler_type": "constant"},
    )  # fmt: skip
    rates = sorted({group["lr"] for group in learner.optimizer.param_groups})
    assert rates == [1e-5, 1e-3]
    # One gradient is clipped for all of the policy.
    assert len(learner.groups) == 1


def test_rl_recomputes_activations(policy: Policy, tmp_path: Path) -> None:
    _, trained = learner_of(policy, tmp_path, trainer={"activation_checkpointing": True})
    assert any(getattr(m, "gradient_checkpointing", False) for m in trained.model.modules())


def test_rl_recomputes_activations_by_the_older_name(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older:
        """TrainingArguments of Transformers 5.17."""

        def __init__(self, arguments: TrainingArguments) -> None:
            self.gradient_checkpointing, self.gradient_checkpointing_kwargs = True, None
            self._arguments = arguments

        def __getattr__(self, name: str) -> Any:
            if name.startswith("activation_checkpointing"):
                raise AttributeError(name)
            return getattr(self._arguments, name)

    monkeypatch.setattr(
        rl_learner, "trainer_arguments", lambda *given: Older(trainer_arguments(*given))
    )
    _, trained = learner_of(policy, tmp_path)
    assert any(getattr(m, "gradient_checkpointing", False) for m in trained.model.modules())


@pytest.mark.parametrize(("limit", "left"), [(1, [4]), (3, [2, 3, 4]), (None, [1, 2, 3, 4])])
def test_rl_keeps_as_many_checkpoints_as_asked_for(
    policy: Policy, tmp_path: Path, limit: int | None, left: list[int]
) -> None:
    learner, _ = learner_of(policy, tmp_path, trainer={"save_total_limit": limit})
    for step in range(1, 5):
        learner.save(LoopState(step, 0.1))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"checkpoint-{step}" for step in left}


def test_rl_makes_its_rounding_the_same_if_asked(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(rl_learner, "enable_full_determinism", seeds.append)
    learner_of(policy, tmp_path, trainer={"full_determinism": True})
    assert seeds == [TRAINING.seed]


def test_no_limit_keeps_every_checkpoint_of_reinforcement(tmp_path: Path) -> None:
    for limit, left in ((0, 3), (None, 3), (2, 2), (1, 1)):
        for step in (1, 2, 10):
            (tmp_path / f"checkpoint-{step}").mkdir(exist_ok=True)
        _forget_old(tmp_path, limit, 10)
        assert len(list(tmp_path.iterdir())) == left
    assert (tmp_path / "checkpoint-10").is_dir()
