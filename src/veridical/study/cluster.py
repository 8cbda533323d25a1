"""Executors of clusters: Slurm by submitit, and Ray. Queues, arrays and resources are theirs."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from veridical.runtime.errors import UserError
from veridical.runtime.ranges import Range, check_ranges
from veridical.study.executing import Ended, Executor, Here, Job, Note, perform

GPU = re.compile(r"[0-9]{1,9}|(GPU|MIG)-[\w/-]+", re.ASCII)
"""A GPU by its number, or by its own name."""
LOOK = 0.2
"""Seconds between two looks at a cluster's jobs."""
TOLD = 60.0
"""Seconds that a job waits to be noted; a file system may show the note late (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where steps run.

    Attributes:
        executor: `here`, `slurm` (needs veridical[slurm]) or `ray` (needs veridical[ray]). Files
            have to be on a file system that all machines see.
        gpus: GPUs that each step needs which trains, builds or evaluates.
        gpu_list: of this machine, such as 0,1; those that CUDA_VISIBLE_DEVICES names if not set.
        slurm: parameters of submitit, such as --slurm.slurm_partition a100 --slurm.timeout_min 240.
        address: of a running Ray cluster; one is started on this machine if not set.
    """

    executor: Literal["here", "slurm", "ray"] = "here"
    gpus: Annotated[int, Range(0)] = 0
    gpu_list: str | None = None
    slurm: dict[str, object] | None = None
    address: str | None = None


def make_executor(cluster: Cluster, workers: int, out: Path, shards: int = 1) -> Executor:
    """Make the executor that the options ask for.

    Raises:
        UserError: its library is missing, an option belongs to another executor, or this machine
            has too few GPUs.
    """
    wanted = {"gpu_list": "here", "slurm": "slurm", "address": "ray"}
    for name, executor in wanted.items():
        if getattr(cluster, name) is not None and cluster.executor != executor:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for --executor {executor}. Leave it out.")
    check_ranges(cluster)
    if cluster.executor == "slurm":
        return Slurm(out / "jobs", workers, cluster.slurm or {}, cluster.gpus)
    if cluster.executor == "ray":
        return Ray(cluster.address)
    return Here(workers, _gpus_here(cluster, shards))


def _gpus_here(cluster: Cluster, shards: int) -> tuple[str, ...]:
    if not cluster.gpus:
        if cluster.gpu_list is not None:
            raise UserError("--gpu-list is for steps that need GPUs. Set --gpus, how many of them.")
        return ()
    found = _named_gpus(cluster.gpu_list)
    if len(found) < cluster.gpus:
        raise UserError(
            f"--gpus {cluster.gpus}, and this machine offers {len(found)}. Name them with "
            "--gpu-list, or take a smaller number."
        )
    if len(found) < cluster.gpus * shards:  # they start together; the rest would share a GPU
        raise UserError(
            f"--shards {shards} with --gpus {cluster.gpus} needs {shards * cluster.gpus} GPUs, and "
            f"this machine offers {len(found)}. Set --shards {len(found) // cluster.gpus}."
        )
    return found


def _named_gpus(given: str | None) -> tuple[str, ...]:
    """The GPUs that `--gpu-list` names, else those that CUDA shows this process.

    Raises:
        UserError: the option names none, one twice, or something else.
    """
    if given is None and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        import torch

        return tuple(map(str, range(torch.cuda.device_count())))
    named = os.environ["CUDA_VISIBLE_DEVICES"] if given is None else given
    found = [number.strip() for number in named.split(",")]
    if given is None:  # CUDA shows none of those behind the first that is no GPU, such as -1
        return tuple(itertools.takewhile(GPU.fullmatch, found))
    if not all(map(GPU.fullmatch, found)) or len(set(found)) < len(found):
        raise UserError(
            f"--gpu-list is {given!r}; give each GPU once, by number or by the name that "
            "nvidia-smi -L shows, such as 0,1."
        )
    return tuple(found)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--executor {extra} needs {name}. Install it: pip install 'veridical[{extra}]'."
        ) from None


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
class Slurm:
    """Submits jobs to Slurm by submitit; those that start together are one array.

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
    _jobs: list[tuple[Job, Any, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        submitit = _library("submitit", "slurm")
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

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """See `Executor`."""
        noted = self.folder.absolute() / f"{uuid.uuid4().hex}.noted"
        with self._executor.batch():
            submitted = [self._executor.submit(Work(noted), job) for job in jobs]
        for job, handle in zip(jobs, submitted, strict=True):
            self._jobs.append((job, handle, self.clock()))
        note([str(handle.job_id) for handle in submitted])
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.touch()

    def can_ask(self, token: Any) -> bool:
        """See `Executor`: of Slurm's jobs."""
        return isinstance(token, str)

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """See `Executor`; a job that has ended well is taken over too, with its status."""
        kind = type(self._executor._executor).job_class
        found = []
        for job, token in zip(jobs, tokens, strict=True):
            if not self.can_ask(token):
                continue
            handle = kind(folder=self.folder, job_id=token)
            if handle.state not in LOST_STATES:
                self._jobs.append((job, handle, self.clock()))
                found.append(job)
        return found

    def wait(self) -> list[Ended]:
        """See `Executor`."""
        ended = [entry for entry in self._jobs if entry[1].done()]
        self._jobs = [entry for entry in self._jobs if entry not in ended]
        if not ended and self._jobs:
            time.sleep(LOOK)
        return [_ended(job, handle, self.clock() - began) for job, handle, began in ended]

    def stop(self, how: signal.Signals) -> None:
        """See `Executor`."""
        for _, handle, _ in self._jobs:
            handle.cancel()

    def clock(self) -> float:
        """See `Executor`."""
        return time.monotonic()


LOST_STATES = ("UNKNOWN", "CANCELLED", "FAILED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY",
               "INTERRUPTED", "FINISHED")  # fmt: skip


WHY = {
    "OUT_OF_MEMORY": "it needed more memory than it was given: --slurm.mem_gb",
    "TIMEOUT": "it needed more time than it was given: --slurm.timeout_min",
    "CANCELLED": "somebody canceled it",
    "NODE_FAIL": "its machine failed",
}
"""What Slurm's states mean for a step."""


def _ended(job: Job, handle: Any, seconds: float) -> Ended:
    """How a job ended: with its own exit status, or lost, and then what Slurm says of it."""
    utils = importlib.import_module("submitit.core.utils")
    try:
        status = handle.result()
    except (utils.UncompletedJobError, utils.FailedJobError, OSError, EOFError) as error:
        state = str(handle.state).partition(" ")[0]  # such as "CANCELLED by 1000"
        told = WHY.get(state) or next((s for s in reversed(str(error).splitlines()) if s), "")
        return Ended(job, None, seconds, f"Slurm's job {handle.job_id} ended as {state}: {told}")
    if status is None:
        return Ended(job, None, seconds, f"Slurm's job {handle.job_id} was not noted in {TOLD:g} s")
    return Ended(job, int(status), seconds)


@dataclass
class Ray:
    """Runs jobs as Ray's tasks.

    Attributes:
        address: of a running cluster; None starts one here.
    """

    address: str | None = None
    _jobs: dict[Any, tuple[Job, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ray = _library("ray", "ray")
        if not self._ray.is_initialized():
            try:
                self._ray.init(self.address, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise UserError(f"--address {self.address}: {error}") from error

    def room(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`: the queue is Ray's."""
        return bool(jobs)

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """See `Executor`."""
        note([None] * len(jobs))  # Ray ends them with this process, noted or not
        for job in jobs:
            # The step's own retries decide whether it is started again, on every executor.
            task = self._ray.remote(perform).options(
                num_cpus=job.cpus, num_gpus=job.gpus, max_retries=0, name=job.step
            )
            self._jobs[task.remote(job)] = (job, self.clock())

    def can_ask(self, token: Any) -> bool:
        """See `Executor`: of none, and its own have ended."""
        return token is None

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """See `Executor`: Ray ends a driver's tasks with it."""
        del jobs, tokens
        return []

    def wait(self) -> list[Ended]:
        """See `Executor`."""
        done, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=LOOK)
        found = []
        for reference in done:
            job, began = self._jobs.pop(reference)
            seconds = self.clock() - began
            try:
                found.append(Ended(job, self._ray.get(reference), seconds))
            except self._ray.exceptions.RayError as error:
                said = next((line for line in str(error).splitlines() if line.strip()), "")
                found.append(Ended(job, None, seconds, f"Ray: {type(error).__name__}: {said}"))
        return found

    def stop(self, how: signal.Signals) -> None:
        """See `Executor`."""
        for reference in self._jobs:
            self._ray.cancel(reference, force=how != signal.SIGINT)

    def clock(self) -> float:
        """See `Executor`."""
        return time.monotonic()
