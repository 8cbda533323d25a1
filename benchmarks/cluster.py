"""The runner of plans on a simulated cluster: overhead a step, and makespan against the bound.

Steps are sleeps in simulated time; the runner, its keys and its ledger are the real ones.

    python benchmarks/cluster.py --arms 500 --workers 1000 --lost 0.02
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import io
import random
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.study.executing import Ended, Job, Note
from veridical.study.keys import Keys
from veridical.study.plan import Plan, Step
from veridical.study.running import Runner
from veridical.study.step_jobs import Executing

SECONDS = {"data": 7200.0, "train": 14400.0, "online": 43200.0, "eval": 1800.0}
"""What a step of each kind takes on the average; a step's own differs by up to a half."""
ORDERS = ("chains", "file", "exact")
"""Longest chain first by means of kinds, as the runner does; as in the file; by what each takes."""


@dataclass
class Simulated:
    """An executor whose clock jumps from one end of a job to the next.

    Attributes:
        workers: jobs at once.
        seconds: of each step.
        lost: chance that a job is killed on its way.
        rng: decides which.
    """

    workers: int
    seconds: Mapping[str, float]
    lost: float
    rng: random.Random
    now: float = 0.0
    _running: list[tuple[float, int, Job, int]] = field(default_factory=list)
    _started: int = 0
    busy: float = 0.0

    def room(self, jobs: Sequence[Job]) -> bool:
        """Whether so many workers are free."""
        return len(self._running) + len(jobs) <= self.workers

    def fits(self, jobs: Sequence[Job]) -> bool:
        """See `Executor`."""
        return self.room(jobs)

    def start(self, jobs: Sequence[Job], note: Note) -> None:
        """Put the jobs' ends on the calendar."""
        note([None] * len(jobs))
        for job in jobs:
            seconds, status = self.seconds[job.step], 0
            if self.rng.random() < self.lost:
                seconds, status = seconds * self.rng.random(), -signal.SIGKILL
            self._started += 1
            self.busy += seconds
            heapq.heappush(self._running, (self.now + seconds, self._started, job, status))

    def can_ask(self, token: Any) -> bool:
        """Nothing runs from before."""
        return token is None

    def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
        """Nothing runs from before."""
        del jobs, tokens
        return []

    def wait(self) -> list[Ended]:
        """Go to the next end."""
        end, _, job, status = heapq.heappop(self._running)
        self.now = end
        return [Ended(job, status, self.seconds[job.step])]

    def stop(self, how: signal.Signals) -> None:
        """Forget what runs."""
        self._running.clear()

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now


def make_plan(arms: int, seeds: int, folder: Path, online: float) -> Plan:
    """A study's shape: data by seed, a training for each arm and seed, two evaluations of each.

    The share `online` of the arms, the last in the file, learns online, three times as long.
    """
    steps = []
    for seed in range(seeds):
        data = folder / "data" / str(seed)
        steps.append(Step(f"data/seed{seed}", "build compose", {"out": str(data), "seed": seed}))
        for arm in range(arms):
            kind = "train" if arm < arms * (1 - online) else "online"
            own = folder / kind / str(arm) / str(seed)
            options = {"sets": [str(data)], "seed": arm, "out": str(own)}
            steps.append(Step(f"{kind}/{arm}/seed{seed}", "build compose", options))
            for part in range(2):
                out = folder / "eval" / str(arm) / str(seed) / str(part)
                options = {"sets": [str(own)], "out": str(out)}
                steps.append(Step(f"eval/{arm}/seed{seed}/{part}", "build compose", options))
    return Plan(folder, tuple(steps))


def bound(plan: Plan, seconds: Mapping[str, float], workers: int) -> float:
    """No schedule is shorter: all work on all workers, or the longest chain."""
    ends: dict[str, float] = {}
    for step in plan.steps:
        ready = max((ends[other.name] for other in plan.needs(step)), default=0.0)
        ends[step.name] = ready + seconds[step.name]
    return max(sum(seconds.values()) / workers, *ends.values())


def simulate(
    arms: int, seeds: int, workers: int, lost: float, online: float = 0.0, order: str = "chains"
) -> dict[str, float]:
    """Run a plan on a simulated cluster."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plan = make_plan(arms, seeds, folder, online)
        seconds = {
            step.name: SECONDS[step.name.partition("/")[0]] * rng.uniform(0.5, 1.5)
            for step in plan.steps
        }
        executor = Simulated(workers, seconds, lost, rng)
        keys = Keys(plan, {step.name: frozenset({"sets"}) for step in plan.steps})
        began = time.process_time()
        runner = Runner(plan, keys, Executing(folder, executor=executor, retries=20))
        if order == "file":
            setattr(runner, "_weigh", lambda queue: None)  # noqa: B010
        elif order == "exact":
            setattr(  # noqa: B010
                runner, "_weigh", lambda queue: queue.weigh(lambda step: seconds[step.name])
            )
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run(plan.steps)
        taken = time.process_time() - began
        least = bound(plan, seconds, workers)
        return {
            "steps": len(plan.steps),
            "overhead a step, ms": 1000 * taken / len(plan.steps),
            "makespan, h": executor.now / 3600,
            "bound, h": least / 3600,
            "makespan / bound": executor.now / least,
            "lost work": executor.busy / sum(seconds.values()) - 1,
        }


def main() -> None:
    """Print what a simulated cluster took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arms", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--lost", type=float, default=0.02)
    parser.add_argument("--online", type=float, default=0.0, help="share of arms that take longer")
    parser.add_argument("--order", choices=ORDERS, default="chains")
    given = parser.parse_args()
    for name, value in simulate(**vars(given)).items():
        print(f"{name:22} {value:,.3f}")


if __name__ == "__main__":
    main()
