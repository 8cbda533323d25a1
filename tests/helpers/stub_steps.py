"""Steps that take no time, for tests of the runner; as a program, a driver that runs some."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from veridical.study import step_jobs
from veridical.study.executing import Executor
from veridical.study.keys import Keys
from veridical.study.plan import Plan, Step
from veridical.study.running import Runner
from veridical.study.slurm import Slurm
from veridical.study.step_jobs import Executing

# Says what it was given, waits for a file or kills itself where its options say so, and finishes.
# A shard ends before there is a result.
COMMAND = """
import json, os, pathlib, signal, subprocess, sys, time
words = sys.argv[1:]
given = dict(zip(words, words[1:]))
out = pathlib.Path(given["--out"])
out.mkdir(parents=True, exist_ok=True)
with (out.parent / (out.name + ".calls")).open("a") as file:
    file.write(json.dumps(words) + "\\n")
(out / "run.json").write_text(json.dumps({"command": "stub", "status": "running"}))
if "--template.fail" in given:
    print("veridical: it can't.", file=sys.stderr)
    sys.exit(2)
if "--shard" in given or "--template.stops" in given:
    sys.exit(0)
lock = pathlib.Path(given.get("--template.dies-once", "/nonexistent"))
if lock.is_file():
    lock.unlink()
    how = given.get("--template.killed-by", "itself")
    if how == "scancel":
        job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
        subprocess.run(["scancel", job], check=True)
    else:
        os.kill(os.getppid() if how == "its worker" else os.getpid(), signal.SIGKILL)
    time.sleep(600)
if "--template.preempted" in given and "--resume" not in words:
    (out / "checkpoints" / "checkpoint-1").mkdir(parents=True, exist_ok=True)
    (out / "checkpoints" / "checkpoint-1" / "manifest.json").touch()
    subprocess.run(["scancel", "--signal=USR2", os.environ["SLURM_JOB_ID"]], check=True)
    time.sleep(600)
while "--template.waits-for" in given and not (out.parent / given["--template.waits-for"]).exists():
    time.sleep(0.02)
record = {"command": "stub", "status": "finished", "files": ["value"]}
(out / "value").write_text(given.get("--seed", "none"))
(out / "run.json").write_text(json.dumps(record))
"""


def step(name: str, out: Path, reads: Sequence[Path] = (), **options: object) -> Step:
    """A step that reads some paths and writes a folder of its own name."""
    sets = {"sets": [str(path) for path in reads]} if reads else {}
    return Step(name, "build compose", {**sets, "out": str(out / name), **options})


def call(how: Executing, own: Step, words: Sequence[str], alone: bool) -> list[str]:
    """In place of a step's process: one that takes no time."""
    return [sys.executable, "-c", COMMAND, *words]


def runner(
    plan: Plan,
    out: Path,
    workers: int = 1,
    executor: Executor | None = None,
    retries: int = 0,
    shards: int | None = 1,
    forget: bool = False,
) -> Runner:
    """A runner of stub steps."""
    paths = {one.name: frozenset({"sets"}) for one in plan.steps}
    how = Executing(out, workers, executor=executor, shards=shards, retries=retries, forget=forget)
    return Runner(plan, Keys(plan, paths), how)


def calls(out: Path, name: str) -> int:
    """How often a step was started."""
    path = out / f"{name}.calls"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def two_steps(out: Path) -> Plan:
    """One that ends at once, and one that waits for the file `go`."""
    slow = step("slow", out, [out / "a"], template={"waits_for": "go"})
    return Plan(out, (step("a", out), slow, step("last", out, [out / "slow"])))


if __name__ == "__main__":
    setattr(step_jobs, "call_of", call)  # noqa: B010
    place = Path(sys.argv[1])
    plan = two_steps(place)
    slurm = Slurm(place / "jobs", 2, {}) if "slurm" in sys.argv[2:] else None
    runner(plan, place, executor=slurm).run(plan.steps)
