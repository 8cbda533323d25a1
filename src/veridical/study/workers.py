"""Independent jobs in a few processes of one thread each: faster than threads for small models."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.interruptions import Terminated, terminable


@dataclass(frozen=True)
class Job:
    """One call.

    Attributes:
        name: of the job, and of its log.
        function: a function of a module's top level.
        arguments: what it is called with.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[object, ...]


def run_jobs(jobs: Sequence[Job], logs: Path, workers: int) -> Iterator[str]:
    """Run jobs, `workers` at a time, and yield the name of each that is done.

    What a job prints goes to `logs/NAME.log`. The first job that fails raises here, after those
    that run already.
    """
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool:
        futures = {pool.submit(_run, job, logs / f"{job.name}.log"): job for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future].name
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Terminated):
                # The signal reached this process alone; the others would go on to their end.
                for child in multiprocessing.active_children():
                    child.terminate()
            raise


def _run(job: Job, log: Path) -> None:
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        terminable(),
    ):
        job.function(*job.arguments)


def _one_thread() -> None:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import torch

    torch.set_num_threads(1)
