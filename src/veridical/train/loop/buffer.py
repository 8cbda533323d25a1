"""Fresh responses in front of the trainer: made for a few steps at a time, and kept in files.

What a step trains on is decided by the step alone. A run that is resumed reads what was made
before its checkpoint, and makes the rest with the weights that it had then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_jsonl


class Row(TypedDict):
    """What was made for a prompt at a step; what it holds of a pair depends on its `kind`."""

    step: int
    index: int
    id: str
    kind: str
    text: NotRequired[str]
    source: NotRequired[str]
    chosen: NotRequired[int | None]
    margin: NotRequired[float | None]
    reasons: NotRequired[list[str]]
    problem: NotRequired[str]
    responses: NotRequired[list[dict[str, Any]]]


Task = tuple[int, int]
"""An optimizer step, and the index of a prompt that it trains on."""
Make = Callable[[Sequence[Task], int], list[Row]]
"""Rows for tasks, by the policy as it is at a step; each with its `step` and `index`."""


class RolloutBuffer:
    """The rows of some steps, by step and prompt; every process has them all."""

    def __init__(
        self,
        folder: Path,
        make: Make,
        rows_of_step: Callable[[int], Sequence[int]],
        steps: int,
        last: int,
        check: Callable[[int, Sequence[Row]], None] | None = None,
    ) -> None:
        """Say how it is filled.

        Args:
            folder: gets a file for each filling, named by its first step.
            make: makes rows.
            rows_of_step: the prompts that a step trains on.
            steps: how many optimizer steps one filling is for.
            last: how many steps there are.
            check: raises if what was made from a step on is not fit to learn from.
        """
        self.folder, self.make, self.rows_of_step = folder, make, rows_of_step
        self.steps, self.last = steps, last
        self.check = check
        self.rows: dict[Task, Row] = {}
        self.unread: list[Row] = []

    def row(self, step: int, index: int) -> Row:
        """What was made for a prompt at a step; all processes have to ask for a step together."""
        if (step, index) not in self.rows:
            self.fill(step)
        return self.rows[step, index]

    def fill(self, step: int) -> None:
        """Read the filling that a step belongs to, or make it.

        Raises:
            UserError: it was made with weights that are gone, and its file is too.
        """
        first = step - step % self.steps
        path = self.folder / f"step-{first:06d}.jsonl"
        found = processes.from_first(lambda: read_jsonl(path) if path.is_file() else None)
        if found is None:
            if step != first:
                raise UserError(
                    f"{path} is gone, so steps {step} to {first + self.steps - 1} can't go on with "
                    "what they began with. Start again in another --out."
                )
            found = self._made(first, first + self.steps)
            if self.check is not None:
                self.check(first, found)
            self.unread += found
            if processes.is_first():
                write_jsonl(path, found)
            processes.wait_for_all()
        elif step < self.last and not any(row["step"] == step for row in found):
            # The run ended within this filling, and was extended.
            more = self._made(step, first + self.steps)
            if self.check is not None:
                self.check(step, more)
            self.unread += more
            found = [*found, *more]
            if processes.is_first():
                write_jsonl(path, found)
            processes.wait_for_all()
        self.rows = {(row["step"], row["index"]): row for row in found}

    def forget_from(self, step: int) -> None:
        """Delete fillings that begin at a step or later: a run that goes on there makes them again.

        The first filling is kept unless the run begins with it: it is what its proofs looked at.
        """
        if processes.is_first():
            for path in self.folder.glob("step-*.jsonl"):
                first = int(path.stem.split("-")[1])
                if first >= step and (first > 0 or step == 0):
                    path.unlink()
        processes.wait_for_all()

    def take_unread(self) -> list[Row]:
        """The rows that were made since this was last asked."""
        unread, self.unread = self.unread, []
        return unread

    def _made(self, first: int, end: int) -> list[Row]:
        steps = range(first, min(end, self.last))
        tasks = [(step, index) for step in steps for index in self.rows_of_step(step)]
        mine = self.make(tasks[processes.rank() :: processes.world_size()], first)
        made = {(row["step"], row["index"]): row for own in processes.gather(mine) for row in own}
        return [made[task] for task in tasks]
