"""Start Transformers' Trainer for one of our tasks, and save what comes out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainingArguments

from veridical import processes
from veridical.errors import UserError
from veridical.files import writing
from veridical.models import Policy, in_four_bits
from veridical.train.callbacks import Manifests, RunLog, Steps
from veridical.train.checkpoints import LastStep, newest_verified
from veridical.train.loop import GroupTrainer, Items, Task, dry_run
from veridical.train.trained import require_same_start, whole_policy
from veridical.train.trainer_options import resolve_trainer_options

OWNED = {
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
"""Options of Transformers' that ours stand for."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long, how fast and in which batches; the fields are the commands' options."""

    learning_rate: float
    epochs: float
    max_steps: int
    batch_size: int
    accumulation: int
    evaluations: int
    seed: int
    projector_learning_rate: float | None
    resume: bool
    trainer: dict[str, Any] | None

    def steps(self, rows: int) -> int:
        """Optimiser steps that `rows` training rows give."""
        if self.max_steps > 0:
            return self.max_steps
        return max(1, math.ceil(rows / self.rows_a_step() * self.epochs))

    def rows_a_step(self) -> int:
        """Rows that an optimiser step sees, over all processes."""
        return self.batch_size * self.accumulation * processes.world_size()

    def arguments(
        self, out: Path, rows: int, held_out: bool, use_cpu: bool = False
    ) -> TrainingArguments:
        """Transformers' arguments, with the passage `trainer:` worked in.

        Raises:
            UserError: an option makes no sense, or the passage sets what is ours.
        """
        self._check()
        every = max(1, self.steps(rows) // max(1, self.evaluations))
        defaults: dict[str, Any] = {
            "lr_scheduler_type": "cosine",
            "warmup_steps": max(1, round(0.03 * self.steps(rows))),
            "logging_steps": max(1, self.steps(rows) // 40),
            "save_total_limit": 2,
            "weight_decay": 0.0,
            "disable_tqdm": True,
        }
        defaults |= resolve_trainer_options(self.trainer, OWNED)
        return TrainingArguments(
            output_dir=str(out / "checkpoints"),
            learning_rate=self.learning_rate,
            num_train_epochs=self.epochs,
            max_steps=self.max_steps,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
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
            seed=self.seed,
            **defaults,
        )

    def _check(self) -> None:
        for name in ("batch_size", "accumulation", "evaluations"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more."
                )
        if self.learning_rate <= 0:
            raise UserError(f"--learning-rate is {self.learning_rate:g}; it must be above 0.")
        if self.max_steps <= 0 and self.epochs <= 0:
            raise UserError(
                "Neither --epochs nor --max-steps is above 0: nothing would be trained."
            )


def join_processes(device: str) -> None:
    """Meet the other processes of a launcher, before anything is read or written.

    Raises:
        UserError: the launcher asks for what would start processes from different weights.
    """
    efficient = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower()
    if efficient in ("true", "1") and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UserError(
            "With fsdp_cpu_ram_efficient_loading only one process would have the weights that the "
            "proofs need. Set it to false in the launcher's configuration."
        )
    processes.join(on_cpu=device == "cpu" or not torch.cuda.is_available())


def run_trainer(
    policy: Policy,
    task: Task,
    settings: TrainerSettings,
    train: Items,
    held_out: Items | None,
    out: Path,
) -> dict[str, Any]:
    """Try two batches, train, and leave the best weights in the policy.

    Returns:
        What goes into `run.json`: steps, seconds, pairs per second, losses.

    Raises:
        UserError: the folder holds another run's checkpoints, the processes start differently, or
            the loss is not a number.
    """
    on_cpu = policy.device.type == "cpu"
    arguments = settings.arguments(out, len(train), held_out is not None, on_cpu)
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
    checkpoint = processes.from_first(lambda: _checkpoint_to_resume(folder, settings.resume))
    arguments.eval_on_start = held_out is not None and checkpoint is None
    callbacks = [RunLog(out / "log.jsonl"), Steps(), LastStep(), Manifests()]
    require_same_start(task.scorer)
    trainer = GroupTrainer(
        policy, task, arguments, train, held_out, list(callbacks), settings.projector_learning_rate
    )
    trainer.add_callback(TryFirst(lambda: dry_run(trainer, train, held_out), settings.seed))
    torch.manual_seed(settings.seed)
    began = time.monotonic()
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - began
    policy.model.eval()
    rows = result.global_step * settings.rows_a_step()
    return {
        "steps": result.global_step,
        "train_seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 3) if checkpoint is None else None,
        "best_step": _step_of(trainer.state.best_model_checkpoint),
        "best_held_out_loss": trainer.state.best_metric,
        "resumed_from": checkpoint.name if checkpoint else None,
        "processes": processes.world_size(),
    }


class TryFirst(TrainerCallback):
    """Tries a few batches when everything is wrapped and loaded, before the first step."""

    def __init__(self, attempt: Callable[[], None], seed: int) -> None:
        self.attempt, self.seed = attempt, seed

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Try; the noise that it used is not missing afterwards."""
        self.attempt()
        torch.manual_seed(self.seed)


def save_result(
    policy: Policy,
    out: Path,
    save_merged: bool,
    started_from_adapter: bool,
    rebuild: Callable[[], Policy],
) -> list[str]:
    """Write the trained weights; the first name returned is what to load.

    LoRA writes `adapter/` and, if asked for, the merged `model/`; full tuning writes `model/`.
    An adapter trained on top of a merged one does not fit the base by itself, so then only the
    merged model is written. Of a base in four bits only the adapter is: merged into it, most of
    what was learned would be rounded away, and `load_policy` merges it into the full base.
    The first process writes; all of them have to take part.
    """
    policy = whole_policy(policy, rebuild)
    if not processes.is_first():
        return []
    with writing(out, "Make room, and go on with --resume true: the checkpoints are whole."):
        return _save_result(policy, out, save_merged, started_from_adapter)


def _save_result(
    policy: Policy, out: Path, save_merged: bool, started_from_adapter: bool
) -> list[str]:
    written = []
    model = policy.model
    if isinstance(model, PeftModel):
        if not started_from_adapter:
            model.save_pretrained(str(out / "adapter"))
            policy.processor.save_pretrained(str(out / "adapter"))
            written.append("adapter")
        if in_four_bits(policy) or (not save_merged and not started_from_adapter):
            return written
        model = model.merge_and_unload()
    model.save_pretrained(str(out / "model"))
    policy.processor.save_pretrained(str(out / "model"))
    return ["model", *written]


def _checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
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


def _step_of(checkpoint: str | None) -> int | None:
    return int(Path(checkpoint).name.split("-")[1]) if checkpoint else None
