"""Start Transformers' Trainer for one of our tasks, and save what comes out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.models.checkpoint_rest import keep_skipped
from veridical.models.load import load_policy, starts_from_adapter
from veridical.models.merging import merge_adapters, round_weights
from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import HALF, working_dtype
from veridical.models.tuning import prepare_training
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import writing
from veridical.runtime.fingerprint import weight_files
from veridical.runtime.options import DtypeName
from veridical.runtime.run_folders import remove_written
from veridical.train.loop.callbacks import Manifests, RunLog, SaveWhenTerminated, Steps
from veridical.train.loop.checking import open_check, write_descriptions
from veridical.train.loop.checkpoints import LastStep, newest_verified
from veridical.train.loop.items import Items
from veridical.train.loop.reporting import Report, Trackers
from veridical.train.loop.resume import require_steps_left, tell_extension
from veridical.train.loop.rounding import ROUNDING, Measure, score_before, tell_rounding
from veridical.train.loop.rows import distinct
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
from veridical.train.loop.trained import require_same_start, whole_policy
from veridical.train.loop.trainer import GroupTrainer, Task
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.loop.trial import TryFirst
from veridical.train.options import SaveDtype, Training

SAVED = ("model", "adapter", ROUNDING)
"""What a training saves at its end, beside its record and card."""


def run_trainer(
    policy: Policy,
    task: Task,
    training: Training,
    train: Items,
    held_out: Items | None,
    out: Path,
    more: Sequence[TrainerCallback] = (),
    steers: bool = False,
) -> dict[str, Any]:
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
        What goes into `run.json`: steps, seconds, pairs per second, losses.

    Raises:
        UserError: the folder holds another run's checkpoints, the processes start differently, or
            the loss is not a number.
    """
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
    folder = Path(str(arguments.output_dir))
    checkpoint = processes.from_first(lambda: checkpoint_to_resume(folder, training.resume))
    evaluates = held_out is not None or training.check_images is not None
    arguments.eval_on_start = evaluates and checkpoint is None
    if checkpoint is not None:
        require_steps_left(steps_of(checkpoint), training.steps(len(train)), training.extend)
    callbacks = [RunLog(out / "log.jsonl"), Steps(), LastStep(), Manifests(), *more]
    if training.report_to:
        callbacks.append(Report(Trackers(training.report_to, out, arguments), policy.core))
    if training.show_every is not None:
        groups = distinct((held_out or train).groups)
        if train.left_out is not None:
            most = min(PROMPTS, len(groups))
            spare = [train.stand_in] if train.stand_in is not None else []
            groups = train.left_out.usable(policy, distinct([*groups, *spare]), most)
        callbacks.append(ShowAnswers(policy, groups, training.show_every, out))
    if training.patience is not None:
        callbacks.append(StopEarly(training.select_by, training.patience))
    callbacks.append(SaveWhenTerminated())
    require_same_start(task.scorer)
    trainer = GroupTrainer(
        policy, task, arguments, train, held_out, list(callbacks), training.projector_learning_rate
    )
    trainer.check = open_check(policy, training, steers)
    if trainer.check is not None:
        write_descriptions(trainer.check, out)
    if training.extend and checkpoint is not None:
        trainer.add_callback(Extending())
    trainer.add_callback(TryFirst(trainer, train, held_out))
    torch.manual_seed(training.seed)
    began = time.monotonic()
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - began
    policy.model.eval()
    best_step = _step_of(trainer.state.best_model_checkpoint)
    history, selected = trainer.state.log_history, training.select_by
    start, best = (_at_step(history, step, selected) for step in (0, best_step))
    if arguments.load_best_model_at_end and not trainer.best_is_torn:
        tell_best(start, best, best_step, selected)
    begun = steps_of(checkpoint) if checkpoint else 0
    rows = training.rows_seen(result.global_step, len(train))
    rows -= training.rows_seen(begun, len(train))
    return {
        "steps": result.global_step,
        "train_seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 3),
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


def save_result(
    policy: Policy, model: str, training: Training, out: Path, measure: Measure | None = None
) -> list[str]:
    """Write the trained weights; the first name returned is what to load.

    LoRA writes `adapter/` and, if asked for, the merged `model/`; full tuning writes `model/`.
    An adapter trained on top of a merged one does not fit the base by itself, so then only the
    merged model is written. Of a base in four bits only the adapter is: merged into it, most of
    what was learned would be rounded away, and `load_policy` merges it into the full base.
    What rounding `model/` to half precision costs is measured and printed.
    The first process writes; all of them have to take part.

    Args:
        policy: as it was trained; adapters are merged in place.
        model: what was loaded to start from.
        training: the run's options.
        out: the run's folder.
        measure: by which the saved model is compared with the trained one.
    """
    dtype = typing.cast(DtypeName, str(working_dtype(policy)).removeprefix("torch."))

    def rebuild() -> Policy:
        start = load_policy(model, dtype, "cpu", training.init_adapter, template=training.template)
        return prepare_training(start, training.trained)

    policy = whole_policy(policy, rebuild)
    if not processes.is_first():
        return []
    from_adapter = starts_from_adapter(model, training.init_adapter)
    with replacing_saved(out) as fresh:
        written = []
        if isinstance(policy.model, PeftModel) and not from_adapter:
            policy.model.save_pretrained(str(fresh / "adapter"))
            policy.processor.save_pretrained(str(fresh / "adapter"))
            written.append("adapter")
        adapter_alone = in_four_bits(policy) or not (training.save_merged or from_adapter)
        if isinstance(policy.model, PeftModel) and adapter_alone:
            return written
        _save_model(policy, training.save_dtype, fresh, measure)
        said = keep_skipped(policy.skipped, weight_files(model), fresh / "model")
        if said:
            print(said)
    return ["model", *written]


@contextlib.contextmanager
def replacing_saved(out: Path) -> Iterator[Path]:
    """Replace what an earlier attempt saved, file by file, once what is saved now is whole.

    Args:
        out: the run's folder.

    Yields:
        An empty folder in it to save to; what is there at the end is moved into the run's folder.

    Raises:
        UserError: the disk is full. What was saved before is still there.
    """
    earlier = [name for name in SAVED if (out / name).exists()]
    advice = "Make room, and go on with --resume true: the checkpoints are whole."
    if earlier:
        advice += f" {' and '.join(earlier)} in it are still those saved before."
    fresh = out / ".saving"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with writing(out, advice):
            fresh.mkdir(parents=True)
            yield fresh
        for name in earlier:
            path = out / name
            remove_written(out, name) if path.is_dir() else path.unlink()
        # What a user put into `model/` is still there, so files are moved, not folders.
        for path in fresh.rglob("*"):
            if path.is_file():
                place = out / path.relative_to(fresh)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_model(policy: Policy, save_dtype: SaveDtype, out: Path, measure: Measure | None) -> None:
    """Merge and round in the policy itself, write `model/`, and measure what that cost."""
    own = working_dtype(policy)
    dtype: torch.dtype = own if save_dtype == "auto" else getattr(torch, save_dtype)
    rounds = dtype in HALF and (isinstance(policy.model, PeftModel) or dtype != own)
    before = score_before(policy, measure) if measure is not None and rounds else None
    if dtype.itemsize > own.itemsize:
        policy.model.to("cpu")  # its memory holds more
    if isinstance(policy.model, PeftModel):
        merged = merge_adapters(policy.model, None if dtype == own else dtype)
    else:
        merged = round_weights(policy.model, dtype)
    merged.save_pretrained(str(out / "model"))
    policy.processor.save_pretrained(str(out / "model"))
    if before is not None and measure is not None:
        saved = dataclasses.replace(policy, model=merged)
        tell_rounding(before, saved, str(dtype).removeprefix("torch."), measure, out)


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
    """Say so where no checkpoint is better than the start was by the figure that chooses.

    Args:
        at_start: the figure at step 0; None where it was not taken, or had nothing to count.
        best: the best of a checkpoint; None where none had a value.
        step: of that checkpoint.
        selected: which figure.
    """
    name, asked = in_words(selected), asked_of(selected)
    if step is None or best is None:
        if selected in (*CHECKED, *OF_RESPONSES):
            print(
                f"No checkpoint has a {name}: the answers to the {asked} had nothing to "
                "count. The result is the last step's weights."
            )
        return
    if at_start is None or improves(best, at_start, selected):
        return
    direction = "higher" if HIGHER_IS_BETTER[selected] else "lower"
    print(
        f"No checkpoint has a {direction} {name} than the start ({at_start:.4f} at step 0). The "
        f"result is that of step {step} ({best:.4f}), which did not learn what the {asked} "
        "ask for. Try another --learning-rate, more steps, or look at the data."
    )


def _at_step(history: Sequence[dict[str, Any]], step: int | None, name: str) -> float | None:
    """An evaluation's figure, which may have been logged more than once; None if it is none."""
    key = f"eval_{name}"
    found = [row[key] for row in history if row["step"] == step and row.get(key) is not None]
    return found[0] if found and math.isfinite(found[0]) else None


def steps_of(checkpoint: Path) -> int:
    """The optimizer steps that a checkpoint was made after."""
    return int(checkpoint.name.split("-")[1])


def _step_of(checkpoint: str | None) -> int | None:
    return steps_of(Path(checkpoint)) if checkpoint else None
