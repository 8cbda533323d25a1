"""The `trainer:` passage: what goes through, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from veridical.runtime.errors import UserError
from veridical.train.loop.trainer_keys import Loop
from veridical.train.loop.trainer_options import resolve_trainer_options, trainer_arguments
from veridical.train.options import Training


def test_an_empty_passage() -> None:
    assert resolve_trainer_options(None, "trainer") == {}
    assert resolve_trainer_options({}, "trainer") == {}


def test_what_transformers_takes_goes_through_unchanged() -> None:
    passage = {
        "max_grad_norm": 2,
        "lr_scheduler_type": "cosine",
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "warmup_steps": 10,
    }
    resolved = resolve_trainer_options(passage, "trainer")
    assert resolved == passage
    assert resolved is not passage
    arguments = TrainingArguments(output_dir="unused", **resolved)
    assert arguments.max_grad_norm == 2


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        ({"learning_rate": 1e-3}, ["trainer.learning_rate", "set --learning-rate"]),
        ({"output_dir": "x"}, ["trainer.output_dir", "set --out"]),
        ({"max_grad_nrm": 1.0}, ["trainer.max_grad_nrm", "did you mean max_grad_norm?"]),
        ({"learnin_rate": 1.0}, ["trainer.learnin_rate", "set --learning-rate"]),
        ({"zzzz": 1.0}, ["trainer.zzzz is not an option"]),
        ({"max_grad_norm": "1e-5"}, ["trainer.max_grad_norm takes float, not '1e-5'"]),
        ({"logging_first_step": 1}, ["trainer.logging_first_step takes bool, not 1"]),
        ({"save_total_limit": True}, ["takes int, not True"]),
        ({"lr_scheduler_type": "cosin"}, ["is one of linear, cosine,", "not 'cosin'"]),
        ({"lr_scheduler_type": 3}, ["is one of linear, cosine,"]),
        ({"weight_decay": None}, ["takes float, not None"]),
        ({"weight_decay": float("nan")}, ["trainer.weight_decay is nan"]),
        ({"max_grad_norm": float("inf")}, ["trainer.max_grad_norm is inf"]),
        ({"save_total_limit": -1}, ["trainer.save_total_limit is -1"]),
        ({"adam_beta1": 1.0}, ["trainer.adam_beta1 is 1.0", "below 1"]),
        ({"adam_beta2": -1}, ["trainer.adam_beta2 is -1"]),
        (
            {"lr_scheduler_kwargs": {"num_cycles": float("nan")}},
            ["trainer.lr_scheduler_kwargs.num_cycles is nan"],
        ),
        ({"hub_token": "secret"}, ["trainer.hub_token", "environment"]),
    ],
)
def test_what_is_refused(passage: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        resolve_trainer_options(passage, "trainer")
    assert all(word in str(error.value) for word in words)
    assert "secret" not in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("loop", ["trainer", "reinforcement"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_rank": 0}, "--lora-rank is 0; give 1 or more"),
        ({"lora_alpha": 0}, "--lora-alpha is 0"),
        ({"epochs": float("inf")}, "--epochs is inf"),
        ({"epochs": float("nan")}, "--epochs is nan"),
        ({"trainer": {"neftune_noise_alpha": 5.0}}, "trainer.neftune_noise_alpha can't be set"),
        ({"trainer": {"tf32": True}}, "trainer.tf32 asks for"),
        ({"trainer": {"lr_scheduler_type": "reduce_lr_on_plateau"}}, "held.out"),
        (
            {"trainer": {"push_to_hub": True}},
            "push_to_hub can't be set here: set --push-to-hub",
        ),
        ({"trainer": {"auto_find_batch_size": True}}, "--dry-run true"),
        ({"trainer": {"adam_beta1": 2.0}}, r"trainer\.adam_beta1 is 2\.0"),
    ],
)
def test_nothing_that_can_be_set_ends_in_a_traceback(
    options: dict[str, Any], words: str, loop: Loop, tmp_path: Path
) -> None:
    training = Training(**{"learning_rate": 1e-4, **options})
    with pytest.raises(UserError, match=words):
        trainer_arguments(training, tmp_path, 8, False, True, loop)


@pytest.mark.parametrize(
    ("optim", "package"),
    [("galore_adamw", "galore_torch"), ("lomo", "lomo_optim"), ("apollo_adamw", "apollo_torch"),
     ("schedule_free_adamw", "schedulefree")],
)  # fmt: skip
def test_an_optimizer_without_its_package_is_refused_before_anything_is_loaded(
    optim: str, package: str, tmp_path: Path
) -> None:
    training = Training(learning_rate=1e-4, trainer={"optim": optim})
    with pytest.raises(UserError, match=f"needs the package {package}"):
        trainer_arguments(training, tmp_path, 8, False, True)


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        ({"optim_args": "nonsense=1"}, "changes nothing of trainer.optim adamw_torch"),
        ({"optim_target_modules": "q_proj"}, "means nothing to trainer.optim adamw_torch"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"nonsense": 1}},
            "nonsense",
        ),
    ],
)
@pytest.mark.parametrize("loop", ["trainer", "reinforcement"])
def test_what_nobody_would_read_is_refused(
    loop: Loop, passage: dict[str, Any], words: str, tmp_path: Path
) -> None:
    training = Training(learning_rate=1e-4, max_steps=2, trainer=passage)
    if loop == "reinforcement" and "optim_target_modules" in passage:
        words = "own, which does not have it"
    with pytest.raises(UserError, match=words):
        trainer_arguments(training, tmp_path, 4, False, True, loop)


def test_what_is_read_goes_through(tmp_path: Path) -> None:
    passage = {"optim": "sgd", "optim_args": "momentum=0.9", "logging_strategy": False}
    training = Training(learning_rate=1e-4, max_steps=2, trainer=passage)
    arguments = trainer_arguments(training, tmp_path, 4, False, True)
    assert arguments.optim_args == "momentum=0.9"
    assert arguments.logging_strategy == "no"  # as the command line reads a bare `no`
