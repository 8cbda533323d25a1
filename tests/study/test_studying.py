"""`veridical study` from a file to its report, with evaluations of stored answers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from veridical import cli
from veridical.eval.benchmark import find_benchmark
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json, write_jsonl
from veridical.study import commands
from veridical.study.expanding import Expansion
from veridical.study.laying_out import lay_out
from veridical.study.outcome import _detectable
from veridical.study.running import Runner
from veridical.study.study_file import Outcome, find_study

IMAGES = 12
FACTORS = {"style": "plain", "prompt": "short"}
STEPS = [
    {"name": "eval", "command": "eval chair",
     "options": {"objects": "{place}/objects.json", "answers": ["{place}/{style}-{seed}.jsonl"],
                 "prompt": "{prompt}"}},
    {"name": "start", "command": "eval chair",
     "options": {"objects": "{place}/objects.json", "answers": ["{place}/start.jsonl"]}},
]  # fmt: skip
OUTCOME = {"evaluations": ["eval"], "metric": "chair/chair_s", "difference": 0.3, "start": "start"}


def answers(path: Path, invented: int) -> None:
    """Answers of which the first so many invent a cat."""
    rows = [
        {"image_id": str(n), "answer": "A dog and a cat." if n < invented else "A dog."}
        for n in range(IMAGES)
    ]
    write_jsonl(path, rows)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of two styles with two seeds; evaluations in this process, to save time."""
    light = (*commands.LIGHT, "eval chair", "eval pope")
    monkeypatch.setattr("veridical.study.running.LIGHT", light)
    write_json(tmp_path / "objects.json", {str(n): ["dog"] for n in range(IMAGES)})
    for name, invented in (("start", 9), ("plain-0", 8), ("plain-1", 9), ("good-0", 0),
                           ("good-1", 1)):  # fmt: skip
        answers(tmp_path / f"{name}.jsonl", invented)
    return tmp_path


def study(place: Path, **fields: Any) -> str:
    content = {
        "question": "Does style matter?", "values": {"place": str(place)}, "seeds": 2,
        "factors": FACTORS, "arms": {"one_at_a_time": {"style": ["good"]}}, "steps": STEPS,
        "outcome": OUTCOME, **fields,
    }  # fmt: skip
    (place / "style.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(place / "style.yaml")


def run(*words: str | Path) -> int:
    return cli.main(["study", *map(str, words)])


def test_a_study_from_its_file_to_its_report(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = study(place), place / "out"
    assert run("plan", file, "--out", out, "--price", "2") == 0
    assert "2 arms, 2 seeds: 5 steps, 0 done, 5 to do." in capsys.readouterr().out
    assert run("run", file, "--out", out) == 0
    assert f"Open {out / 'report.html'}" in capsys.readouterr().out
    found = read_json(out / "study.json")
    (effect,) = found["effects"]
    # Of 12 answers 8 and 9 invent, against 0 and 1: 2/3 less with either seed.
    assert (effect["arm"], effect["baseline"], effect["seeds"]) == ("style=good", "base", 2)
    assert effect["value"] == pytest.approx(-8 / 12)
    assert effect["conclusion"] == "better"
    assert {row["arm"]: row["value"] for row in found["from_start"]} != {}
    page = (out / "report.html").read_text()
    assert "style=good is better than base" in page and "Does style matter?" in page
    assert run("plan", file, "--out", out) == 0
    assert "5 done, 0 to do" in capsys.readouterr().out
    assert run("status", file, "--out", out) == 0
    said = capsys.readouterr().out
    assert "eval   4 done" in said and "does not run now" in said


def test_a_grid_tells_how_much_two_changes_do_together(place: Path) -> None:
    """By chair_s: 8, 4, 6 and 0 of 12 with the first seed, one more with the second.

    Both changes: -8; alone -4 and -2; so together -2 more than the sum.
    """
    counts = {("plain", "day"): 8, ("good", "day"): 4, ("plain", "night"): 6, ("good", "night"): 0}
    for (style, time), invented in counts.items():
        for seed in range(2):
            answers(place / f"{style}-{time}-{seed}.jsonl", invented + seed)
    step = {"name": "eval", "command": "eval chair",
            "options": {"objects": "{place}/objects.json",
                        "answers": ["{place}/{style}-{time}-{seed}.jsonl"]}}  # fmt: skip
    file = study(
        place, steps=[step, STEPS[1]], factors={"style": "plain", "time": "day"},
        arms={"grid": {"style": ["plain", "good"], "time": ["day", "night"]}},
    )  # fmt: skip
    assert run("run", file, "--out", place / "out") == 0
    found = read_json(place / "out" / "study.json")
    (both,) = found["interactions"]
    assert both["value"] == pytest.approx(-2 / 12)
    assert both["low"] < both["value"] < both["high"]
    values = {effect["arm"]: effect["value"] for effect in found["effects"]}
    assert values == {
        "style=good,time=day": pytest.approx(-4 / 12),
        "style=plain,time=night": pytest.approx(-2 / 12),
        "style=good,time=night": pytest.approx(-8 / 12),
    }
    assert all(effect["p_holm"] >= effect["p"] for effect in found["effects"])
    assert "style \N{MULTIPLICATION SIGN} time" in (place / "out" / "report.html").read_text()


def test_only_the_arm_that_changed_is_made_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = study(place), place / "out"
    assert run("run", file, "--out", out) == 0
    answers(place / "good-1.jsonl", 12)
    assert run("report", file, "--out", out) == 0
    (effect,) = read_json(out / "study.json")["effects"]
    assert effect["seeds"] == 1  # the step of the answers that changed is left out
    said = (out / "report.html").read_text()
    assert "1 of 5 steps are not finished. 1 of these was made with other options" in said
    capsys.readouterr()
    assert run("run", file, "--out", out) == 0
    said = capsys.readouterr().out
    assert said.count("here already") == 4 and "eval/style=good/seed1: done" in said
    (effect,) = read_json(out / "study.json")["effects"]
    assert effect["value"] == pytest.approx((0 + 12 - 8 - 9) / 24)
    assert effect["conclusion"] == "open"


def test_results_stay_in_the_report_when_what_they_read_is_gone(place: Path) -> None:
    """As trained models that were removed to make room."""
    scenes = {"name": "scenes", "command": "world make", "options": {"count": 1}}
    read = yaml.safe_load(yaml.safe_dump(STEPS[0]))
    read["options"]["vocabulary"] = "{scenes}/vocabulary.json"
    file, out = study(place, steps=[scenes, read, STEPS[1]]), place / "out"
    assert run("run", file, "--out", out) == 0
    before = read_json(out / "study.json")
    shutil.rmtree(out / "steps" / "scenes")
    assert run("report", file, "--out", out) == 0
    assert read_json(out / "study.json") == before
    said = (out / "report.html").read_text()
    assert "1 of 6 steps are not finished. <" in said and "other options" not in said


def test_what_a_metric_of_a_group_can_show_is_of_the_group_alone() -> None:
    pope = find_benchmark("pope")

    def rows(wrong: int, splits: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {"image_id": str(n), "split": split, "label": "yes", "parsed":
             "no" if n < wrong + (split == "random") else "yes"}
            for n in range(8) for split in splits
        ]  # fmt: skip

    def shown(metric: str, splits: tuple[str, ...]) -> dict[str, float]:
        named = Outcome(("eval",), f"pope/{metric}", 0.1, 0.8, "", ("base",))
        ours, theirs = ([rows(n + one, splits) for n in (0, 2)] for one in (1, 3))
        return _detectable(pope, ours, theirs, named, 1)

    (alone,) = shown("accuracy", ("popular",)).values()
    assert shown("popular/accuracy", ("popular", "random")) == {"popular/accuracy": alone}
    assert shown("accuracy", ("popular", "random")) != {"accuracy": alone}


def test_the_primary_metric_is_found_behind_another_evaluation(place: Path) -> None:
    """The first evaluation has scores of its own, of another benchmark."""
    write_jsonl(place / "questions.jsonl", [
        {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog?", "label": "yes"}
        for n in range(4)])  # fmt: skip
    write_jsonl(place / "yes.jsonl", [{"question_id": n, "answer": "Yes."} for n in range(4)])
    asked = {"name": "asked", "command": "eval pope",
             "options": {"questions": "{place}/questions.jsonl",
                         "answers": ["{place}/yes.jsonl"]}}  # fmt: skip
    outcome = {**OUTCOME, "evaluations": ["asked", "eval"]}
    file = study(place, steps=[*STEPS, asked], outcome=outcome)
    assert run("run", file, "--out", place / "out") == 0
    (effect,) = read_json(place / "out" / "study.json")["effects"]
    assert effect["value"] == pytest.approx(-8 / 12)


def test_a_failed_step_leaves_the_rest_and_is_told_at_the_end(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "bad-0.jsonl").write_text('{"image_id": "0"}\n')
    answers(place / "bad-1.jsonl", 3)
    file = study(place, arms={"list": {"bad": {"style": "bad"}, "good": {"style": "good"}}})
    assert run("run", file, "--out", place / "out") == 2
    said = capsys.readouterr()
    assert "eval/style=bad/seed0 failed: " in said.err and "The report shows what" in said.err
    effects = {row["arm"]: row for row in read_json(place / "out" / "study.json")["effects"]}
    assert effects["bad"]["seeds"] == 1 and effects["good"]["seeds"] == 2
    assert "Steps that failed" in (place / "out" / "report.html").read_text()
    assert run("status", file, "--out", place / "out") == 0
    assert "eval   5 done, 1 failed" in capsys.readouterr().out
    # One planned comparison instead of two: so smaller differences can be seen.
    file = study(place, arms={"list": {"good": {"style": "good"}}})
    assert run("report", file, "--out", place / "out") == 0
    (alone,) = read_json(place / "out" / "study.json")["effects"]
    assert 0 < alone["detectable"] < effects["good"]["detectable"]


def test_tuning_chooses_on_development_data_and_the_rest_follows(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either arm is tried in both styles; chair_s is lower for `good`, so both arms get it."""
    dev = {**STEPS[0], "name": "dev"}
    tuning = {"settings": [{"style": "plain"}, {"style": "good"}], "evaluation": "dev",
              "metric": "chair/chair_s"}  # fmt: skip
    file = study(
        place, steps=[*STEPS, dev], tuning=tuning,
        arms={"one_at_a_time": {"prompt": ["long"]}},
    )  # fmt: skip
    assert run("plan", file, "--out", place / "out") == 0
    assert "Tuning comes first" in capsys.readouterr().out
    assert run("run", file, "--out", place / "out") == 0
    tried = read_json(place / "out" / "tuning.json")
    assert [(row["arm"], row["setting"]["style"], row["chosen"]) for row in tried] == [
        ("base", "plain", False), ("base", "good", True),
        ("prompt=long", "plain", False), ("prompt=long", "good", True),
    ]  # fmt: skip
    names = set(read_json(place / "out" / "steps.json"))
    assert "eval/style=good/seed1" in names and "eval/base/seed1" not in names


def test_code_that_changed_makes_a_step_anew_unless_it_is_accepted(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = study(place), place / "out"
    assert run("run", file, "--out", out) == 0
    monkeypatch.setattr("veridical.study.laying_out.code_hash", lambda command: "other")
    capsys.readouterr()
    assert run("run", file, "--out", out, "--accept-code", "true") == 0
    assert capsys.readouterr().out.count("here already") == 5
    answers(place / "good-1.jsonl", 12)
    assert run("run", file, "--out", out, "--accept-code", "true") == 0
    codes = {name: state["code"] for name, state in read_json(out / "steps.json").items()}
    made_anew = [name for name, code in codes.items() if code == "other"]
    assert made_anew == ["eval/style=good/seed1"]
    assert run("run", file, "--out", out, "--accept-code", "true") == 0
    assert capsys.readouterr().out.count("here already") == 4 + 5
    assert run("run", file, "--out", out) == 0
    assert capsys.readouterr().out.count("here already") == 1


def test_builds_are_shared_out_where_their_command_can(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veridical.study.keys import Keys
    from veridical.study.plan import Plan, Step
    from veridical.study.step_jobs import Executing, shards_of

    build = Step("pairs", "build bdhs", {"model": "embedded", "data": "x", "out": "o"})
    rated = Step("rated", "build rate", {"samples": "x", "out": "p"})
    best = Step("best", "build best", {"samples": "x", "out": "q"})
    plan = Plan(place, (build, rated, best))
    runner = Runner(
        plan, Keys(plan, {"pairs": (), "rated": (), "best": ()}), Executing(place, shards=3)
    )
    assert [job.call[-2:] for job in runner._jobs(build, shards_of(runner.how, build, 1, 1))] == [
        ("--shard", "1/3"), ("--shard", "2/3"), ("--shard", "3/3"),
    ]  # fmt: skip
    assert [shards_of(runner.how, step, 1, 1) for step in (rated, best)] == [3, 1]
    idle = Executing(place, workers=8, shards=None)
    assert [shards_of(idle, build, 8, ready) for ready in (1, 3, 8, 9)] == [8, 2, 1, 1]
    assert [shards_of(idle, build, 0, 1), shards_of(idle, best, 8, 1)] == [1, 1]


def test_a_study_that_another_machine_may_run_is_left_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = study(place), place / "out"
    assert run("run", file, "--out", out) == 0
    record = read_json(out / "run.json")
    record |= {"status": "running", "process": {**record["process"], "host": "elsewhere"}}
    write_json(out / "run.json", record)
    assert run("run", file, "--out", out) == 2
    assert "started on elsewhere and not ended there" in capsys.readouterr().err
    assert run("status", file, "--out", out) == 0
    assert "The command was started on elsewhere" in capsys.readouterr().out
    assert run("run", file, "--out", out, "--forget", "true") == 0


def test_trials_and_arms_with_one_name_for_two_steps_are_refused(place: Path) -> None:
    laid = lay_out(find_study(study(place)), place / "out")
    one = next(iter(laid.expansion.steps.values()))
    trials = Expansion(laid.study, laid.out, {one.name: dataclasses.replace(one, command="other")})
    with pytest.raises(UserError, match="would be the name of two steps"):
        dataclasses.replace(laid, trials=trials).plan  # noqa: B018
