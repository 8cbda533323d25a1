"""A step as jobs: the words of its processes, their logs, and what they may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from veridical.study.commands import LIGHT, makes_shards, runs_on_several
from veridical.study.executing import Ended, Executor, Job
from veridical.study.plan import Plan, Step
from veridical.study.step_folders import place_of


@dataclass(frozen=True)
class Executing:
    """How steps are run.

    Attributes:
        out: the plan's folder: `steps.json` and `logs/`.
        workers: steps at once on this machine, where no `executor` is given.
        launcher: words before `-m veridical ...` of commands that several processes may share.
        executor: where steps run; on this machine if not set.
        shards: processes that a build or an evaluation is shared out to, where its command can; as
            many as there are workers with nothing else to do if not set.
        retries: how often a step is started again whose process was killed.
        gpus: that a step needs which trains, builds or evaluates.
        forget: what an earlier command started elsewhere has stopped.
    """

    out: Path
    workers: int = 1
    launcher: tuple[str, ...] = ()
    executor: Executor | None = None
    shards: int | None = 1
    retries: int = 0
    gpus: int = 0
    forget: bool = False

    def log(self, name: str) -> Path:
        """The log of a step, or of a shard of it."""
        return self.out / "logs" / f"{name.replace('/', '-')}.log"


@dataclass
class Started:
    """A step that runs: its jobs, how they ended so far, and whether an earlier command began it.

    Its key is another than the plan's where it was begun before the step changed.
    """

    step: Step
    key: str
    jobs: Sequence[Job]
    log_start: Mapping[Path, int]
    ended: list[Ended] = field(default_factory=list)
    adopted: bool = False

    def worst(self) -> Ended:
        """How the step ended: a failure before a loss before success, as it would fail again."""
        return min(self.ended, key=_badness)


def jobs_of(how: Executing, plan: Plan, step: Step, count: int, alone: bool) -> list[Job]:
    """The processes of a step, of which each makes one of `count` shards.

    Args:
        how: steps are run.
        plan: of the step.
        step: which.
        count: of shards.
        alone: whether no launcher may start it.
    """
    words = step.words()
    training = place_of(plan, step).absolute() if step.command.startswith("train ") else None
    gpus = 0 if step.command in LIGHT else how.gpus
    environment = _environment(how.workers)
    jobs = []
    for n in range(count):
        own = words if count == 1 else [*words, "--shard", f"{n + 1}/{count}"]
        log = how.log(step.name if count == 1 else f"{step.name}.{n + 1}")
        call = tuple(call_of(how, step, own, alone))
        jobs.append(Job(step.name, n, call, plan.folder, environment, log, gpus=gpus,
                        training=training))  # fmt: skip
    return jobs


def call_of(how: Executing, step: Step, words: Sequence[str], alone: bool) -> list[str]:
    """The words of a process that runs a step."""
    start = [sys.executable] if alone or not has_launcher(how, step) else [*how.launcher]
    return [*start, "-m", "veridical", *words]


def has_launcher(how: Executing, step: Step) -> bool:
    """Whether a launcher may start several processes for a step."""
    return bool(how.launcher) and runs_on_several(step)


def shards_of(how: Executing, step: Step, idle: int, ready: int) -> int:
    """How many processes share a step out.

    Args:
        how: steps are run.
        step: which.
        idle: workers that have nothing to do.
        ready: steps that could start now, this one included.
    """
    if not makes_shards(step):
        return 1
    return max(1, idle // ready) if how.shards is None else how.shards


def _environment(workers: int) -> dict[str, str]:
    """Variables that keep steps that run at once from taking each other's cores."""
    threads = {}
    if workers > 1:
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    return {"OMP_WAIT_POLICY": "passive", **threads}


def _badness(ended: Ended) -> int:
    """A failure before a loss before success: what failed would fail again."""
    return -2 if ended.status not in (0, None) and not ended.lost else -1 if ended.lost else 0


def how_lost(ended: Ended) -> str:
    """Why a job was lost, in words."""
    return ended.signal.name if ended.signal else ended.reason or "its process is gone"
