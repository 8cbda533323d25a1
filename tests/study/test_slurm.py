"""Slurm by submitit: the same bytes, lost jobs and drivers; on a real Slurm where one answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import stub_steps
from stub_steps import calls, runner, step

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.study import slurm, step_jobs
from veridical.study.executing import Ended, Here, Job
from veridical.study.ledger import read_ledger
from veridical.study.plan import Plan, Step
from veridical.study.slurm import Slurm, Work, _ended, _Submitted, queue_states

pytest.importorskip("submitit")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_jobs, "call_of", stub_steps.call)


def test_submitit_gives_the_same_bytes(tmp_path: Path) -> None:
    made = {}
    for name in ("here", "slurm"):
        out = tmp_path / name
        out.mkdir()
        a, bad = step("a", out, seed=3), step("bad", out, template={"fail": 1})
        plan = Plan(out, (a, bad, step("b", out, [out / "a"])))
        executor = Slurm(out / "jobs", 2, {}, cluster="debug") if name == "slurm" else None
        with pytest.raises(UserError, match=r"bad failed: it can't"):
            runner(plan, out, 2, executor).run(plan.steps)
        made[name] = {p.name: p.read_bytes() for p in sorted(out.glob("[ab]/*"))}
        states = read_json(out / "steps.json")
        assert {n: s["status"] for n, s in states.items()} == {
            "a": "finished", "b": "finished", "bad": "failed",
        }  # fmt: skip
    assert made["here"] == made["slurm"]
    assert len(made["here"]) == 2


@dataclass
class Paths:
    result_pickle: Path


@dataclass
class Handle:
    """What is used of submitit's handles."""

    paths: Paths
    job_id: str = "7_0"
    state: str = "UNKNOWN"
    canceled: list[str] = field(default_factory=list)

    def stderr(self) -> str:
        return ""

    def cancel(self, check: bool) -> None:
        self.canceled.append(self.job_id)


def submitted(tmp_path: Path, state: str = "") -> _Submitted:
    job = Job("a", 0, ("true",), tmp_path, {}, tmp_path / "log")
    return _Submitted(job, Handle(Paths(tmp_path / "result")), 0.0, state)


def test_slurm_says_why_a_job_was_lost(tmp_path: Path) -> None:
    class Loses(Here):
        def wait(self) -> list[Ended]:
            return [_ended(replace(lost, job=one.job), one.seconds) for one in super().wait()]

    lost = submitted(tmp_path, "OUT_OF_MEMORY")
    plan = Plan(tmp_path, (step("a", tmp_path, template={"fail": 1}),))
    with pytest.raises(UserError, match=r"job 7_0 ended as OUT_OF_MEMORY: .*--slurm.mem_gb"):
        runner(plan, tmp_path, executor=Loses(), retries=1).run(plan.steps)
    assert calls(tmp_path, "a") == 2


def test_slurms_job_that_nobody_noted_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "TOLD", -1.0)
    job = Job("a", 0, ("touch", str(tmp_path / "began")), tmp_path, {}, tmp_path / "log")
    assert Work(tmp_path / "noted")(job) is None
    assert not (tmp_path / "began").exists()
    (tmp_path / "noted").touch()
    assert Work(tmp_path / "noted")(job) == 0
    assert (tmp_path / "began").exists()


@dataclass
class Queue:
    """In place of Slurm's controller; a clock that each question moves on by a minute."""

    answers: list[Mapping[str, str] | None]
    now: float = 0.0

    def states(self, jobs: object) -> Mapping[str, str]:
        self.now += 60
        answer = self.answers.pop(0)
        if answer is None:
            raise UserError("Slurm's squeue does not answer")
        return answer


def on_slurm(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm(tmp_path, 1, {}, cluster="local")
    made.cluster = "slurm"
    monkeypatch.setattr(slurm, "queue_states", queue.states)
    monkeypatch.setattr(made, "clock", lambda: queue.now)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return made


def test_a_job_is_lost_once_it_has_left_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounting says UNKNOWN all the time, as just after a submission, or where there is none."""
    runs, silent, ends, over = {"7_0": "RUNNING"}, None, {"7_0": "COMPLETING"}, {"7_0": "TIMEOUT"}
    queue = Queue([runs, silent, ends, over, over])
    made = on_slurm(queue, tmp_path, monkeypatch)
    made._jobs = [submitted(tmp_path)]
    for _ in range(4):
        assert made.wait() == []
    (ended,) = made.wait()
    assert (ended.status, "needed more time" in ended.reason) == (None, True)
    assert made._jobs == []


@pytest.mark.parametrize(
    ("state", "taken"), [("PENDING", True), ("COMPLETING", True), ("CANCELLED", False), ("", False)]
)
def test_what_the_queue_has_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, taken: bool
) -> None:
    made = on_slurm(Queue([None, {"7_0": state} if state else {}]), tmp_path, monkeypatch)
    job = submitted(tmp_path).job
    assert made.adopt([job], ["7_0"]) == ([job] if taken else [])


def test_nothing_is_started_where_the_controller_stays_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = on_slurm(Queue([None] * 9), tmp_path, monkeypatch)
    with pytest.raises(UserError, match="does not answer"):
        made.adopt([submitted(tmp_path).job], ["7_0"])


def test_stopping_waits_until_slurm_has_ended_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue([{"7_0": "RUNNING"}, {"7_0": "COMPLETING"}, {"7_0": "CANCELLED"}])
    made = on_slurm(queue, tmp_path, monkeypatch)
    made._jobs = [submitted(tmp_path)]
    made.stop(signal.SIGINT)
    assert made._jobs[0].handle.canceled == ["7_0"]
    assert queue.answers == []


@pytest.mark.parametrize(
    ("said", "error", "status", "found"),
    [
        ("7_0 RUNNING\n7_1 PENDING\n8 RUNNING\n", "", 0, {"7_0": "RUNNING"}),
        ("", "slurm_load_jobs error: Invalid job id specified", 1, {}),
        ("", "slurm_load_jobs error: Unable to contact slurm controller", 1, None),
    ],
)
def test_the_queue_as_squeue_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    said: str, error: str, status: int, found: Mapping[str, str] | None,
) -> None:  # fmt: skip
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\nprintf '%s' '{error}' >&2\nexit {status}")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        with pytest.raises(UserError, match="Unable to contact"):
            queue_states(["7_0"])
    else:
        assert queue_states(["7_0"]) == found


def _answers() -> bool:
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


real = pytest.mark.skipif(not _answers(), reason="no Slurm answers here (sinfo)")


@real
@pytest.mark.slow
def test_a_real_slurm_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    """An array of jobs: one kills itself, one its worker, one is canceled; each is made again."""
    killed = ("itself", "its worker", "scancel")
    for name in killed:
        (tmp_path / name.replace(" ", "_")).touch()
    dying = [
        step(f"d{n}", tmp_path, seed=n,
             template={"dies_once": str(tmp_path / how.replace(" ", "_")), "killed_by": how})
        for n, how in enumerate(killed)
    ]  # fmt: skip
    a = step("a", tmp_path, seed=3)
    last = step("b", tmp_path, [tmp_path / "a", tmp_path / "d1"], seed=4)
    plan = Plan(tmp_path, (a, *dying, last))
    executor = Slurm(tmp_path / "jobs", 4, {"timeout_min": 10})
    runner(plan, tmp_path, executor=executor, retries=1).run(plan.steps)
    names = [one.name for one in plan.steps]
    assert [(tmp_path / name / "value").read_text() for name in names] == ["3", "0", "1", "2", "4"]
    assert [calls(tmp_path, name) for name in names] == [1, 2, 2, 2, 1]
    assert {s["status"] for s in read_json(tmp_path / "steps.json").values()} == {"finished"}


@real
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_real_slurm_goes_on_when_its_driver_is_gone(
    tmp_path: Path, how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed driver's jobs are waited for; one that was asked to stop has canceled them."""
    source = Path(__file__).parents[2] / "src"
    path = [str(source), str(Path(stub_steps.__file__).parent), os.environ.get("PYTHONPATH", "")]
    driver = subprocess.Popen(
        [sys.executable, stub_steps.__file__, str(tmp_path), "slurm"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while calls(tmp_path, "slow") == 0:
        assert driver.poll() is None
        time.sleep(0.2)
    driver.send_signal(how)
    driver.wait()
    stopped = read_ledger(tmp_path)["slow"]
    assert (stopped["status"], bool(stopped["jobs"])) == ("running", how == signal.SIGKILL)
    plan = stub_steps.two_steps(tmp_path)
    again = runner(plan, tmp_path, executor=Slurm(tmp_path / "jobs", 2, {"timeout_min": 10}))
    (tmp_path / "go").touch()
    again.run(plan.steps)
    assert [calls(tmp_path, name) for name in ("a", "slow", "last")] == [
        1, 1 if how == signal.SIGKILL else 2, 1,
    ]  # fmt: skip
    assert "a: here already" in capsys.readouterr().out


@real
@pytest.mark.slow
def test_a_training_that_a_real_slurm_preempts_goes_on_in_its_queue(tmp_path: Path) -> None:
    """Slurm lets a job that it takes back wait for two minutes."""
    options = {"out": str(tmp_path / "t"), "seed": 7, "template": {"preempted": 1}}
    plan = Plan(tmp_path, (Step("t", "train dpo", options),))
    executor = Slurm(tmp_path / "jobs", 1, {"timeout_min": 10})
    runner(plan, tmp_path, executor=executor).run(plan.steps)
    first, again = (tmp_path / "t.calls").read_text().splitlines()
    assert ("--resume" in first, "--resume" in again) == (False, True)
    assert (tmp_path / "t" / "value").read_text() == "7"


@real
def test_what_a_real_slurm_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    executor = Slurm(tmp_path / "jobs", 1, {"slurm_partition": "no-such"})
    plan = Plan(tmp_path, (step("a", tmp_path),))
    with pytest.raises(UserError, match=r"sbatch refuses the jobs: .*partition"):
        runner(plan, tmp_path, executor=executor).run(plan.steps)
