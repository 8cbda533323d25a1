"""What is written and shown while the Trainer works; by the first process alone."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.runtime import interruptions, processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_jsonl
from veridical.runtime.progress import step_bar
from veridical.runtime.run_files import LogRow
from veridical.train.loop.checkpoints import write_manifest
from veridical.train.loop.counting import rows_seen


class StepTimer(TrainerCallback):
    """How long optimizer steps take, without evaluations and checkpoints."""

    def __init__(self) -> None:
        """Nothing is timed yet."""
        self._seconds: list[float] = []
        self._began = 0.0

    @property
    def median(self) -> float | None:
        """Seconds of a usual step; None where there was none."""
        return round(median(self._seconds), 4) if self._seconds else None

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stop it."""
        self._seconds.append(time.monotonic() - self._began)


class RunLog(TrainerCallback):
    """Writes `log.jsonl`, a row for each line that the Trainer logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[LogRow] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """After an interruption, keep only what the resumed checkpoint has seen."""
        if processes.is_first() and state.global_step and self.path.is_file():
            self.rows = [r for r in read_jsonl(self.path) if r["step"] <= state.global_step]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float | None] | None = None,
        **_: Any,
    ) -> None:
        """Append the line, with plain names."""
        row = log_row(logs or {}, state.global_step, state.epoch)
        if row is not None and processes.is_first():
            self.rows.append(row)
            write_jsonl(self.path, self.rows)


def log_row(logs: Mapping[str, float | None], step: int, epoch: float | None) -> LogRow | None:
    """One row of `log.jsonl`; None for lines that hold no loss. A loss over no row is null.

    Raises:
        UserError: the loss is no longer a number, so going on would only cost time.
    """
    if "mean_loss" not in logs:
        return None
    split = "eval" if any(name.startswith("eval_") for name in logs) else "train"
    if logs["mean_loss"] is not None and not math.isfinite(logs["mean_loss"]):
        raise UserError(
            f"The {split} loss at step {step} is {logs['mean_loss']}. Lower --learning-rate, or "
            "set --dtype float32 if the model runs in float16."
        )
    skipped = ("loss", "mean_loss", "epoch", "grad_norm", "learning_rate", "total_flos")
    row: LogRow = {"step": step, "epoch": epoch, "split": split, "loss": logs["mean_loss"]}
    for name, value in logs.items():
        if name not in skipped and not name.startswith(("eval_", "train_")):
            row[name] = value
    if split == "train":
        row["learning_rate"] = logs.get("learning_rate")
        row["gradient_norm"] = logs.get("grad_norm")
    result: LogRow = json.loads(json.dumps(row, default=float))
    return result


class Epochs(TrainerCallback):
    """Counts epochs by rows: Transformers counts batches, the last of which may be smaller."""

    def __init__(self, rows: int, rows_a_step: int) -> None:
        """Take the rows of the data, and those of a full optimizer step."""
        self.rows, self.rows_a_step = rows, rows_a_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Correct what the log and trackers are told next."""
        state.epoch = rows_seen(state.global_step, self.rows, self.rows_a_step) / self.rows


class Steps(TrainerCallback):
    """One line with the steps done, the time left and the loss."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the line."""
        self.bar = step_bar(state.max_steps, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One step more."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float | None] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest loss."""
        if self.bar is not None and logs and logs.get("mean_loss") is not None:
            self.bar.set_postfix(loss=f"{logs['mean_loss']:.4f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the line."""
        self.bar.close()


class Manifests(TrainerCallback):
    """Seals each checkpoint with a manifest once it is whole."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Hash every file of the newest checkpoint, once every process has written its own."""
        processes.wait_for_all()
        if processes.is_first():
            write_manifest(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class SaveWhenTerminated(TrainerCallback):
    """On SIGTERM ends the step, saves a checkpoint, and stops; comes after `Manifests`.

    Several processes would notice the signal at different steps, and wait for each other; there it
    stops at once.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """From here on there is something to save."""
        if processes.world_size() == 1:
            interruptions.defer()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ask for a checkpoint."""
        control.should_save = control.should_save or interruptions.asked()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Stop, as the checkpoint is whole."""
        if interruptions.asked():
            interruptions.stop()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The result is written next; nothing of it is worth waiting for."""
        interruptions.no_longer_defer()
