"""Where a plan's steps run: one interface, and the executor of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from veridical.runtime.run_record import is_alive, process_entry

POLL = 0.05
"""Seconds between two looks at whether a process has ended."""
LAST = 400
"""Bytes at a log's end that its last line is looked for in."""


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
    """

    step: str
    shard: int
    call: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    log: Path
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: which.
        status: its exit status; a negative one is the signal that ended it. None where it is not
            known: the process is gone that waited for it.
        seconds: that it took.
    """

    job: Job
    status: int | None
    seconds: float

    @property
    def lost(self) -> bool:
        """Whether it was killed rather than failed: the same again may succeed."""
        return self.status is None or self.status < 0


class Executor(Protocol):
    """Runs jobs somewhere.

    Every executor runs the same processes with the same words, so results do not depend on it.
    """

    def room(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs can be started now, beside what runs."""

    def start(self, jobs: Sequence[Job]) -> list[Any]:
        """Start jobs; those that are given together may become one array.

        Returns:
            For each what `adopt` finds it by, in JSON's types.
        """

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
        free = self.slots - len(self._running)
        gpus = len(self._free_gpus()) >= sum(min(job.gpus, len(self.gpus)) for job in jobs)
        one_alone = not self._running and len({job.step for job in jobs}) == 1
        return (len(jobs) <= free and gpus) or one_alone

    def start(self, jobs: Sequence[Job]) -> list[Any]:
        """See `Executor`."""
        tokens = []
        for job in jobs:
            own = self._free_gpus()[: job.gpus]
            shown = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}
            process = Process(job, shown)
            self._taken[job.step, job.shard] = own
            self._running[job.step, job.shard] = process
            tokens.append({**process.entry, "gpus": list(own)})
        return tokens

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """See `Executor`."""
        found = []
        for job, token in zip(jobs, tokens, strict=True):
            if isinstance(token, Mapping) and is_alive(token):  # another executor's are texts
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
    """A job that runs; its output goes to its log."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.job = job
        self.began = time.monotonic()
        self.seconds = 0.0
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = job.log.open("ab")
        # A session of its own: Ctrl-C reaches this process alone, which then ends the step.
        self._process = subprocess.Popen(
            job.call,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env={**os.environ, **job.environment, **environment},
            start_new_session=True,
        )

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


def perform(job: Job) -> int:
    """Run a job to its end, on whichever machine this is, and return its exit status.

    Cluster executors call it there. Where its own process is asked to end, the job is.
    """
    process = Process(job, {})
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


def last_words(log: Path, start: int, status: int | None) -> str:
    """The reason that a process gave: its message to the user, else the last line it wrote."""
    if status is not None and status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    text = ""
    if log.is_file():
        with log.open("rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    told = [line for line in lines if line.startswith("veridical: ")] or [
        line for line in lines if line
    ]
    return told[-1].removeprefix("veridical: ").rstrip(".") if told else f"status {status}"
