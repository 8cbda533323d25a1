"""Which executor the options ask for; and Ray, whose queue and resources are its own."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from veridical.runtime.errors import UserError
from veridical.runtime.ranges import Range, check_ranges
from veridical.study.executing import (
    Ended,
    Executor,
    Here,
    Job,
    Note,
    optional_library,
    perform,
)
from veridical.study.slurm import Slurm

GPU = re.compile(r"[0-9]{1,9}|(GPU|MIG)-[\w/-]+", re.ASCII)
"""A GPU by its number, or by its own name."""
LOOK = 0.2
"""Seconds that one look at Ray's tasks may take."""


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
    if given is None:  # CUDA shows none of those behind the first that is not a GPU, such as -1
        return tuple(itertools.takewhile(GPU.fullmatch, found))
    if not all(map(GPU.fullmatch, found)) or len(set(found)) < len(found):
        raise UserError(
            f"--gpu-list is {given!r}; give each GPU once, by number or by the name that "
            "nvidia-smi -L shows, such as 0,1."
        )
    return tuple(found)


@dataclass
class Ray:
    """Runs jobs as Ray's tasks.

    Attributes:
        address: of a running cluster; None starts one here.
    """

    address: str | None = None
    _jobs: dict[Any, tuple[Job, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ray = optional_library("ray", "ray")
        if not self._ray.is_initialized():
            try:
                self._ray.init(self.address, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise UserError(f"--address {self.address}: {error}") from error

    def room(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`: the queue is Ray's."""
        return bool(jobs)

    def fits(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`: as far as this process knows."""
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
