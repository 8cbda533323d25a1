"""The `trainer:` passage: everything of Transformers' TrainingArguments that is not ours."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import enum
import importlib.util
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from veridical.runtime.errors import UserError
from veridical.train.loop.modes import checkpointing_asked_for, try_checkpointing
from veridical.train.loop.schedule import schedule_for
from veridical.train.loop.stopping import CHECKED, HIGHER_IS_BETTER
from veridical.train.loop.trainer_keys import (
    HONORED,
    MEASURED_SCHEDULES,
    STEERED_OPTIMIZERS,
    Loop,
    refusals,
)
from veridical.train.options import Training

SCALARS = (bool, int, float, str)
BELOW_ONE = ("adam_beta1", "adam_beta2")


def trainer_arguments(
    training: Training,
    out: Path,
    rows: int,
    held_out: bool,
    use_cpu: bool = False,
    loop: Loop = "trainer",
) -> TrainingArguments:
    """Transformers' arguments, with the passage `trainer:` worked in.

    Args:
        training: the run's options.
        out: the run's folder.
        rows: how many are trained on.
        held_out: whether other rows are evaluated on; by Transformers' Trainer alone.
        use_cpu: even where there is something faster.
        loop: who runs the steps.

    Raises:
        UserError: an option makes no sense, or the passage sets what is ours, what would be
            ignored, or what can't work here.
    """
    training.check()
    steps = training.steps(rows)
    given = resolve_trainer_options(training.trainer, loop)
    wanted = {
        **_ours(training, steps, out),
        **_evaluating(training, steps, held_out, loop),
        **_defaults(steps),
        **given,
        "use_cpu": use_cpu,
    }
    _check_schedule(wanted["lr_scheduler_type"], wanted["load_best_model_at_end"], loop)
    try:
        arguments = TrainingArguments(**wanted)
        if given:
            _try(arguments, steps, loop)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        if not given:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        names = ", ".join(f"trainer.{key}" for key in given)
        raise UserError(
            f"Transformers can't do here what {names} ask{'s' if len(given) == 1 else ''} for: "
            f"{reason}."
        ) from error
    return arguments


def _ours(training: Training, steps: int, out: Path) -> dict[str, object]:
    """What options of ours decide, and what the loops here need."""
    return {
        "output_dir": str(out / "checkpoints"),
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.epochs,
        "max_steps": steps,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "remove_unused_columns": False,
        "label_names": [],
        "dataloader_pin_memory": False,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "seed": training.seed,
    }


def _evaluating(training: Training, steps: int, held_out: bool, loop: Loop) -> dict[str, object]:
    """When the held-out rows are evaluated, and which figure chooses the checkpoint."""
    every = max(1, steps // max(1, training.evaluations))
    held_out = held_out and loop == "trainer"
    # Those of `--check-images` need no held-out rows.
    evaluates = held_out or (training.check_images is not None and loop == "trainer")
    chooses = held_out or (evaluates and training.select_by in CHECKED)
    return {
        "eval_strategy": "steps" if evaluates else "no",
        "save_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,
        "load_best_model_at_end": chooses,
        "metric_for_best_model": f"eval_{training.select_by}" if chooses else None,
        "greater_is_better": HIGHER_IS_BETTER[training.select_by] if chooses else None,
    }


def _defaults(steps: int) -> dict[str, object]:
    """What the `trainer:` section may set otherwise."""
    return {
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.03 * steps)),
        "logging_steps": max(1, steps // 40),
        "save_total_limit": 2,
        "weight_decay": 0.0,
        "disable_tqdm": True,
    }


def _try(arguments: TrainingArguments, steps: int, loop: Loop) -> None:
    """Make the optimizer's class and the schedule, which fail late in Transformers."""
    kind = str(getattr(arguments.optim, "value", arguments.optim))
    steered = kind.startswith(tuple(STEERED_OPTIMIZERS))
    if steered and loop == "reinforcement":
        raise UserError(
            f"trainer.optim {kind} is steered by Transformers' Trainer, and PPO, RLOO and "
            "GRPO run a loop of their own. Name another one, such as adamw_torch or "
            "paged_adamw_8bit."
        )
    _refuse_unread(arguments, kind, steered)
    if (options := checkpointing_asked_for(arguments)) is not None:
        try_checkpointing(options)
    weight = torch.nn.Parameter(torch.zeros(1))
    if steered:
        _require_package(kind)
    else:
        made, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        made([{"params": [weight], "lr": arguments.learning_rate}], **options)
    schedule_for(torch.optim.SGD([weight], arguments.learning_rate), arguments, steps)


def _refuse_unread(arguments: TrainingArguments, kind: str, steered: bool) -> None:
    """Refuse what the optimizer that was chosen would not look at."""
    if arguments.optim_target_modules is not None and not steered:
        raise UserError(
            f"trainer.optim_target_modules means nothing to trainer.optim {kind}. Leave it out, or "
            "name an optimizer that reads it, such as galore_adamw."
        )
    if not arguments.optim_args or steered:
        return
    without = copy.copy(arguments)
    without.optim_args = None
    made, plain = (Trainer.get_optimizer_cls_and_kwargs(one)[1] for one in (arguments, without))
    if made == plain:
        raise UserError(
            f"trainer.optim_args {arguments.optim_args!r} changes nothing of trainer.optim {kind}. "
            "Leave it out; trainer.adam_beta1, adam_beta2, adam_epsilon and weight_decay have keys "
            "of their own."
        )


def _require_package(kind: str) -> None:
    package = next(p for name, p in STEERED_OPTIMIZERS.items() if kind.startswith(name))
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"trainer.optim {kind} needs the package {package}, which is not installed. Install it "
            "with pip, or name another one, such as adamw_torch."
        )


def _check_schedule(kind: object, held_out: object, loop: Loop) -> None:
    name = str(getattr(kind, "value", kind))
    if name not in MEASURED_SCHEDULES or held_out:
        return
    why = "which PPO, RLOO and GRPO do not have. Set another"
    if loop == "trainer":
        why = "and no rows are held out. Set --held-out above 0, or another"
    raise UserError(
        f"trainer.lr_scheduler_type {name} follows the held-out loss, {why} schedule, such as "
        "cosine."
    )


def resolve_trainer_options(trainer: Mapping[str, object] | None, loop: Loop) -> dict[str, object]:
    """The keyword arguments for TrainingArguments that the passage `trainer:` asks for.

    Args:
        trainer: keys and values, as in the configuration file; None is an empty passage.
        loop: who runs the steps.

    Returns:
        A new dictionary with the same keys and values.

    Raises:
        UserError: a key that TrainingArguments doesn't have, one that is ours or can't be
            honored, or a value of another kind than it takes.
    """
    hints = typing.get_type_hints(TrainingArguments)
    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    instead = refusals(loop)
    for key, value in (trainer or {}).items():
        if key in instead:
            raise UserError(f"trainer.{key} can't be set here: {instead[key]}.")
        if key not in known:
            raise UserError(
                f"trainer.{key} is not an option of Transformers' TrainingArguments"
                f"{_nearest(key, known, instead)}."
            )
        if key not in HONORED[loop]:
            raise UserError(
                f"trainer.{key} is new in this version of Transformers, and nobody has looked at "
                "what it does here. Leave it out."
            )
        _check_value(key, value, hints[key])
        _check_number(key, value)
    # In YAML, and so on the command line, a bare `no` is false.
    given = dict(trainer or {})
    return given | {key: "no" for key in ("logging_strategy",) if given.get(key) is False}


def _nearest(key: str, known: list[str], instead: Mapping[str, str]) -> str:
    matches = difflib.get_close_matches(key, known, n=1)
    if not matches:
        return ""
    if matches[0] in instead:
        return f" (for {matches[0]}: {instead[matches[0]]})"
    return f" (did you mean {matches[0]}?)"


def _check_value(key: str, value: object, hint: object) -> None:
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


def _check_number(key: str, value: Any) -> None:
    """Refuse a number that Transformers takes and trains wrongly with, or fails on later."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if type(inner) is float and not math.isfinite(inner):
                raise UserError(f"trainer.{key}.{name} is {inner}; give a finite number.")
    if type(value) not in (int, float):
        return
    if not math.isfinite(value):
        raise UserError(f"trainer.{key} is {value}; give a finite number.")
    if key in BELOW_ONE and not 0 <= value < 1:
        raise UserError(f"trainer.{key} is {value}; give a number from 0 up, below 1.")
    if value < 0:
        raise UserError(f"trainer.{key} is {value}; give a number from 0 up.")


def _check_name(key: str, value: object, kind: type[enum.Enum]) -> None:
    names = [str(member.value) for member in kind]
    if value is False and "no" in names:
        return
    if value not in names and not isinstance(value, kind):
        raise UserError(f"trainer.{key} is one of {', '.join(names)}; not {value!r}.")
