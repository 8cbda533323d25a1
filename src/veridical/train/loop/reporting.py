"""Experiment trackers: what `log.jsonl` gets goes to them too, by Transformers' own callbacks.

Both loops hand over the rows of the log, so that a figure has one name everywhere. Keys come from
the environment alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_reporting_integration_callbacks

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.train.loop.callbacks import log_row

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Trackers, with the packages of which one has to be there."""
OFFLINE = ("offline", "disabled", "dryrun")
NOT_FIGURES = ("step", "split")


def check_trackers(names: Sequence[str] | None) -> None:
    """Refuse what can't be reported to, before anything is loaded.

    Raises:
        UserError: an unknown tracker, a missing package or key, or a variable that would have the
            model uploaded.
    """
    for name in names or ():
        if name not in PACKAGES:
            raise UserError(f"--report-to {name} is unknown; there is: {', '.join(PACKAGES)}.")
        if not any(map(_is_installed, PACKAGES[name])):
            package = PACKAGES[name][0]
            raise UserError(
                f"--report-to {name} needs the package {package}, which is not installed: "
                f"pip install {package}."
            )
    if "wandb" not in (names or ()):
        return
    if not os.environ.get("WANDB_API_KEY") and os.environ.get("WANDB_MODE") not in OFFLINE:
        raise UserError(
            "--report-to wandb: the variable WANDB_API_KEY holds no key. Set it, or set "
            "WANDB_MODE=offline to write files alone."
        )
    if os.environ.get("WANDB_LOG_MODEL", "false").lower() not in ("", "false", "0"):
        raise UserError(
            "WANDB_LOG_MODEL asks for models to be uploaded, which this program does not do by "
            "wandb. Unset it."
        )


@contextmanager
def tracker_variables(names: Sequence[str] | None, out: Path) -> Iterator[None]:
    """Have trackers write into the run's folder, until it ends or fails.

    What the environment says already stays; the rest is taken back, or a second run of the same
    process would write into the folder of the first.

    Args:
        names: of the trackers.
        out: the run's folder.
    """
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(out / "tensorboard"),
        "WANDB_DIR": str(out),
        "WANDB_PROJECT": "veridical",
    }
    added = {name: value for name, value in wanted.items() if names and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class Trackers:
    """Transformers' callbacks, fed with rows of the log; the first process reports."""

    def __init__(
        self, names: Sequence[str] | None, out: Path, arguments: TrainingArguments
    ) -> None:
        """Make them; nothing is opened yet.

        Args:
            names: of the trackers.
            out: the run's folder, which gets their files.
            arguments: recorded by the trackers.
        """
        self.arguments, self.control = arguments, TrainerControl()
        self.state = TrainerState(is_world_process_zero=processes.is_first())
        self.callbacks: list[TrainerCallback] = []
        if not names or not processes.is_first():
            return
        arguments.run_name = out.name
        arguments.project = os.environ.get("TRACKIO_PROJECT", "veridical")
        arguments.trackio_space_id = os.environ.get("TRACKIO_SPACE_ID")
        arguments.trackio_static_space_id = False
        if "wandb" in names and os.environ.get("WANDB_MODE") not in OFFLINE:
            print(
                "wandb: options and figures of this run leave this machine; no image or text does."
            )
        self.callbacks = [kind() for kind in get_reporting_integration_callbacks(list(names))]

    def begin(self, model: PreTrainedModel, step: int) -> None:
        """Open them, when the model is there and the step that is gone on from is known."""
        self.state.global_step = step
        for callback in self.callbacks:
            callback.on_train_begin(self.arguments, self.state, self.control, model=model)

    def log(self, row: Mapping[str, Any], model: PreTrainedModel) -> None:
        """Report a row of the log; what is not a number stays in the file."""
        self.state.global_step = row["step"]
        prefix = "eval_" if row["split"] == "eval" else ""
        figures = {
            prefix + name: value
            for name, value in row.items()
            if name not in NOT_FIGURES and isinstance(value, int | float)
        }
        for callback in self.callbacks:
            callback.on_log(self.arguments, self.state, self.control, model=model, logs=figures)

    def end(self, model: PreTrainedModel) -> None:
        """Close them."""
        for callback in self.callbacks:
            callback.on_train_end(self.arguments, self.state, self.control, model=model)


class Report(TrainerCallback):
    """Lets the trackers hear what the Trainer logs."""

    def __init__(self, trackers: Trackers, model: PreTrainedModel) -> None:
        self.trackers, self.model = trackers, model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open them."""
        self.trackers.begin(self.model, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float | None] | None = None,
        **_: Any,
    ) -> None:
        """Report what `log.jsonl` gets."""
        row = log_row(logs or {}, state.global_step, state.epoch)
        if row is not None:
            self.trackers.log(row, self.model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close them."""
        self.trackers.end(self.model)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
