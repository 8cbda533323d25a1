"""The `trainer:` passage: everything of Transformers' TrainingArguments that is not ours."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from veridical.errors import UserError
from veridical.train.options import Training

SCALARS = (bool, int, float, str)

ALWAYS_OWNED: Mapping[str, str] = {
    "output_dir": "set --out",
    "do_train": "the command decides it",
    "do_eval": "the command decides it",
    "do_predict": "the command decides it",
    "seed": "set --seed",
    "data_seed": "set --seed",
    "remove_unused_columns": "it stays off, as images would be removed",
    "label_names": "the losses decide it",
    "prediction_loss_only": "the losses decide it",
    "hub_token": "keys come from the environment (HF_TOKEN) and are never written",
}
"""What no training command lets `trainer:` set, and what to do instead."""


OWNED: Mapping[str, str] = {
    "learning_rate": "set --learning-rate",
    "num_train_epochs": "set --epochs",
    "max_steps": "set --max-steps",
    "per_device_train_batch_size": "set --batch-size",
    "per_device_eval_batch_size": "set --batch-size",
    "gradient_accumulation_steps": "set --accumulation",
    "eval_strategy": "set --evaluations",
    "eval_steps": "set --evaluations",
    "save_strategy": "set --evaluations",
    "save_steps": "set --evaluations",
    "load_best_model_at_end": "the best checkpoint is taken whenever --held-out is above 0",
    "metric_for_best_model": "the loss on the held-out rows decides",
    "greater_is_better": "the loss on the held-out rows decides",
    "resume_from_checkpoint": "set --resume true",
    "bf16": "set --dtype bfloat16",
    "fp16": "set --dtype float16",
    "bf16_full_eval": "set --dtype bfloat16",
    "fp16_full_eval": "set --dtype float16",
    "label_smoothing_factor": "the losses decide it (`train dpo` has --label-smoothing)",
    "save_only_model": "checkpoints are kept to be resumed",
    "dataloader_num_workers": "batches are laid out on the model's device",
    "dataloader_pin_memory": "batches are laid out on the model's device",
    "dataloader_drop_last": "every row counts",
    "train_sampling_strategy": "the order is that of --seed",
    "accelerator_config": "processes share each batch in one way only",
    "eval_on_start": "held-out rows are evaluated at step 0 whenever --held-out is above 0",
    "report_to": "the log is log.jsonl; `veridical report` draws it",
    "use_cpu": "set --device cpu",
}
"""Options of Transformers' that ours stand for, where the Trainer runs the steps."""


def trainer_arguments(
    training: Training, out: Path, rows: int, held_out: bool, use_cpu: bool = False
) -> TrainingArguments:
    """Transformers' arguments, with the passage `trainer:` worked in.

    Args:
        training: the run's options.
        out: the run's folder.
        rows: how many are trained on.
        held_out: whether others are evaluated on.
        use_cpu: even where there is something faster.

    Raises:
        UserError: an option makes no sense, or the passage sets what is ours.
    """
    training.check()
    steps = training.steps(rows)
    every = max(1, steps // max(1, training.evaluations))
    defaults: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.03 * steps)),
        "logging_steps": max(1, steps // 40),
        "save_total_limit": 2,
        "weight_decay": 0.0,
        "disable_tqdm": True,
    }
    defaults |= resolve_trainer_options(training.trainer, OWNED)
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        learning_rate=training.learning_rate,
        num_train_epochs=training.epochs,
        max_steps=steps,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        eval_strategy="steps" if held_out else "no",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        load_best_model_at_end=held_out,
        metric_for_best_model="eval_loss" if held_out else None,
        greater_is_better=False if held_out else None,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
        report_to=[],
        use_cpu=use_cpu,
        seed=training.seed,
        **defaults,
    )


def resolve_trainer_options(
    trainer: Mapping[str, Any] | None, owned: Mapping[str, str]
) -> dict[str, Any]:
    """The keyword arguments for TrainingArguments that the passage `trainer:` asks for.

    Args:
        trainer: keys and values, as in the configuration file; None is an empty passage.
        owned: keys that the command sets itself, each with what to do instead, as a phrase
            ("set --learning-rate"). `ALWAYS_OWNED` is added.

    Returns:
        A new dictionary with the same keys and values.

    Raises:
        UserError: a key that TrainingArguments doesn't have, one that we own, or a value of
            another kind than it takes.
    """
    hints = typing.get_type_hints(TrainingArguments)
    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    instead = {**ALWAYS_OWNED, **owned}
    for key, value in (trainer or {}).items():
        if key in instead:
            raise UserError(f"trainer.{key} is not Transformers' to set here: {instead[key]}.")
        if key not in known:
            raise UserError(
                f"trainer.{key} is no option of Transformers' TrainingArguments"
                f"{_nearest(key, known, instead)}."
            )
        _check_value(key, value, hints[key])
    return dict(trainer or {})


def _nearest(key: str, known: list[str], instead: Mapping[str, str]) -> str:
    matches = difflib.get_close_matches(key, known, n=1)
    if not matches:
        return ""
    if matches[0] in instead:
        return f" (for {matches[0]}: {instead[matches[0]]})"
    return f" (did you mean {matches[0]}?)"


def _check_value(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of the wrong kind, where only names from a list or plain values are taken."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if is_union else (hint,)
    kinds = [member for member in members if member is not types.NoneType]
    if value is None and len(kinds) < len(members):
        return
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            _check_name(key, value, kind)
            return
    if any(kind not in SCALARS for kind in kinds):
        return
    fits_float = float in kinds and type(value) is int
    if type(value) not in kinds and not fits_float:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"trainer.{key} takes {names}, not {value!r}.")


def _check_name(key: str, value: Any, kind: type[enum.Enum]) -> None:
    names = [str(member.value) for member in kind]
    if value not in names and not isinstance(value, kind):
        raise UserError(f"trainer.{key} is one of {', '.join(names)}; not {value!r}.")
