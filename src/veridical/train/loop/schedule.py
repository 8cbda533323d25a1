"""The learning rate's schedule: Transformers', with a first step that learns something."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler

from veridical.runtime.errors import UserError


def schedule_for(optimizer: Optimizer, arguments: TrainingArguments, steps: int) -> LRScheduler:
    """The schedule that the arguments ask for.

    Args:
        optimizer: its groups' learning rates are the peaks.
        arguments: the kind, its own options and the warm-up.
        steps: of the whole run.

    Raises:
        UserError: the kind's own options do not fit.
    """
    warmup = arguments.get_warmup_steps(steps)
    kind, options = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs or {}
    try:
        scheduler: LRScheduler = get_scheduler(kind, optimizer, warmup, steps, options)
    except (TypeError, ValueError) as error:
        name = getattr(kind, "value", kind)
        raise UserError(
            f"trainer.lr_scheduler_type {name} can't be made with trainer.lr_scheduler_kwargs "
            f"{options}: {error}."
        ) from error
    begin_above_zero(scheduler, warmup)
    return scheduler


def begin_above_zero(scheduler: Any, warmup: int) -> None:
    """Let a warm-up of w steps begin at 1 / (w + 1) of the peak and reach it in the step after.

    Transformers begins at 0, so that a first step, which is all steps of a short run, changes
    nothing. The warm-up keeps its shape: its steps are taken at equal distances within it.

    Args:
        scheduler: as `get_scheduler` gives it, before its first step; kinds that do not begin at
            0 are left as they are.
        warmup: its steps.
    """
    if warmup < 1 or not isinstance(scheduler, LambdaLR) or any(scheduler.get_last_lr()):
        return
    scheduler.lr_lambdas = [partial(_within, act, warmup) for act in scheduler.lr_lambdas]
    rates = [
        peak * act(0) for peak, act in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)


def resume_schedule(scheduler: object) -> None:
    """Give the optimizer the rate that the schedule has at the step that was loaded into it.

    What a checkpoint holds is the rate of the schedule that it was made under, whose number of
    steps may have been another one (`--extend`).

    Args:
        scheduler: after `load_state_dict`; kinds that do not depend on the step alone are left.
    """
    if not isinstance(scheduler, LambdaLR):
        return
    rates = [
        peak * act(scheduler.last_epoch)
        for peak, act in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)


def _within(act: Callable[[Any], float], warmup: int, step: int) -> float:
    return act((step + 1) * warmup / (warmup + 1) if step < warmup else step)
