"""Runs steps as Slurm's jobs, by submitit; queues, arrays and resources are theirs.

What runs is asked of Slurm's controller (`squeue`), which knows a job once it is submitted. The
accounting database that submitit asks (`sacct`) learns of jobs late, and some clusters have none.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.runtime.errors import UserError
from veridical.study.executing import Ended, Job, Note, optional_library, perform

LOOK = 0.2
"""Seconds between two looks for results, which are files."""
LISTED = 10.0
"""Seconds between two questions to Slurm's controller, which others ask too (our choice)."""
ANSWERED = 120.0
"""Seconds that the controller may take to answer, as while it is started again (our choice)."""
LATE = 15.0
"""Seconds after a job's end in which its result may still show, as on a network's file system."""
TOLD = 60.0
"""Seconds that a job waits to be noted; a file system may show the note late (our choice)."""
LARGEST_ARRAY = 1000
"""Jobs of an array: Slurm's own default is 1,001 (`MaxArraySize`)."""
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "TIMEOUT")  # fmt: skip
"""Slurm's states of a job of which nothing runs any more; one that is being ended is COMPLETING."""
WHY = {
    "OUT_OF_MEMORY": "it needed more memory than it was given: --slurm.mem_gb",
    "TIMEOUT": "it needed more time than it was given: --slurm.timeout_min",
    "CANCELLED": "somebody canceled it",
    "NODE_FAIL": "its machine failed",
}
"""What Slurm's states mean for a step."""


@dataclass
class Work:
    """A job as submitit submits it: one that is preempted, or out of time, goes on in the queue.

    Attributes:
        noted: the file that says that its driver knows of it. A driver that was killed before has
            a successor that starts the step again, so a job that nobody noted does nothing.
    """

    noted: Path

    def __call__(self, job: Job) -> int | None:
        """Run it, and return its exit status; None if it was never noted."""
        last = time.monotonic() + TOLD
        while not self.noted.exists():
            if time.monotonic() > last:
                return None
            time.sleep(LOOK)
        return perform(job)

    def checkpoint(self, job: Job) -> Any:
        """Submit the same again: a run goes on from its last checkpoint or finished part."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, job)


@dataclass
class _Submitted:
    """A job that was submitted: submitit's handle, and when it was found to have left the queue."""

    job: Job
    handle: Any
    began: float
    state: str = ""
    gone: float | None = None
    finished: bool = False

    @property
    def has_result(self) -> bool:
        """Whether its process has come to its own end."""
        return self.finished or bool(self.handle.paths.result_pickle.exists())


@dataclass
class Slurm:
    """Submits jobs to Slurm by submitit; those that start together are arrays.

    Attributes:
        folder: for submitit's files.
        workers: jobs of an array at once.
        parameters: of submitit.
        gpus: a job's.
        cluster: submitit's executor; "local" and "debug" run here.
    """

    folder: Path
    workers: int
    parameters: dict[str, object]
    gpus: int = 0
    cluster: str = "slurm"
    _jobs: list[_Submitted] = field(default_factory=list)
    _asked: float = float("-inf")

    def __post_init__(self) -> None:
        submitit = optional_library("submitit", "slurm")
        own = {"slurm_array_parallelism": self.workers}
        own |= {"gpus_per_node": self.gpus} if self.gpus else {}
        try:
            self._executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
            self._executor.update_parameters(**{**own, **self.parameters})
        except (NameError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise UserError(f"submitit can't be used here: {error}") from error

    def room(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`: the queue is Slurm's."""
        return bool(jobs)

    def fits(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`: as far as this process knows."""
        return bool(jobs)

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """See `Executor`.

        Raises:
            UserError: Slurm refuses the jobs.
        """
        noted = self.folder.absolute() / f"{uuid.uuid4().hex}.noted"
        handles: list[Any] = []
        for first in range(0, len(jobs), LARGEST_ARRAY):
            handles += self._submitted(noted, jobs[first : first + LARGEST_ARRAY])
        for job, handle in zip(jobs, handles, strict=True):
            self._jobs.append(_Submitted(job, handle, self.clock()))
        note([str(handle.job_id) for handle in handles])
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.touch()

    def _submitted(self, noted: Path, jobs: Sequence[Job]) -> list[Any]:
        utils = importlib.import_module("submitit.core.utils")
        try:
            with self._executor.batch():
                return [self._executor.submit(Work(noted), job) for job in jobs]
        except (utils.FailedJobError, utils.FailedSubmissionError) as error:
            told = [line for line in str(error).splitlines() if "error:" in line]
            said = told[-1].partition("error:")[2].strip() if told else str(error)
            raise UserError(f"Slurm's sbatch refuses the jobs: {said.rstrip('.')}.") from error

    def can_ask(self, token: Any) -> bool:
        """See `Executor`: of Slurm's jobs."""
        return isinstance(token, str)

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """See `Executor`; a job that has ended well is taken over too, with its status.

        Raises:
            UserError: Slurm's controller does not answer.
        """
        kind = type(self._executor._executor).job_class
        asked = [(job, token) for job, token in zip(jobs, tokens, strict=True)
                 if self.can_ask(token)]  # fmt: skip
        known = [_Submitted(job, kind(folder=self.folder, job_id=token), self.clock())
                 for job, token in asked]  # fmt: skip
        states = self._states([one for one in known if not one.has_result])
        found = [
            one
            for one in known
            if (_ended(one, 0.0).status == 0 if one.has_result else _runs(states, one.handle))
        ]
        self._jobs += found
        return [one.job for one in found]

    def _states(self, jobs: Sequence[_Submitted]) -> Mapping[str, str]:
        """Slurm's states of jobs; tried again until the controller answers."""
        last = self.clock() + ANSWERED
        while jobs:
            try:
                return queue_states([one.handle.job_id for one in jobs])
            except UserError:
                if self.clock() > last:
                    raise
                time.sleep(LISTED)
        return {}

    def wait(self) -> list[Ended]:
        """See `Executor`."""
        self._look()
        now = self.clock()
        ended = [
            one
            for one in self._jobs
            if one.has_result or (one.gone is not None and now >= one.gone + LATE)
        ]
        self._jobs = [one for one in self._jobs if one not in ended]
        if not ended and self._jobs:
            time.sleep(LOOK)
        return [_ended(one, now - one.began) for one in ended]

    def _look(self) -> None:
        """See which jobs have left the queue; where the controller is silent, none has."""
        if self.cluster != "slurm":
            for one in self._jobs:
                one.finished = one.handle.done()
            return
        if self.clock() < self._asked + LISTED:
            return
        self._asked = self.clock()
        with contextlib.suppress(UserError):
            states = queue_states([one.handle.job_id for one in self._jobs])
            for one in self._jobs:
                runs = _runs(states, one.handle)
                one.gone = None if runs else one.gone or self.clock()
                one.state = states.get(one.handle.job_id, one.state)

    def stop(self, how: signal.Signals) -> None:
        """See `Executor`."""
        for one in self._jobs:
            one.handle.cancel(check=False)
        while self.cluster == "slurm" and self._states_of_running():
            time.sleep(1)

    def _states_of_running(self) -> list[str]:
        states = self._states(self._jobs)
        return [state for state in states.values() if state not in OVER]

    def clock(self) -> float:
        """See `Executor`."""
        return time.monotonic()


def queue_states(jobs: Collection[str]) -> Mapping[str, str]:
    """What Slurm's controller says of jobs; it forgets those that ended some minutes ago.

    Raises:
        UserError: it does not answer.
    """
    arrays = sorted({name.partition("_")[0] for name in jobs})
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T",
               f"--jobs={','.join(arrays)}"]  # fmt: skip
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"Slurm's squeue does not answer: {error}") from error
    if said.returncode and "Invalid job id" not in said.stderr:
        raise UserError(f"Slurm's squeue does not answer: {said.stderr.strip()}")
    return dict(_listed(said.stdout.splitlines(), set(jobs)))


def _listed(lines: Iterable[str], wanted: Collection[str]) -> Iterable[tuple[str, str]]:
    for name, state in (line.split()[:2] for line in lines if len(line.split()) > 1):
        if name in wanted:
            yield name, state


def _runs(states: Mapping[str, str], handle: Any) -> bool:
    """Whether a job is in the queue, runs or is being ended."""
    return states.get(handle.job_id, OVER[0]) not in OVER


def _ended(one: _Submitted, seconds: float) -> Ended:
    """How a job ended: with its own exit status, or lost, and then what Slurm says of it."""
    name = one.handle.job_id
    if not one.has_result:
        state = one.state if one.state in OVER else str(one.handle.state).partition(" ")[0]
        said = one.handle.stderr() or ""
        told = WHY.get(state) or next((s for s in reversed(said.splitlines()) if s.strip()), "")
        return Ended(one.job, None, seconds, f"Slurm's job {name} ended as {state}: {told}")
    utils = importlib.import_module("submitit.core.utils")
    try:
        status = one.handle.result()
    except (utils.UncompletedJobError, OSError, EOFError) as error:
        told = next((s for s in reversed(str(error).splitlines()) if s.strip()), "")
        told = WHY["TIMEOUT"] if "timed-out" in str(error) else told
        return Ended(one.job, None, seconds, f"Slurm's job {name} ended early: {told}")
    if status is None:
        return Ended(one.job, None, seconds, f"Slurm's job {name} was not noted in {TOLD:g} s")
    return Ended(one.job, int(status), seconds)
