"""What is known of a plan's steps: `steps.json`, and a journal of what changed since."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from veridical.runtime.files import write_json
from veridical.runtime.run_files import RunFile

Status = Literal["running", "finished", "failed"]


class StepState(TypedDict):
    """What is known of a step that was started."""

    key: str
    status: Status
    command: str
    seconds: NotRequired[float]
    reason: NotRequired[str]
    code: NotRequired[str]
    made_folder: NotRequired[bool]
    jobs: NotRequired[list[Any]]


LEDGER = RunFile("steps.json", dict[str, StepState])
JOURNAL = "steps.jsonl"


class Ledger:
    """The states of a plan's steps by name, kept on disk.

    A change is a line of the journal: `steps.json` of thousands of steps would take longer to write
    than small steps take to run. `close` puts both together. After a SIGKILL the journal is there.

    Attributes:
        states: by the step's name.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._wrote = out, False
        self.states = read_ledger(out)

    def note(self, name: str, state: StepState) -> None:
        """Keep a step's state; it is on disk before this returns where the step has ended."""
        if not self._wrote:
            self.close()  # what a killed process left: its last line may be half there
        self._wrote = True
        self.states[name] = state
        self._out.mkdir(parents=True, exist_ok=True)
        with (self._out / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "state": state}) + "\n")
            file.flush()
            if state["status"] != "running":
                os.fsync(file.fileno())

    def close(self) -> None:
        """Write `steps.json`, and remove the journal."""
        if (self._out / JOURNAL).is_file():
            write_json(self._out / LEDGER.name, self.states)
            (self._out / JOURNAL).unlink()


def read_ledger(out: Path) -> dict[str, StepState]:
    """The states of a plan's steps, also while they run; empty where none was started.

    Raises:
        UserError: `steps.json` is none.
    """
    states = LEDGER.read(out) if (out / LEDGER.name).is_file() else {}
    if (out / JOURNAL).is_file():
        for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines():
            entry = _entry(line)
            if entry is not None:
                states[entry["name"]] = entry["state"]
    return states


def _entry(line: str) -> Mapping[str, Any] | None:
    """A line of the journal; None for one that was cut off when its writer was killed."""
    try:
        entry: Mapping[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry
