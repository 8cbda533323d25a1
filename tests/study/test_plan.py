"""Plans: commands as they are typed, what waits for what, and what is made again."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.study import step_jobs
from veridical.study.commands import check_steps
from veridical.study.keys import Keys
from veridical.study.plan import Plan, Step, read_plan, was_changed, write_plan
from veridical.study.running import Runner
from veridical.study.step_jobs import Executing

# Stands for a command: says what it was given, and fails or waits where its name says so.
COMMAND = """
import json, pathlib, sys, time
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
if "--template.fail" in words:
    print("veridical: it can't.", file=sys.stderr)
    sys.exit(2)
out.mkdir(parents=True, exist_ok=True)
with (out / "calls").open("a") as file:
    file.write(json.dumps(words) + "\\n")
if "--template.wait" in words:
    for _ in range(6000):  # a signal that comes just before one long sleep would wait for its end
        time.sleep(0.1)
    (out / "waited").touch()
"""


def step(name: str, out: Path, reads: Sequence[Path] = (), **options: object) -> Step:
    """A step that reads some paths and writes a folder of its own name."""
    sets = {"sets": [str(path) for path in reads]} if reads else {}
    return Step(name, "build compose", {**sets, "out": str(out / name), **options})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that take no time, so that only the runner is tested."""

    def call(how: Executing, own: Step, words: Sequence[str], alone: bool) -> list[str]:
        return [sys.executable, "-c", COMMAND, *words]

    monkeypatch.setattr(step_jobs, "call_of", call)


def runner(plan: Plan, out: Path, workers: int = 1) -> Runner:
    paths = {one.name: frozenset({"sets"}) for one in plan.steps}
    return Runner(plan, Keys(plan, paths), Executing(out, workers))


def calls(out: Path, name: str) -> int:
    """How often a step was made."""
    path = out / name / "calls"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_words_are_those_of_the_command_line() -> None:
    own = Step(
        "x", "train dpo", {"model": "m", "lora_rank": 4, "learning_rate": 1e-6, "prove_first": True,
                           "more_data": ["a b", "c"], "trainer": {"adam_beta2": 0.9}, "beta": None},
    )  # fmt: skip
    assert own.shown() == (
        "veridical train dpo --model m --lora-rank 4 --learning-rate 1e-06 --prove-first true "
        "--more-data 'a b' c --trainer.adam-beta2 0.9"
    )


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    made = Plan(tmp_path, (step("a", tmp_path), step("b", tmp_path, [tmp_path / "a" / "x"])))
    path = tmp_path / "plan.yaml"
    write_plan(made, path, "# Head\n")
    assert read_plan(path) == made
    assert not was_changed(path)
    path.write_text(path.read_text().replace("name: b", "name: c"))
    assert was_changed(path)
    assert [one.name for one in read_plan(path).steps] == ["a", "c"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "has to have `steps`"),
        (["a"], "mapping of name, command"),
        ([{"name": "a"}], "command has to be a text"),
        ([{"name": "a", "command": "x", "options": {}}], "options need an `out`"),
        ([{"name": "a", "command": "x", "option": {}}], "no field option"),
        ([{"name": "../a", "command": "x", "options": {"out": "o"}}], "letters, digits"),
        ([{"name": "a", "command": "x", "options": {"out": "o"}}] * 2, "two steps are called a"),
        (
            [{"name": n, "command": "x", "options": {"out": "o"}} for n in "ab"],
            "both write to o",
        ),
        (
            [
                {"name": "a", "command": "x", "options": {"data": "p/f", "out": "o"}},
                {"name": "b", "command": "x", "options": {"out": "p"}},
            ],
            "a reads what b writes",
        ),
        (
            [
                {"name": "a", "command": "x", "options": {"data": "p/f", "out": "o"}},
                {"name": "b", "command": "x", "options": {"data": "o/f", "out": "p"}},
            ],
            "a and b read what the other writes, so neither can begin",
        ),
        (
            [{"name": "a", "command": "x", "options": {"model": "o/model", "out": "o"}}],
            "a reads from o, which it writes itself",
        ),
        (
            [{"name": n, "command": "x", "options": {"out": o}} for n, o in ("ao", ("b", "o/p"))],
            "b writes to o/p, inside what a writes",
        ),
    ],
)
def test_a_plan_that_can_not_be_run_is_refused(
    tmp_path: Path, steps: list[object], said: str
) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"steps": steps}))
    with pytest.raises(UserError, match=said):
        read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Step("s", "build nothing", {"out": "o"}), "Step s: there is no command 'build nothing'"),
        (Step("s", "align", {"out": "o"}), "no command 'align' for a plan"),
        (Step("s", "data split", {"data": "f", "out": "o", "hold": 1}), "no option --hold"),
        (Step("s", "data split", {"data": "f.jsonl", "out": "o", "held_out": 2}), "--held-out"),
        (Step("s", "data split", {"data": "none.jsonl", "out": "o"}), "none.jsonl does not exist"),
        (
            Step("s", "train sft", {"model": "r/t/model", "data": "p/q", "out": "o"}),
            "--model r/t/model does not exist, and no step makes it",
        ),
    ],
)
def test_a_step_is_checked_before_anything_runs(own: Step, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        check_steps(Plan(tmp_path, (own, Step("p", "build rate", {"out": "p"}))), [own])


def test_a_step_brings_code_of_its_own(tmp_path: Path) -> None:
    """Its key has the file's content."""
    code = tmp_path / "tower.py"
    own = Step("s", "world make", {"folder": "o", "import": str(code)})
    with pytest.raises(UserError, match=r"--import .*tower\.py does not exist"):
        check_steps(Plan(tmp_path, (own,)), [own])
    keys = []
    for text in ("a = 1", "a = 2"):
        code.write_text(text)
        plan = Plan(tmp_path, (own,))
        keys.append(Keys(plan, check_steps(plan, [own])).key(own, {}))
    assert keys[0] != keys[1]


def test_only_what_changed_and_what_reads_it_is_made_again(
    stand_in: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A -> b -> d, and c beside them; then b has another seed, then a file that c reads changes."""
    (tmp_path / "file.jsonl").write_text("1")

    def plan(seed: int) -> Plan:
        a = step("a", tmp_path)
        b = step("b", tmp_path, [tmp_path / "a" / "calls"], seed=seed)
        c = step("c", tmp_path, [tmp_path / "file.jsonl"])
        return Plan(tmp_path, (a, b, c, step("d", tmp_path, [tmp_path / "b"])))

    def made() -> dict[str, int]:
        return {name: calls(tmp_path, name) for name in "abcd"}

    runner(plan(0), tmp_path).run(plan(0).steps)
    assert made() == dict.fromkeys("abcd", 1)
    assert "a: veridical build compose --out" in capsys.readouterr().out
    runner(plan(0), tmp_path).run(plan(0).steps)
    assert made() == dict.fromkeys("abcd", 1)
    assert capsys.readouterr().out.count("here already") == 4
    for name in "bd":  # a run would be removed by its record; a folder without one is the user's
        (tmp_path / name / "calls").unlink()
    runner(plan(1), tmp_path).run(plan(1).steps)
    assert made() == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert read_json(tmp_path / "steps.json")["b"]["command"].endswith("--seed 1")
    (tmp_path / "file.jsonl").write_text("2")
    with pytest.raises(UserError, match=r"c changed, and .*c holds what it made before"):
        runner(plan(1), tmp_path).run(plan(1).steps)


def test_a_failed_step_leaves_the_others_running(stand_in: None, tmp_path: Path) -> None:
    bad = step("bad", tmp_path, template={"fail": 1})
    after = step("after", tmp_path, [tmp_path / "bad"])
    plan = Plan(tmp_path, (bad, after, step("other", tmp_path)))
    with pytest.raises(
        UserError, match=r"bad failed: it can't \(log: .*bad.log\). Not started: af"
    ):
        runner(plan, tmp_path, workers=2).run(plan.steps)
    assert (calls(tmp_path, "other"), calls(tmp_path, "after")) == (1, 0)
    assert read_json(tmp_path / "steps.json")["bad"]["status"] == "failed"


def test_a_step_that_can_not_be_made_anew_leaves_the_others_running(
    stand_in: None, tmp_path: Path
) -> None:
    """What `b` made has no record, so that nobody knows what may be removed of it."""
    old = Plan(tmp_path, (step("b", tmp_path),))
    runner(old, tmp_path).run(old.steps)
    known = read_json(tmp_path / "steps.json")["b"]
    plan = Plan(tmp_path, (step("b", tmp_path, seed=1), step("other", tmp_path)))
    with pytest.raises(UserError, match=r"b failed: b changed, and .*b holds what it made before"):
        runner(plan, tmp_path).run(plan.steps)
    assert (calls(tmp_path, "b"), calls(tmp_path, "other")) == (1, 1)
    assert read_json(tmp_path / "steps.json")["b"] == known


def test_scenes_are_drawn_anew_when_their_step_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`world make` keeps no record; here it runs in this process."""
    monkeypatch.chdir(tmp_path)
    for count in (2, 1):
        own = Step("scenes", "world make", {"folder": "scenes", "count": count})
        plan = Plan(tmp_path, (own,))
        Runner(plan, Keys(plan, {"scenes": ()}), Executing(tmp_path / "out")).run(plan.steps)
        assert len(list((tmp_path / "scenes" / "images").iterdir())) == count


@pytest.fixture(params=["signals as usual", "in the background"])
def place(request: pytest.FixtureRequest) -> Iterator[None]:
    """A shell makes what it starts in the background ignore Ctrl-C, with all that this starts."""
    ignored = request.param == "in the background"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_stopped_plan_ends_its_steps_and_goes_on(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: None
) -> None:
    slow = step("slow", tmp_path, template={"wait": 1})
    plan = Plan(tmp_path, (step("a", tmp_path), slow))
    pause = time.sleep

    def sleep(seconds: float) -> None:
        if calls(tmp_path, "slow"):
            raise KeyboardInterrupt
        pause(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        runner(plan, tmp_path).run(plan.steps)
    assert not (tmp_path / "slow" / "waited").exists()
    stopped = read_json(tmp_path / "steps.json")["slow"]
    assert (stopped["status"], stopped["jobs"]) == ("running", [])  # any machine may go on
    monkeypatch.setattr(time, "sleep", pause)
    quick = Plan(tmp_path, (step("a", tmp_path), step("slow", tmp_path)))
    (tmp_path / "slow" / "calls").unlink()
    runner(quick, tmp_path).run(quick.steps)
    assert (calls(tmp_path, "a"), calls(tmp_path, "slow")) == (1, 1)


def test_a_key_changes_with_what_a_result_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("1")

    def key(**options: object) -> str:
        own = Step("s", "build sample", {"data": str(data), "model": "embedded", **options})
        plan = Plan(tmp_path, (own,))
        return Keys(plan, {"s": frozenset({"data"})}).key(own, {})

    first = key(out="a", seed=0)
    assert first == key(out="b", seed=0, device="cuda", cache="none")
    assert first != key(out="a", seed=1)
    assert first != key(out="a", seed=0, model=str(tmp_path))
    data.write_text("2")
    assert first != key(out="a", seed=0)
    data.write_text("1")
    assert first == key(out="a", seed=0)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9")
    assert first != key(out="a", seed=0)
