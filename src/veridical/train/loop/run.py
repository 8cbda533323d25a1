"""Start Transformers' Trainer for one of our tasks, and save what comes out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.run_files import LogRow
from veridical.train.loop.callbacks import (
    Epochs,
    Manifests,
    RunLog,
    SaveWhenTerminated,
    Steps,
    StepTimer,
)
from veridical.train.loop.checking import open_check, write_descriptions
from veridical.train.loop.checkpoints import LastStep, newest_verified, steps_of
from veridical.train.loop.finish import Trained
from veridical.train.loop.items import Items
from veridical.train.loop.reporting import Report, Trackers
from veridical.train.loop.resume import require_steps_left, tell_extension, tell_resumption
from veridical.train.loop.rounding import measure_logps
from veridical.train.loop.saving import save_result
from veridical.train.loop.showing import PROMPTS, ShowAnswers
from veridical.train.loop.stopping import (
    CHECKED,
    HIGHER_IS_BETTER,
    OF_RESPONSES,
    StopEarly,
    asked_of,
    improves,
    in_words,
)
from veridical.train.loop.task import Task
from veridical.train.loop.trained import require_same_start
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.loop.training_set import TrainingSet, distinct
from veridical.train.loop.trial import TryFirst
from veridical.train.options import Training


def train_and_save(
    policy: Policy,
    model: Model,
    task: Task,
    training: Training,
    rows: TrainingSet,
    out: Path,
    steers: bool = False,
) -> Trained:
    """Train a policy on rows, and save it.

    Args:
        policy: what is trained.
        model: what was loaded to start from.
        task: what is optimized.
        training: the run's options.
        rows: what is trained on, and what is held out.
        out: the run's folder.
        steers: whether the policy learns to be asked for attributes.
    """
    measure = measure_logps(policy, rows.few, task.share_prefix, training)
    figures = run_trainer(policy, task, training, rows.train, rows.held_out, out, steers=steers)
    return Trained(figures, save_result(policy, model, training, out, measure))


def run_trainer(
    policy: Policy,
    task: Task,
    training: Training,
    train: Items,
    held_out: Items | None,
    out: Path,
    more: Sequence[TrainerCallback] = (),
    steers: bool = False,
) -> dict[str, object]:
    """Try two batches, train, and leave the best weights in the policy.

    Args:
        policy: what is trained.
        task: what is optimized.
        training: the run's options.
        train: the rows.
        held_out: rows that are evaluated on, if any.
        out: the run's folder.
        more: callbacks beside the usual ones.
        steers: whether the policy learns to be asked for attributes.

    Returns:
        What goes into `run.json`: steps, seconds in all and of a step, pairs per second, losses.

    Raises:
        UserError: the folder holds another run's checkpoints, the processes start differently, or
            the loss is not a number.
    """
    arguments = _arguments(policy, training, train, held_out, out)
    folder = Path(str(arguments.output_dir))
    checkpoint = processes.from_first(lambda: checkpoint_to_resume(folder, training.resume))
    arguments.eval_on_start = checkpoint is None and _evaluates(held_out, training)
    if checkpoint is not None:
        done, steps = steps_of(checkpoint), training.steps(len(train))
        require_steps_left(done, steps, training.extend)
        if not training.extend and processes.is_first():
            tell_resumption(done, steps)
    epochs = Epochs(len(train), training.rows_a_step())
    # Trackers print as they open, which is before the line with the steps is drawn.
    callbacks = [epochs, *_reports(policy, training, arguments, out), RunLog(out / "log.jsonl")]
    timer = StepTimer()
    callbacks += [timer, Steps(), LastStep(), Manifests(), *more]
    callbacks += [*task.callbacks, *([task.follow] if task.follow is not None else [])]
    callbacks += _on_the_way(policy, training, train, held_out, out)
    require_same_start(task.scorer)
    trainer = GroupTrainer(
        policy, task, arguments, train, held_out, callbacks, training.projector_learning_rate
    )
    trainer.group_by_length = training.group_by_length
    trainer.check = open_check(policy, training, steers)
    if trainer.check is not None:
        write_descriptions(trainer.check, out)
    if training.extend and checkpoint is not None:
        trainer.add_callback(Extending())
    trainer.add_callback(TryFirst(trainer, train, held_out))
    torch.manual_seed(training.seed)
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - began
    policy.model.eval()
    figures = _figures(trainer, training, len(train), checkpoint, seconds)
    return {**figures, "step_seconds": timer.median}


def _evaluates(held_out: Items | None, training: Training) -> bool:
    return held_out is not None or training.check_images is not None


def _arguments(
    policy: Policy, training: Training, train: Items, held_out: Items | None, out: Path
) -> TrainingArguments:
    on_cpu = policy.device.type == "cpu"
    arguments = trainer_arguments(training, out, len(train), held_out is not None, on_cpu)
    if policy.device.type == "cuda":
        # One process trains on one device; Transformers would split batches over all it sees.
        arguments._n_gpu = 1
        if policy.device != arguments.device:
            raise UserError(
                f"--device {policy.device} can't be trained on: Transformers takes "
                f"{arguments.device}. Set CUDA_VISIBLE_DEVICES={policy.device.index} and --device "
                "cuda instead."
            )
    return arguments


def _reports(
    policy: Policy, training: Training, arguments: TrainingArguments, out: Path
) -> list[TrainerCallback]:
    if not training.report_to:
        return []
    return [Report(Trackers(training.report_to, out, arguments), policy.core)]


def _on_the_way(
    policy: Policy,
    training: Training,
    train: Items,
    held_out: Items | None,
    out: Path,
) -> list[TrainerCallback]:
    """What is asked for by options: answers shown, early stopping."""
    callbacks: list[TrainerCallback] = []
    if training.show_every is not None:
        shown = _shown(policy, train, held_out)
        callbacks.append(ShowAnswers(policy, shown, training.show_every, out))
    if training.patience is not None:
        callbacks.append(StopEarly(training.select_by, training.patience))
    return [*callbacks, SaveWhenTerminated()]


def _shown(policy: Policy, train: Items, held_out: Items | None) -> list[Group]:
    """Prompts whose answers are shown: held-out ones, where there are any."""
    groups = distinct((held_out or train).groups)
    if train.left_out is None:
        return groups
    most = min(PROMPTS, len(groups))
    spare = [train.stand_in] if train.stand_in is not None else []
    return train.left_out.usable(policy, distinct([*groups, *spare]), most)


def _figures(
    trainer: GroupTrainer, training: Training, rows: int, checkpoint: Path | None, seconds: float
) -> dict[str, object]:
    """What `run.json` says of a training that is over; tells where nothing got better."""
    state, selected = trainer.state, training.select_by
    best_step, history = _step_of(state.best_model_checkpoint), state.log_history
    start, best = (_at_step(history, step, selected) for step in (0, best_step))
    if trainer.args.load_best_model_at_end and not trainer.best_is_torn:
        tell_best(start, best, best_step, selected)
    begun = steps_of(checkpoint) if checkpoint else 0
    seen = training.rows_seen(state.global_step, rows) - training.rows_seen(begun, rows)
    return {
        "steps": state.global_step,
        "train_seconds": round(seconds, 1),
        "rows_per_second": round(seen / seconds, 3),
        "best_step": best_step,
        "selected_by": selected,
        "best_value": best,
        "value_at_start": start,
        "best_held_out_loss": _at_step(history, best_step, "loss"),
        "held_out_loss_at_start": _at_step(history, 0, "loss"),
        "resumed_from": checkpoint.name if checkpoint else None,
        "processes": processes.world_size(),
    }


class Extending(TrainerCallback):
    """Says where a run goes on whose number of steps is another one now."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Once everything is loaded."""
        if processes.is_first():
            rate = more["lr_scheduler"].get_last_lr()[0]
            tell_extension(state.global_step, state.max_steps, rate)


def checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
    """The newest whole checkpoint, if the run goes on from one.

    Raises:
        UserError: there are some, and going on was not asked for.
    """
    there = list(folder.glob("checkpoint-*")) if folder.is_dir() else []
    if not resume:
        if there:
            raise UserError(
                f"{folder.parent} already holds a run's checkpoints. Set --resume true to go on "
                "with it, or choose another --out."
            )
        return None
    checkpoint, problems = newest_verified(folder)
    for problem in problems:
        print(f"  {problem}")
    if checkpoint is None:
        print("No whole checkpoint to resume from; starting from step 0.")
    return checkpoint


def tell_best(
    at_start: float | None, best: float | None, step: int | None, selected: str = "loss"
) -> None:
    """Say which step's weights are the result, and where no checkpoint is better than the start.

    The first process does.

    Args:
        at_start: the figure at step 0; None where it was not taken, or had nothing to count.
        best: the best of a checkpoint; None where none had a value.
        step: of that checkpoint.
        selected: which figure.
    """
    if not processes.is_first():
        return
    name, asked = in_words(selected), asked_of(selected)
    if step is None or best is None:
        if selected in (*CHECKED, *OF_RESPONSES):
            print(
                f"No checkpoint has a {name}: the answers to the {asked} had nothing to "
                "count. The result is the last step's weights."
            )
        return
    if at_start is None or improves(best, at_start, selected):
        before = "" if at_start is None else f"; {at_start:.4f} at step 0"
        print(f"The result is that of step {step}, the best by {name} ({best:.4f}{before}).")
        return
    direction = "higher" if HIGHER_IS_BETTER[selected] else "lower"
    print(
        f"No checkpoint has a {direction} {name} than the start ({at_start:.4f} at step 0). The "
        f"result is that of step {step} ({best:.4f}), which did not learn what the {asked} "
        "ask for. Try another --learning-rate, more steps, or look at the data."
    )


def _at_step(history: Sequence[LogRow], step: int | None, name: str) -> float | None:
    """An evaluation's figure, which may have been logged more than once; None if it is none."""
    key = f"eval_{name}"
    found = [row[key] for row in history if row["step"] == step and row.get(key) is not None]
    return found[0] if found and math.isfinite(found[0]) else None


def _step_of(checkpoint: str | None) -> int | None:
    return steps_of(Path(checkpoint)) if checkpoint else None
