"""Where a plan's steps run: one interface, and the executor of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from veridical.runtime.errors import UserError
from veridical.runtime.run_record import is_alive, process_entry

POLL = 0.05
"""Seconds between two looks at whether a process has ended."""
GATE = 'read -r _ || exit 75; exec "$@" </dev/null'
"""A shell's program that becomes a job's when it is told to, and ends when who tells it is gone."""
TERMINATED = 128 + signal.SIGTERM
"""The exit status of a command that was asked to end."""
LAST = 400
"""Bytes at a log's end that its last line is looked for in."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""


@dataclass(frozen=True)
class Job:
    """One process that makes a step, or a shard of it.

    Attributes:
        step: the step's name.
        shard: the number of the shard, from 0; 0 where the step is not in shards.
        call: the process's words.
        folder: where it runs.
        environment: variables in addition to this process's.
        log: gets what it writes.
        cpus: cores that it may use.
        gpus: GPUs that it needs.
        training: the folder of a training; one with a checkpoint goes on from it.
    """

    step: str
    shard: int
    call: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    log: Path
    cpus: int = 1
    gpus: int = 0
    training: Path | None = None

    def words(self) -> tuple[str, ...]:
        """Its words, if it starts now: the folder may have changed since it was planned."""
        resumes = self.training is not None and has_checkpoint(self.training)
        return (*self.call, "--resume", "true") if resumes else self.call


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: which.
        status: its exit status; a negative one is the signal that ended it. None where it is not
            known: the process is gone that waited for it.
        seconds: that it took.
        reason: what the executor says of a job that was lost; "" where it says nothing.
    """

    job: Job
    status: int | None
    seconds: float
    reason: str = ""

    @property
    def lost(self) -> bool:
        """Whether it was killed rather than failed: the same again may succeed."""
        return self.status is None or self.signal is not None

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended it; a command that is asked to end says so by its exit status."""
        if self.status is None or 0 <= self.status != TERMINATED:
            return None
        return signal.Signals(-self.status if self.status < 0 else signal.SIGTERM)


def has_checkpoint(training: Path) -> bool:
    """Whether a training can go on in its folder."""
    return any((training / "checkpoints").glob("checkpoint-*/manifest.json"))


Note: TypeAlias = Callable[[list[Any]], None]
"""Writes down what a batch of jobs is found by."""


class Executor(Protocol):
    """Runs jobs somewhere.

    Every executor runs the same processes with the same words, so results do not depend on it.
    """

    def room(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs can be started now, beside what runs."""

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs would all have a place of their own, beside what runs."""

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """Start jobs; those that are given together may become one array.

        No job does anything before `note` has returned: if this process is killed on the way, the
        next one finds either a job that it knows of, or none.

        Args:
            jobs: to start.
            note: is given for each what `adopt` finds it by, in JSON's types, and writes it down.
        """

    def can_ask(self, token: Any) -> bool:
        """Whether this executor can tell if the job of a token still runs."""

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """Take over those of a step's jobs that an earlier process of this command started.

        Returns:
            Those taken over: the others run no longer.
        """

    def wait(self) -> list[Ended]:
        """Wait a moment, and return what has ended."""

    def stop(self, how: signal.Signals) -> None:
        """End what runs, and wait for it: it keeps what it has made."""

    def clock(self) -> float:
        """Seconds on this executor's clock."""


@dataclass
class Here:
    """Runs jobs as processes of this machine.

    Attributes:
        slots: jobs at once.
        gpus: GPUs that jobs are given, by their numbers. A job that needs none sees all.
    """

    slots: int = 1
    gpus: tuple[str, ...] = ()
    _running: dict[tuple[str, int], Process | Adopted] = field(default_factory=dict)
    _taken: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)

    def room(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`. A step of more shards than slots starts when nothing else runs."""
        one_alone = not self._running and len({job.step for job in jobs}) == 1
        return self.fits(jobs) or one_alone

    def fits(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`."""
        gpus = len(self._free_gpus()) >= sum(min(job.gpus, len(self.gpus)) for job in jobs)
        return len(jobs) <= self.slots - len(self._running) and gpus

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """See `Executor`."""
        tokens, started = [], []
        for job in jobs:
            own = self._free_gpus()[: job.gpus]
            shown = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}
            process = Process(job, shown)
            self._taken[job.step, job.shard] = own
            self._running[job.step, job.shard] = process
            started.append(process)
            tokens.append({**process.entry, "gpus": list(own)})
        note(tokens)
        for process in started:
            process.begin()

    def can_ask(self, token: Any) -> bool:
        """See `Executor`: of this machine's processes."""
        return isinstance(token, Mapping) and token.get("host") == socket.gethostname()

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """See `Executor`."""
        found = []
        for job, token in zip(jobs, tokens, strict=True):
            if self.can_ask(token) and is_alive(token):
                self._taken[job.step, job.shard] = tuple(token.get("gpus", ()))
                self._running[job.step, job.shard] = Adopted(job, token)
                found.append(job)
        return found

    def wait(self) -> list[Ended]:
        """See `Executor`."""
        found = []
        for place, process in list(self._running.items()):
            if process.has_ended():
                del self._running[place], self._taken[place]
                found.append(Ended(process.job, process.status, process.seconds))
        if not found and self._running:
            time.sleep(POLL)
        return found

    def stop(self, how: signal.Signals) -> None:
        """See `Executor`."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in the background of a shell: what is started there ignores Ctrl-C too.
            how = signal.SIGTERM
        for process in self._running.values():
            process.signal(how)
        for process in self._running.values():
            process.end()

    def clock(self) -> float:
        """See `Executor`."""
        return time.monotonic()

    def _free_gpus(self) -> tuple[str, ...]:
        taken = {number for numbers in self._taken.values() for number in numbers}
        return tuple(number for number in self.gpus if number not in taken)


class Process:
    """A job that runs once it is told to begin; its output goes to its log.

    Args:
        job: what to run.
        environment: variables beside the job's own.
        bound: whether it is killed if this process is, so that it writes nowhere unseen.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], bound: bool = False) -> None:
        self.job = job
        self.began = time.monotonic()
        self.seconds = 0.0
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = job.log.open("ab")
        # A session of its own: Ctrl-C reaches this process alone, which then ends the step.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", GATE, "sh", *job.words()],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env={**os.environ, **job.environment, **environment},
            start_new_session=True,
            preexec_fn=_die_with_parent() if bound else None,
        )

    def begin(self) -> None:
        """Let it do its work; before that it is a shell that waits."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed; its status says so
            self._process.stdin.write(b"\n")
            self._process.stdin.close()

    @property
    def entry(self) -> Mapping[str, object]:
        """What tells it from every other process."""
        return process_entry(self._process.pid)

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    def has_ended(self) -> bool:
        """Whether it has."""
        if self._process.poll() is None:
            return False
        self._file.close()
        self.seconds = time.monotonic() - self.began
        return True

    def signal(self, how: signal.Signals) -> None:
        """Ask it to end."""
        self._process.send_signal(how)

    def end(self) -> None:
        """Wait until it has ended."""
        self._process.wait()
        self._file.close()


class Adopted:
    """A process that was started before; how it ends is not known, only that it does."""

    status = None
    """Of a process that is not this one's child nobody can say it."""

    def __init__(self, job: Job, entry: Mapping[str, Any]) -> None:
        self.job, self.entry = job, entry
        self.began = time.monotonic()
        self.seconds = 0.0

    def has_ended(self) -> bool:
        """Whether it has."""
        self.seconds = time.monotonic() - self.began
        return not is_alive(self.entry)

    def signal(self, how: signal.Signals) -> None:
        """Ask it to end."""
        if is_alive(self.entry):
            os.kill(self.entry["id"], how)

    def end(self) -> None:
        """Wait until it has ended."""
        while is_alive(self.entry):
            time.sleep(POLL)


def _die_with_parent() -> Callable[[], object] | None:
    """What a new process does so that it is killed with this one; Linux alone has that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def perform(job: Job) -> int:
    """Run a job to its end, on whichever machine this is, and return its exit status.

    Cluster executors call it there. Where its own process is asked to end, the job is.
    """
    process = Process(job, {}, bound=True)
    process.begin()
    if threading.current_thread() is not threading.main_thread():
        process.end()  # only a main thread is told of signals
    else:
        before = signal.signal(signal.SIGTERM, lambda *_: process.signal(signal.SIGTERM))
        try:
            process.end()
        finally:
            signal.signal(signal.SIGTERM, before)
    assert process.status is not None
    return process.status


def optional_library(name: str, extra: str) -> Any:
    """A library that an executor needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--executor {extra} needs {name}. Install it: pip install 'veridical[{extra}]'."
        ) from None


def last_line(log: Path, start: int) -> str:
    """The last line of a log that is not empty; of a progress bar, its last state.

    Empty where there is none yet: the job waits in a queue, and makes its log when it starts.
    """
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - LAST))
        text = file.read().decode("utf-8", "replace")
    return next((line.strip() for line in reversed(re.split(r"[\r\n]", text)) if line), "")


def last_words(log: Path, start: int, ended: Ended) -> str:
    """Why a job failed: what its executor says, else its message to the user or its last line."""
    if ended.reason:
        return ended.reason
    if ended.signal is not None:
        return f"it was ended by {ended.signal.name}"
    text = ""
    if log.is_file():
        with log.open("rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    told = [line for line in lines if line.startswith("veridical: ")] or [
        line for line in lines if line
    ]
    return told[-1].removeprefix("veridical: ").rstrip(".") if told else f"status {ended.status}"
