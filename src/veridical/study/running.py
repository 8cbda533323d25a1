"""A plan's steps run here, each as a process of its own; what is finished is not made again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NotRequired

from typing_extensions import TypedDict

from veridical.cli.dispatch import run_command
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.run_files import RunFile
from veridical.runtime.run_folders import remove_run
from veridical.runtime.run_record import RECORD, read_record
from veridical.study.commands import named_path, runs_on_several
from veridical.study.keys import Keys
from veridical.study.plan import Plan, Step, named

POLL, SHOWN_EVERY = 0.05, 0.5
"""Seconds between two looks at whether a process has ended, and at its log."""
LAST = 400
"""Bytes at a log's end that its last line is looked for in."""


class StepState(TypedDict):
    """What is known of a step that was started."""

    key: str
    status: Literal["running", "finished", "failed"]
    command: str
    seconds: NotRequired[float]


LIGHT = ("data split", "eval compare", "report", "world make")
"""Commands that load no model and take seconds."""
LEDGER = RunFile("steps.json", dict[str, StepState])


@dataclass(frozen=True)
class Executing:
    """How steps are run.

    Attributes:
        out: the plan's folder: `steps.json` and `logs/`.
        workers: steps at once.
        launcher: words before `-m veridical ...` of commands that several processes may share.
    """

    out: Path
    workers: int = 1
    launcher: tuple[str, ...] = ()


@dataclass
class Runner:
    """Runs a plan's steps.

    Attributes:
        plan: the plan.
        keys: of its steps.
        how: how they are run.
        made: keys of the steps that are finished.
        failed: why steps failed, by name.
    """

    plan: Plan
    keys: Keys
    how: Executing
    made: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _running: dict[str, _Process] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _shown: float = 0.0

    def is_done(self, step: Step) -> bool:
        """Whether a step is finished with what it depends on now, as far as that is known."""
        needs = self.plan.needs(step)
        if not all(self.is_done(other) for other in needs):
            return False
        state = self._ledger().get(step.name)
        if state is None or state["key"] != self._key(step) or not self._is_whole(step, state):
            return False
        self.made[step.name] = state["key"]
        return True

    def _key(self, step: Step) -> str:
        """The key of a step whose needs are made; files are read once."""
        if step.name not in self._keys:
            self._keys[step.name] = self.keys.key(step, self.made)
        return self._keys[step.name]

    def run(self, steps: Sequence[Step]) -> None:
        """Run steps, those first that others wait for; what is finished is passed over.

        A step that fails leaves those running that do not need it.

        Raises:
            UserError: steps failed; the message has what they said and where their logs are.
        """
        waiting = list(steps)
        try:
            while waiting or self._running:
                waiting = self._start_ready(waiting)
                self._end_some()
                if self._running:
                    self._show()
                    time.sleep(POLL)
                elif waiting and not self._ready(waiting):
                    break  # what they need has failed
        except BaseException as error:
            self._stop(error)
            raise
        if self.failed:
            left = f" Not started: {named(waiting)}." if waiting else ""
            told = " ".join(
                f"{name} failed: {reason} (log: {self._log(name)})."
                for name, reason in self.failed.items()
            )
            raise UserError(f"{told}{left} What is finished is kept; start again to go on.")

    def _ready(self, waiting: Sequence[Step]) -> list[Step]:
        return [
            step
            for step in waiting
            if all(other.name in self.made for other in self.plan.needs(step))
        ]

    def _start_ready(self, waiting: Sequence[Step]) -> list[Step]:
        left = list(waiting)
        for step in self._ready(waiting):
            if self.is_done(step):
                self._say(f"{step.name}: here already")
                left.remove(step)
            elif step.command in LIGHT or len(self._running) < self.how.workers:
                self._start(step)
                left.remove(step)
        return left

    def _start(self, step: Step) -> None:
        key, state = self._key(step), self._ledger().get(step.name)
        if state is not None and state["key"] != key:
            self._remove_old(step)
        words = step.words()
        if step.command.startswith("train ") and self._has_checkpoint(step):
            words += ["--resume", "true"]
        self._note(step, key, "running")
        self._say(f"{step.name}: {step.shown()}")
        log = self._log(step.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if step.command in LIGHT and self.plan.folder == Path.cwd():
            self._run_here(step, key, words, log)
            return
        self._running[step.name] = _Process(step, key, log, self._call(step, words), self._where())

    def _run_here(self, step: Step, key: str, words: list[str], log: Path) -> None:
        """Run a command that loads no model in this process, which has the libraries already."""
        began, failed = time.monotonic(), ""
        with (
            log.open("a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            try:
                run_command(words)
            except UserError as error:
                failed = str(error).rstrip(".")
                print(f"veridical: {error}", file=file)
        self._ended(step, key, time.monotonic() - began, failed)

    def _end_some(self) -> None:
        for name, process in list(self._running.items()):
            status = process.status()
            if status is not None:
                del self._running[name]
                failed = process.last_words(status) if status else ""
                self._ended(process.step, process.key, process.seconds, failed)

    def _ended(self, step: Step, key: str, seconds: float, failed: str) -> None:
        """Note how a step ended; `failed` is why it failed, "" if it did not."""
        if failed:
            self.failed[step.name] = failed
        else:
            self.made[step.name] = key
        self._note(step, key, "failed" if failed else "finished", round(seconds, 1))
        word = "failed after" if failed else "done in"
        self._say(f"{step.name}: {word} {seconds:.0f} s")

    def _stop(self, error: BaseException) -> None:
        """End what runs, as this process was ended, and wait for it: it keeps what it has made."""
        how = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        for process in self._running.values():
            process.stop(how)

    def _remove_old(self, step: Step) -> None:
        """Remove what the step made with other options, and nothing else.

        Raises:
            UserError: it is not known what it made.
        """
        place = named_path(self.plan, str(step.output))
        if (place / RECORD).is_file():
            remove_run(place)
        elif place.is_dir() and any(place.iterdir()):
            raise UserError(
                f"{step.name} changed, and {place} holds what it made before. Delete that folder "
                "and start again."
            )

    def _is_whole(self, step: Step, state: StepState) -> bool:
        place = named_path(self.plan, str(step.output))
        if (place / RECORD).is_file():
            return read_record(place).status == "finished"
        return state["status"] == "finished" and place.exists()

    def _has_checkpoint(self, step: Step) -> bool:
        place = named_path(self.plan, str(step.output))
        return any((place / "checkpoints").glob("checkpoint-*/manifest.json"))

    def _call(self, step: Step, words: Sequence[str]) -> list[str]:
        several = self.how.launcher and runs_on_several(step)
        start = list(self.how.launcher) if several else [sys.executable]
        return [*start, "-m", "veridical", *words]

    def _where(self) -> _Place:
        threads = {}
        if self.how.workers > 1:
            cores = os.cpu_count() or 1
            threads = {"OMP_NUM_THREADS": str(max(1, cores // self.how.workers))}
        return _Place(self.plan.folder, {"OMP_WAIT_POLICY": "passive", **threads})

    def _ledger(self) -> dict[str, StepState]:
        return LEDGER.read(self.how.out) if (self.how.out / LEDGER.name).is_file() else {}

    def _note(
        self,
        step: Step,
        key: str,
        status: Literal["running", "finished", "failed"],
        seconds: float | None = None,
    ) -> None:
        state: StepState = {"key": key, "status": status, "command": step.shown()}
        if seconds is not None:
            state["seconds"] = seconds
        write_json(self.how.out / LEDGER.name, {**self._ledger(), step.name: state})

    def _log(self, name: str) -> Path:
        return self.how.out / "logs" / f"{name.replace('/', '-')}.log"

    def _show(self) -> None:
        """On a terminal, keep the last line of the log of the step that runs in sight."""
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown > SHOWN_EVERY:
            self._shown = now
            process = next(iter(self._running.values()))
            line = f"{process.step.name}: {process.last_line()}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        if sys.stderr.isatty() and self._shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)
        print(f"[{time.monotonic() - self._began:4.0f} s] {text}", flush=True)


@dataclass(frozen=True)
class _Place:
    folder: Path
    environment: Mapping[str, str]


class _Process:
    """A step that runs; its output goes to its log."""

    def __init__(self, step: Step, key: str, log: Path, call: Sequence[str], place: _Place) -> None:
        self.step, self.key, self.log = step, key, log
        self.began = time.monotonic()
        self.seconds = 0.0
        self.start = log.stat().st_size if log.exists() else 0
        self._file: IO[bytes] = log.open("ab")
        # A session of its own: Ctrl-C reaches this process alone, which then ends the step.
        self._process = subprocess.Popen(
            call,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=place.folder,
            env={**os.environ, **place.environment},
            start_new_session=True,
        )

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        found = self._process.poll()
        if found is not None:
            self._file.close()
            self.seconds = time.monotonic() - self.began
        return found

    def stop(self, how: signal.Signals) -> None:
        """End it and wait until it has."""
        self._process.send_signal(how)
        self._process.wait()
        self._file.close()

    def last_line(self) -> str:
        """The last line of its log that is not empty; of a progress bar, its last state."""
        with self.log.open("rb") as file:
            file.seek(max(self.start, self.log.stat().st_size - LAST))
            text = file.read().decode("utf-8", "replace")
        return next((line.strip() for line in reversed(re.split(r"[\r\n]", text)) if line), "")

    def last_words(self, status: int) -> str:
        """The reason that it gave: its message to the user, else the last line it wrote."""
        with self.log.open("rb") as file:
            file.seek(self.start)
            text = file.read().decode("utf-8", "replace")
        lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
        told = [line for line in lines if line.startswith("veridical: ")] or [
            line for line in lines if line
        ]
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        return told[-1].removeprefix("veridical: ").rstrip(".") if told else f"status {status}"
