"""The log of reinforcement learning: a row for each step and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_jsonl
from veridical.runtime.progress import step_bar
from veridical.runtime.run_files import LogRow
from veridical.train.loop.reporting import Trackers
from veridical.train.loop.showing import print_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Log:
    """`log.jsonl` and the line on the screen; written by the first process."""

    def __init__(
        self,
        out: Path,
        done: int,
        steps: int,
        trackers: Trackers | None = None,
        model: PreTrainedModel | None = None,
        show_every: int | None = None,
    ) -> None:
        """Keep what a checkpoint has seen of an interrupted run's log.

        Args:
            out: the run's folder.
            done: steps so far.
            steps: of the whole run.
            trackers: get the rows too.
            model: Transformers' model, for them.
            show_every: steps between two times that samples are printed.
        """
        self.trackers, self.model, self.show_every = trackers, model, show_every
        if trackers is not None:
            trackers.begin(model, done)
        self.path = out / "log.jsonl"
        known = read_jsonl(self.path) if done and self.path.is_file() else []
        self.rows = [row for row in known if row["step"] <= done]
        self.bar = step_bar(steps, done)

    @property
    def train_rows(self) -> list[LogRow]:
        """A row for each step; the others are of evaluations."""
        return [row for row in self.rows if row["split"] == "train"]

    def write(self, row: Mapping[str, Any]) -> None:
        """One step more.

        Raises:
            UserError: a figure is no longer a number.
        """
        self.add(row)
        if self.show_every and row["step"] % self.show_every == 0 and processes.is_first():
            print_answers(row["step"], [(one["id"], one["text"]) for one in row["samples"]])
        reward = row["reward"]
        self.bar.set_postfix(reward="-" if reward is None else f"{reward:.3f}", refresh=False)
        self.bar.update(1)

    def add(self, row: Mapping[str, Any]) -> None:
        """A row more, of a step or an evaluation.

        Raises:
            UserError: a figure is no longer a number.
        """
        for name, value in row.items():
            if isinstance(value, float) and not abs(value) < float("inf"):
                raise UserError(
                    f"{name} is {value} at step {row['step']}. Lower --learning-rate, or set "
                    "--dtype float32 if the model runs in float16."
                )
        self.rows.append(dict(row))
        if processes.is_first():
            write_jsonl(self.path, self.rows)
        if self.trackers is not None:
            self.trackers.log(row, self.model)

    def close(self) -> None:
        """End the line on the screen."""
        self.bar.close()
        if self.trackers is not None:
            self.trackers.end(self.model)
