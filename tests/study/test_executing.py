"""Executors: a killed step, a killed driver, and the same bytes from Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import stub_steps
from stub_steps import calls, runner, step

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.run_record import process_entry
from veridical.study import step_jobs
from veridical.study.cluster import Cluster, make_executor
from veridical.study.executing import Ended, Here, Job, Note, last_line
from veridical.study.keys import Keys
from veridical.study.ledger import Ledger, StepState, read_ledger
from veridical.study.plan import Plan, Step
from veridical.study.running import Runner
from veridical.study.step_jobs import Executing

REAL_CALL = step_jobs.call_of


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_jobs, "call_of", stub_steps.call)


def test_a_step_whose_process_is_killed_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "dies").touch()
    bad = step("bad", tmp_path, template={"dies_once": str(tmp_path / "dies")})
    plan = Plan(tmp_path, (bad, step("other", tmp_path)))
    runner(plan, tmp_path, retries=1).run(plan.steps)
    assert (calls(tmp_path, "bad"), calls(tmp_path, "other")) == (2, 1)
    assert read_json(tmp_path / "steps.json")["bad"]["status"] == "finished"


def test_without_retries_a_killed_step_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "dies").touch()
    bad = step("bad", tmp_path, template={"dies_once": str(tmp_path / "dies")})
    plan = Plan(tmp_path, (bad, step("after", tmp_path, [tmp_path / "bad"])))
    with pytest.raises(UserError, match=r"bad failed: it was ended by SIGKILL.*Not started: after"):
        runner(plan, tmp_path).run(plan.steps)


def test_a_killed_driver_loses_nothing_that_was_finished_or_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step that runs when the driver is killed goes on, and the next driver waits for it."""
    source = Path(__file__).parents[2] / "src"
    helpers = Path(stub_steps.__file__).parent
    path = os.pathsep.join([str(source), str(helpers), os.environ.get("PYTHONPATH", "")])
    driver = subprocess.Popen(
        [sys.executable, stub_steps.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    while not _is_noted(tmp_path, "slow"):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    plan = stub_steps.two_steps(tmp_path)
    again = runner(plan, tmp_path)
    (tmp_path / "go").touch()
    again.run(plan.steps)
    assert [calls(tmp_path, name) for name in ("a", "slow", "last")] == [1, 1, 1]
    said = capsys.readouterr().out
    assert "a: here already" in said
    # It may have ended before this driver looked; then its record says that it finished.
    assert "slow: runs still; waiting for it" in said or "slow: here already" in said


@pytest.mark.parametrize("changed", [False, True])
def test_no_folder_is_removed_under_a_shard_that_runs_still(tmp_path: Path, changed: bool) -> None:
    """One of two shards has ended when the driver starts again; there is no record yet."""
    plan = Plan(tmp_path, (step("a", tmp_path),))
    kept = tmp_path / "a" / "parts"
    kept.mkdir(parents=True)
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = []

    class Watched(Here):
        def wait(self) -> list[Ended]:
            if living.returncode is None:
                seen.append((kept.is_dir(), calls(tmp_path, "a")))
                living.communicate(b"\n")
            return super().wait()

    own = runner(plan, tmp_path, executor=Watched())
    key = "another" if changed else own.key(plan.steps[0])
    entry = process_entry(living.pid)
    own._ledger.note("a", {
        "key": key, "status": "running", "command": "c", "made_folder": True,
        "jobs": [{**entry, "began": "before"}, entry],
    })  # fmt: skip
    own.run(plan.steps)
    assert seen == [(True, 0)]
    assert calls(tmp_path, "a") == 1  # the shard that is missing is made when the other has ended
    assert read_ledger(tmp_path)["a"]["status"] == "finished"


KILLED = """
import os, pathlib, signal, sys
from veridical.study.executing import Here, Job
def note(tokens):
    print(tokens[0]["id"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
place = pathlib.Path(sys.argv[1])
touch = ("touch", str(place / "began"))
Here(1).start([Job("a", 0, touch, place, {}, place / "log")], note)
"""


def test_a_job_does_nothing_before_it_is_noted(tmp_path: Path) -> None:
    """A driver is killed between starting a job and noting it; its successor starts it again."""
    driver = [sys.executable, "-c", KILLED, str(tmp_path)]
    said = subprocess.run(driver, capture_output=True, text=True, env=_with_source(), check=False)
    assert said.returncode == -signal.SIGKILL
    while _runs(int(said.stdout)):
        time.sleep(0.02)
    assert (tmp_path / "log").read_text() == ""
    assert not (tmp_path / "began").exists()


BOUND = """
import pathlib, sys
from veridical.study.executing import Job, perform
place = pathlib.Path(sys.argv[1])
wait = "import os, sys, time; f = open(sys.argv[1], 'w'); print(os.getpid(), file=f, flush=True)"
call = (sys.executable, "-c", wait + "; time.sleep(60); open(sys.argv[2], 'w')",
        str(place / "fifo"), str(place / "end"))
perform(Job("a", 0, call, place, {}, place / "log"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone kills a process with its parent")
def test_a_clusters_job_ends_with_its_worker(tmp_path: Path) -> None:
    """A lost worker leaves no process that writes beside the one that is started instead."""
    os.mkfifo(tmp_path / "fifo")
    worker = subprocess.Popen([sys.executable, "-c", BOUND, str(tmp_path)], env=_with_source())
    with (tmp_path / "fifo").open() as file:
        assert int(file.readline()) > 0
        worker.kill()
        worker.wait()
        assert file.read() == ""  # returns when the job has ended
    assert not (tmp_path / "end").exists()


def _with_source() -> dict[str, str]:
    source = Path(__file__).parents[2] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def _runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.parametrize(
    ("token", "where"),
    [({"host": "elsewhere", "id": 7}, "on elsewhere as process 7"), ("7_0", "as Slurm's job 7_0")],
)
def test_a_step_that_may_run_out_of_sight_is_not_started_beside_it(
    tmp_path: Path, token: object, where: str
) -> None:
    plan = Plan(tmp_path, (step("a", tmp_path), step("b", tmp_path)))
    own = runner(plan, tmp_path)
    own._ledger.note(
        "a", {"key": own.key(plan.steps[0]), "status": "running", "command": "c", "jobs": [token]}
    )
    with pytest.raises(UserError, match=rf"a failed: an earlier command started it {where}.*--for"):
        own.run(plan.steps)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == (0, 1)
    runner(plan, tmp_path, forget=True).run(plan.steps)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == (1, 1)


def test_a_queued_job_has_no_last_line_yet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log, 0) == ""
    log.write_text("one\ntwo\n")
    assert last_line(log, 0) == "two"


def test_shards_that_leave_no_result_are_followed_by_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the shard was killed that had claimed the result: the others leave it to that."""
    monkeypatch.setattr("veridical.study.step_jobs.makes_shards", lambda _: True)
    plan = Plan(tmp_path, (step("a", tmp_path),))
    runner(plan, tmp_path, shards=2).run(plan.steps)
    words = (tmp_path / "a.calls").read_text().splitlines()
    assert ["--shard" in line for line in words] == [True, True, False]
    assert read_json(tmp_path / "a" / "run.json")["status"] == "finished"


def test_a_step_is_shared_out_to_workers_that_have_nothing_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it gets all of them, beside another step its share; each GPU is one process's."""
    monkeypatch.setattr("veridical.study.step_jobs.makes_shards", lambda _: True)
    alone = Plan(tmp_path, (step("a", tmp_path),))
    own = runner(alone, tmp_path, workers=3, shards=None)
    own.run(alone.steps)
    words = (tmp_path / "a.calls").read_text().splitlines()
    assert [sum(f'"{n}/3"' in line for line in words) for n in (1, 2, 3)] == [1, 1, 1]
    state = own.ledger["a"]
    assert state["status"] == "finished"

    both = (step("b", tmp_path), step("c", tmp_path))
    beside = runner(Plan(tmp_path, both), tmp_path, workers=4, shards=None)
    started = [len(beside._shared_out(both[0], (), 2)), len(beside._shared_out(both[1], (), 1))]
    assert started == [2, 4]
    beside.executor = Here(4, gpus=("0", "1", "2"))
    beside.how = dataclasses.replace(beside.how, gpus=1)
    assert len(beside._shared_out(both[0], (), 1)) == 3


def test_processes_of_a_launcher_that_leave_no_result_are_followed_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launcher starts takes shards too, and leaves the result to whoever claimed it."""

    def call(how: Executing, own: Step, words: Sequence[str], alone: bool) -> list[str]:
        started = stub_steps.call(how, own, words, alone)
        by_python = REAL_CALL(how, own, words, alone)[0] == sys.executable
        return started if by_python else [*started, "--shard", "of a launcher"]

    monkeypatch.setattr(step_jobs, "call_of", call)
    plan = Plan(tmp_path, (step("a", tmp_path),))
    keys = Keys(plan, {"a": frozenset({"sets"})})
    Runner(plan, keys, Executing(tmp_path, launcher=("torchrun",))).run(plan.steps)
    words = (tmp_path / "a.calls").read_text().splitlines()
    assert ["--shard" in line for line in words] == [True, False]
    assert read_ledger(tmp_path)["a"]["status"] == "finished"


@pytest.mark.parametrize("changed", [False, True])
def test_a_training_goes_on_only_from_its_own_checkpoint(tmp_path: Path, changed: bool) -> None:
    """The folder of a step that changed makes way first, its checkpoint with it."""
    plan = Plan(tmp_path, (Step("a", "train dpo", {"out": str(tmp_path / "a"), "seed": 1}),))
    own = runner(plan, tmp_path)
    key = "another" if changed else own.key(plan.steps[0])
    own._ledger.note("a", {"key": key, "status": "failed", "command": "c", "made_folder": True})
    checkpoint = tmp_path / "a" / "checkpoints" / "checkpoint-1" / "manifest.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    record = {
        "command": "train dpo",
        "status": "failed",
        "files": ["checkpoints/checkpoint-1/manifest.json"],
    }
    write_json(tmp_path / "a" / "run.json", record)
    own.run(plan.steps)
    (words,) = (tmp_path / "a.calls").read_text().splitlines()
    assert ("--resume" in words) is not changed


def test_a_command_that_was_asked_to_end_is_lost_and_not_failed() -> None:
    """143 is its exit status after a SIGTERM, as from scancel."""
    job = Job("a", 0, (), Path(), {}, Path("log"))
    assert [Ended(job, status, 0.0).lost for status in (0, 2, 143, -9, None)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    assert Ended(job, 143, 0.0).signal == signal.SIGTERM


def test_where_an_executor_refuses_a_step_the_others_run_on(tmp_path: Path) -> None:
    """As where Slurm takes no more jobs of a user."""

    class Full(Here):
        refused = False

        def room(self, jobs: Sequence[Job]) -> bool:
            return len(jobs) == 1

        def start(self, jobs: Sequence[Job], note: Note) -> None:
            if jobs[0].step == "b":
                self.refused = True
                raise UserError("Slurm's sbatch refuses the jobs: too many.")
            super().start(jobs, note)

        def wait(self) -> list[Ended]:
            return super().wait() if self.refused else []

    plan = Plan(tmp_path, (step("a", tmp_path), step("b", tmp_path)))
    with pytest.raises(UserError, match=r"b failed: .*refuses the jobs: too many"):
        runner(plan, tmp_path, executor=Full()).run(plan.steps)
    assert {n: s["status"] for n, s in read_ledger(tmp_path).items()} == {
        "a": "finished", "b": "failed",
    }  # fmt: skip
    runner(plan, tmp_path).run(plan.steps)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == (1, 1)


def test_a_step_that_goes_on_stays_one_of_the_code_that_began_it(tmp_path: Path) -> None:
    """`--accept-code`: half of it is by older code, and how long that took is not known."""
    plan = Plan(tmp_path, (step("a", tmp_path), step("b", tmp_path)))

    def with_code(accepted: dict[str, str]) -> Runner:
        paths = {one.name: frozenset({"sets"}) for one in plan.steps}
        keys = Keys(plan, paths, {"a": "new", "b": "new"}, accepted)
        return Runner(plan, keys, Executing(tmp_path))

    own = with_code({"a": "old", "b": "old"})
    for name in "ab":
        key = own.key(plan.step(name))
        state: StepState = {"key": key, "status": "failed", "command": "c", "code": "old"}
        own._ledger.note(name, state)
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "run.json", {"status": "failed", "files": []})
    own.run(plan.steps)
    ledger = read_ledger(tmp_path)
    assert {name: state["code"] for name, state in ledger.items()} == {"a": "old", "b": "new"}
    assert {name: "seconds" in state for name, state in ledger.items()} == {"a": False, "b": True}
    with_code({}).run(plan.steps)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == (2, 1)


def test_a_step_whose_record_can_not_be_read_leaves_the_others_running(tmp_path: Path) -> None:
    plan = Plan(tmp_path, (step("a", tmp_path), step("b", tmp_path)))
    runner(plan, tmp_path).run(plan.steps)
    (tmp_path / "a" / "run.json").write_text("{")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(UserError, match=r"a failed: .*run\.json"):
        runner(plan, tmp_path).run(plan.steps)
    assert calls(tmp_path, "b") == 2


def test_nothing_is_given_to_an_executor_where_no_step_can_start(tmp_path: Path) -> None:
    class Counts(Here):
        def start(self, jobs: Sequence[Job], note: Note) -> None:
            given.append(len(jobs))
            super().start(jobs, note)

    given: list[int] = []
    plan = Plan(tmp_path, (step("a", tmp_path),))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    own = runner(plan, tmp_path, executor=Counts())
    own._ledger.note("a", {"key": "another", "status": "finished", "command": "c"})
    with pytest.raises(UserError, match="a changed"):
        own.run(plan.steps)
    assert given == []


def test_a_step_without_a_finished_record_is_not_finished(tmp_path: Path) -> None:
    plan = Plan(tmp_path, (step("a", tmp_path, template={"stops": 1}),))
    with pytest.raises(UserError, match=r"a failed: it ended without an error, and .*no finished"):
        runner(plan, tmp_path).run(plan.steps)


def test_jobs_that_ended_are_taken_over_once(tmp_path: Path) -> None:
    """A cluster still knows jobs that have ended; those of a step that changed are of no use."""

    class Remembers(Here):
        def can_ask(self, token: Any) -> bool:
            return True

        def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
            taken.append(len(tokens))
            ended.extend(Ended(job, 0, 0.0) for job in jobs)
            return list(jobs)

        def wait(self) -> list[Ended]:
            return [ended.pop()] if ended else super().wait()

    taken: list[int] = []
    ended: list[Ended] = []
    plan = Plan(tmp_path, (step("a", tmp_path),))
    own = runner(plan, tmp_path, executor=Remembers())
    own._ledger.note(
        "a", {"key": "another", "status": "running", "command": "c", "jobs": ["7_0", "7_1"]}
    )
    own.run(plan.steps)
    assert (taken, calls(tmp_path, "a")) == ([2], 1)


def test_what_runs_still_is_taken_over_before_anything_starts(tmp_path: Path) -> None:
    """Else a new step is started beside it, on its GPU."""

    class OneAtOnce(Here):
        def room(self, jobs: Sequence[Job]) -> bool:
            return len(jobs) + len(runs) <= 1

        def can_ask(self, token: Any) -> bool:
            return True

        def adopt(self, jobs: Sequence[Job], tokens: Sequence[Any]) -> list[Job]:
            told.append(f"adopt {jobs[0].step}")
            runs.extend(jobs)
            return list(jobs)

        def start(self, jobs: Sequence[Job], note: Note) -> None:
            told.extend(f"start {job.step}" for job in jobs)
            super().start(jobs, note)

        def wait(self) -> list[Ended]:
            if not runs:
                return super().wait()
            job = runs.pop()
            (tmp_path / job.step).mkdir()
            write_json(tmp_path / job.step / "run.json", {"status": "finished", "command": "stub"})
            return [Ended(job, 0, 0.0)]

    told: list[str] = []
    runs: list[Job] = []
    long, last = step("long", tmp_path), step("last", tmp_path, [tmp_path / "long"])
    made, alone = step("made", tmp_path), step("alone", tmp_path, [tmp_path / "made"])
    runner(Plan(tmp_path, (made,)), tmp_path).run([made])
    other = step("other", tmp_path)
    after = step("after", tmp_path, [tmp_path / "other"])
    plan = Plan(tmp_path, (long, last, other, after, made, alone))
    own = runner(plan, tmp_path, executor=OneAtOnce())
    assert own.is_done(made)
    key = own.key(alone)
    own = runner(plan, tmp_path, executor=OneAtOnce())
    own._ledger.note("alone", {"key": key, "status": "running", "command": "c", "jobs": ["7"]})
    own.run(plan.steps)
    assert told[0] == "adopt alone"
    assert len(told) == 5


def _is_noted(out: Path, name: str) -> bool:
    """Whether a step's process was written down."""
    state = read_ledger(out).get(name)
    return state is not None and bool(state.get("jobs"))


def test_a_journal_that_was_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    """As a SIGKILL leaves it: the last line is half there."""
    ledger = Ledger(tmp_path)
    state: StepState = {"key": "k", "status": "finished", "command": "c"}
    ledger.note("a", state)
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"name": "b", "sta')
    assert read_ledger(tmp_path) == {"a": state}
    again = Ledger(tmp_path)
    again.note("c", state)
    assert read_ledger(tmp_path) == {"a": state, "c": state}
    again.close()
    assert read_json(tmp_path / "steps.json") == {"a": state, "c": state}
    assert not (tmp_path / "steps.jsonl").exists()


def test_a_changed_step_of_a_killed_driver_is_made_anew(tmp_path: Path) -> None:
    """What a killed step left half is this plan's own, and removed without a question."""
    plan = Plan(tmp_path, (step("a", tmp_path, seed=0),))
    runner(plan, tmp_path).run(plan.steps)
    half = tmp_path / "a" / "run.json"
    half.write_text(json.dumps({"command": "stub", "status": "running"}))
    changed = Plan(tmp_path, (step("a", tmp_path, seed=1),))
    runner(changed, tmp_path).run(changed.steps)
    assert (tmp_path / "a" / "value").read_text() == "1"


def test_steps_get_gpus_of_their_own() -> None:
    here = Here(3, ("4", "7"))
    job = Job("a", 0, (), Path(), {}, Path("log"), gpus=1)
    other = dataclasses.replace(job, step="b")
    assert here.room([job, other])
    assert not here.room([job, other, dataclasses.replace(job, step="c")])
    here._taken["x", 0] = ("4",)
    assert here._free_gpus() == ("7",)
    assert Here(1).room([job])
    assert not Here(1).room([job, other])
    assert Here(1).room([job, dataclasses.replace(job, shard=1)])  # shards of one step, alone


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(slurm={"slurm_partition": "a"}), "--slurm is for --executor slurm"),
        (Cluster(executor="ray", gpu_list="0"), "--gpu-list is for --executor here"),
        (Cluster(gpus=-1), "--gpus is -1; give 0 or more"),
        (Cluster(gpus=3, gpu_list="0,1"), "this machine offers 2"),
        (Cluster(gpus=2, gpu_list="0,0"), "'0,0'; give each GPU once"),
        (Cluster(gpus=1, gpu_list="-1"), "'-1'; give each GPU once"),
        (Cluster(gpus=1, gpu_list=" "), "' '; give each GPU once"),
        (Cluster(gpu_list="0"), "--gpu-list is for steps that need GPUs. Set --gpus"),
    ],
)
def test_what_no_executor_can_do_is_refused(cluster: Cluster, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        make_executor(cluster, 1, tmp_path)


def test_gpus_that_cuda_hides_are_not_given_to_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f,-1,0")
    made = make_executor(Cluster(gpus=1), 1, tmp_path)
    assert isinstance(made, Here) and made.gpus == ("3", "GPU-8f")


def test_more_shards_than_gpus_are_refused(tmp_path: Path) -> None:
    cluster = Cluster(gpus=2, gpu_list="0,1,2,3,4")
    assert make_executor(cluster, 1, tmp_path, shards=2)
    with pytest.raises(UserError, match=r"needs 6 GPUs, and this machine offers 5. Set --shards 2"):
        make_executor(cluster, 1, tmp_path, shards=3)


@pytest.mark.slow
def test_ray_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two nodes on loopback; a step that is killed there is started again."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    (tmp_path / "dies").touch()
    killed = step("killed", tmp_path, template={"dies_once": str(tmp_path / "dies")})
    plan = Plan(
        tmp_path,
        (step("a", tmp_path, seed=3), step("b", tmp_path, [tmp_path / "a"], seed=4), killed),
    )
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=1)
        executor = make_executor(Cluster(executor="ray", address=nodes.address), 2, tmp_path)
        runner(plan, tmp_path, 2, executor, retries=1).run(plan.steps)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert [(tmp_path / name / "value").read_text() for name in ("a", "b")] == ["3", "4"]
    assert calls(tmp_path, "killed") == 2
    assert {s["status"] for s in read_json(tmp_path / "steps.json").values()} == {"finished"}
