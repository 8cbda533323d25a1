"""Study files: arms, shared steps, alternatives, tuning, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from veridical.runtime.errors import UserError
from veridical.study.commands import check_steps
from veridical.study.expanding import Cell, expand
from veridical.study.laying_out import lay_out, one_of_each
from veridical.study.stage_code import code_hash, reached
from veridical.study.study_file import Study, find_study, read_study, study_names

STEPS: list[dict[str, Any]] = [
    {"name": "scenes", "command": "world make", "options": {"seed": "{seed+100}"}},
    {"name": "test", "command": "world make", "options": {"seed": 7}},
    {"name": "pairs", "command": "build bdhs",
     "options": {"model": "embedded", "data": "{scenes}/c.jsonl", "variant": "{variant}"}},
    {"name": "train", "command": "train dpo", "when": {"method": "dpo"},
     "options": {"data": "{pairs}/pairs.parquet", "beta": "{beta}"}},
    {"name": "train", "command": "train sft", "when": {"method": ["sft"]},
     "options": {"data": "{pairs}/pairs.parquet", "kind": "preference"}},
    {"name": "eval", "command": "eval chair",
     "options": {"model": "{train}/model", "images": "{test}/images", "cache": None}},
    {"name": "dev", "command": "eval chair",
     "options": {"model": "{train}/model", "images": "{test}/images", "limit": 5}},
]  # fmt: skip
OUTCOME = {"evaluations": ["eval"], "metric": "chair/chair_i", "difference": 0.02}
TUNING = {"settings": [{"beta": 1}], "evaluation": "dev", "metric": "chair/chair_i"}
FACTORS = {"variant": "mask", "method": "dpo", "beta": 0.1}


def write(tmp_path: Path, **fields: object) -> Path:
    content = {"factors": FACTORS, "steps": STEPS, "outcome": OUTCOME, "seeds": 2, **fields}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def read(tmp_path: Path, **fields: object) -> Study:
    return read_study(write(tmp_path, **fields))


def test_arms_of_a_list_one_at_a_time_and_a_grid(tmp_path: Path) -> None:
    arms = {
        "list": {"control": {"method": "sft"}},
        "one_at_a_time": {"variant": ["noise"]},
        "grid": {"beta": [0.1, 0.3], "method": ["dpo", "sft"]},
    }
    with pytest.raises(UserError, match=r"arm beta=0.1,method=sft is the same as arm control"):
        read(tmp_path, arms=arms)
    del arms["list"]
    study = read(tmp_path, arms=arms, base="first")
    assert study.arms == {
        "first": {}, "variant=noise": {"variant": "noise"},
        "beta=0.1,method=sft": {"method": "sft"}, "beta=0.3,method=dpo": {"beta": 0.3},
        "beta=0.3,method=sft": {"beta": 0.3, "method": "sft"},
    }  # fmt: skip
    assert study.levels("variant=noise") == {"variant": "noise", "method": "dpo", "beta": 0.1}


def test_what_arms_have_in_common_is_one_step(tmp_path: Path) -> None:
    """Scenes by seed, one test set, pairs by variant and seed, trainings by what they depend on."""
    arms = {"list": {"sft": {"method": "sft"}}, "one_at_a_time": {"variant": ["noise"]}}
    laid = lay_out(read(tmp_path, arms=arms), tmp_path / "out")
    names = {name for name in laid.expansion.steps if not name.startswith(("eval", "dev"))}
    assert names == {
        "scenes/seed0", "scenes/seed1", "test",
        "pairs/base/seed0", "pairs/base/seed1", "pairs/variant=noise/seed0",
        "pairs/variant=noise/seed1",
        *(f"train/{arm}/seed{n}" for arm in ("base", "method=sft", "variant=noise")
          for n in (0, 1)),
    }  # fmt: skip
    train = laid.expansion.step(laid.cells[2], "train")
    assert train is not None and train.command == "train sft"
    pairs = laid.expansion.steps["pairs/base/seed0"].output
    assert train.options == {
        "data": f"{pairs}/pairs.parquet", "kind": "preference", "out": str(train.output),
    }  # fmt: skip
    assert laid.expansion.steps["scenes/seed1"].options["seed"] == 101
    assert "cache" not in laid.expansion.steps["eval/base/seed0"].options


def test_a_level_may_be_what_a_step_writes(tmp_path: Path) -> None:
    """An arm that learns from the scenes alone waits for no pairs."""
    rows = [{**row, "options": {**row["options"], "data": "{data}"}}
            if row["name"] == "train" else row for row in STEPS]  # fmt: skip
    factors = {**FACTORS, "data": "{pairs}/pairs.parquet"}
    arms = {"list": {"true": {"data": "{scenes}/c.jsonl", "method": "sft"}}}
    study = read(tmp_path, steps=rows, factors=factors, arms=arms)
    one = expand(study, tmp_path, [Cell("true", 0, study.levels("true"))])
    step = one.step(Cell("true", 0, {}), "train")
    assert step is not None
    assert step.options["data"] == str(tmp_path / "steps" / "scenes" / "seed0" / "c.jsonl")
    assert "/seed0" in step.name and "/" not in step.name.split("/")[1]


def test_what_levels_values_and_defaults_name_tells_steps_apart(tmp_path: Path) -> None:
    """A seed inside a level or a value, and a factor in `defaults`, give each cell its own step."""
    rows = [{"name": "eval", "command": "train dpo",
             "options": {"data": "{data}", "model": "{model}"}}]  # fmt: skip
    study = read(
        tmp_path, steps=rows, factors={"data": "d/{variant}-{seed}.parquet", "variant": "mask",
        "beta": 0.1}, values={"model": "m/{seed}"}, defaults={"train dpo": {"beta": "{beta}"}},
        arms={"one_at_a_time": {"beta": [0.5], "variant": ["noise"]}},
    )  # fmt: skip
    laid = lay_out(study, tmp_path / "out")
    found = {tuple(step.options[key] for key in ("data", "model", "beta"))
             for step in laid.expansion.steps.values()}  # fmt: skip
    assert found == {
        (f"d/{variant}-{seed}.parquet", f"m/{seed}", beta)
        for variant, beta in (("mask", 0.1), ("mask", 0.5), ("noise", 0.1)) for seed in (0, 1)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("factors", "arms", "said"),
    [
        ({"beta": 0.1}, {"beta": [0.30000001, 0.30000002]}, r"name of two steps"),
        ({"beta": "{beta}"}, {}, r"\{beta\} contains itself"),
        ({"beta": "x{data}", "data": None}, {}, r"'x\{data\}' needs a value for .* null in arm"),
    ],
)
def test_levels_that_one_name_or_none_can_hold_are_refused(
    tmp_path: Path, factors: dict[str, Any], arms: dict[str, Any], said: str
) -> None:
    rows = [{"name": "eval", "command": "train dpo", "options": {"beta": "{beta}"}}]
    arms = {"list": {f"arm{n}": {"beta": beta} for n, beta in enumerate(arms.get("beta", []))}}
    study = read(tmp_path, steps=rows, factors=factors, arms=arms)
    with pytest.raises(UserError, match=said):
        lay_out(study, tmp_path / "out")


def test_the_arm_that_others_are_compared_with_may_stand_alone(tmp_path: Path) -> None:
    study = read(
        tmp_path, outcome={**OUTCOME, "against": "base"}, defaults={"train dpo": {"a-b": 1}}
    )
    assert study.outcome.against == ("base",)
    assert study.defaults == {"train dpo": {"a_b": 1}}  # as the options of steps are named


def test_tuning_tries_every_arm_at_the_same_budget_and_stands_for_it_until_then(
    tmp_path: Path,
) -> None:
    tuning = {"settings": [{"beta": 0.1}, {"beta": 0.3}], "evaluation": "dev",
              "metric": "chair/chair_i", "same_as": {"variant=noise": "base"}}  # fmt: skip
    arms = {"one_at_a_time": {"variant": ["noise"], "method": ["sft"]}}
    laid = lay_out(read(tmp_path, arms=arms, tuning=tuning), tmp_path / "out")
    assert {arm: len(names) for arm, names in laid.evaluations.items()} == {
        "base": 2, "method=sft": 1 + 1,
    }  # fmt: skip
    assert not laid.known
    assert "train/beta=0.3/seed0" in laid.trials.steps
    assert not any(name.startswith("dev") for name in laid.expansion.steps)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": []}, "it has to have `steps`"),
        ({"step": []}, "no field step of a study; there is question"),
        ({"seeds": 0}, "seeds has to be a number above 0"),
        ({"seeds": [1, 1]}, "list of different numbers"),
        ({"arms": {"list": {"a": {"color": 1}}}}, "arm a changes color, which is not a factor"),
        ({"arms": {"list": {"a/b": {"beta": 1}}}}, "the arm's name 'a/b'"),
        ({"arms": {"list": {"a": {"beta": 0.1}}}}, "arm a is the same as arm base"),
        ({"arms": {"grid": {"beta": 0.1}}}, "levels of beta have to be a list"),
        ({"outcome": {**OUTCOME, "evaluations": ["x"]}}, "there is no step x"),
        ({"outcome": {**OUTCOME, "metric": "chair_i"}}, "of the form chair/chair_i"),
        ({"outcome": {**OUTCOME, "metric": "chair/none"}}, "outcome.metric: chair has no metric"),
        ({"outcome": {**OUTCOME, "metric": "chair/x/chair_i"}}, "chair scores no groups"),
        ({"outcome": {**OUTCOME, "metric": "amber/x/chair"}}, "has no metric chair of x"),
        ({"outcome": {**OUTCOME, "metric": "pope/f1"}}, "no step that evaluates gives pope"),
        ({"outcome": {**OUTCOME, "metric": "pope/auc"}}, "no difference over several seeds"),
        (
            {"tuning": {"settings": [{"beta": 1}], "evaluation": "dev", "metric": "pope/f1"}},
            "tuning.metric: no step that evaluates gives pope",
        ),
        (
            {
                "tuning": {
                    "settings": [{"beta": 1}],
                    "evaluation": "dev",
                    "metric": "chair/mean_length",
                }
            },
            "has no better direction",
        ),
        ({"outcome": {**OUTCOME, "difference": 0}}, "outcome.difference has to be between 0"),
        ({"outcome": {**OUTCOME, "against": ["x"]}}, "list of arms, and 'x' is none"),
        ({"outcome": {**OUTCOME, "against": [["base"]]}}, r"and \['base'\] is none"),
        ({"outcome": {**OUTCOME, "against": ["base", "base"]}}, "against has base twice"),
        ({"outcome": {**OUTCOME, "against": 1}}, "against has to be a list of arms"),
        ({"seeds": 10**9}, "1,000,000,000 seeds are too many"),
        ({"seeds": 19_000, "arms": {"list": {"a": {"beta": 1}}}}, "2 arms with 19,000 seeds"),
        ({"arms": {"grid": {"beta": [*range(99)], "method": [*range(99)]}}}, "9,801 arms is too"),
        ({"base": "../x"}, "the base arm's name '../x'"),
        ({"arms": {"list": {"a" * 101: {"beta": 1}}}}, "has 101 letters; 100 are the most"),
        ({"defaults": {"train dpo": 5}}, "options of defaults for train dpo has to be a mapping"),
        ({"defaults": {"train dp": {}}}, "defaults: there is no command 'train dp'"),
        ({"defaults": {"train dpo": {"out": "x"}}}, "defaults for train dpo names its out"),
        ({"defaults": {"train dpo": {"a-b": 1, "a_b": 2}}}, "has one twice, with - and with _"),
        (
            {"factors": {**FACTORS, "beta": [1]}, "tuning": {"by": "beta", "settings": {1: [{}]}}},
            r"settings has none for beta = \[1\]",
        ),
        ({"tuning": {**TUNING, "seed": 0.5}}, "tuning.seed has to be a whole number"),
        ({"tuning": {**TUNING, "same_as": {"base": ["base"]}}}, "tuning.same_as: base and"),
        ({"steps": [{"name": "a", "command": "report", "options": {"out": "x"}}]}, "itself where"),
        ({"steps": [{"name": "a b", "command": "report"}]}, "name of letters, digits and _"),
        ({"steps": [{"name": "beta", "command": "report"}]}, "beta is the name of two of"),
        ({"steps": STEPS[:2]}, "there is no step eval"),
        ({"values": {"beta": 1}}, "beta is the name of two of"),
        ({"tuning": {"settings": {"dpo": [{}], "sft": [{}, {}]}, "by": "method"}}, "equal budget"),
        ({"tuning": {"settings": [{"rate": 1}]}}, "tuning.settings: rate is not a factor"),
        ({"tuning": {"settings": [{"beta": 1}], "evaluation": "no"}}, "tuning.evaluation has to"),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    tmp_path: Path, fields: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, **fields)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"name": "a", "command": "report", "options": {"runs": "{none}"}}, "there is no {none}"),
        ({"name": "a", "command": "report", "options": {"runs": "{a}"}}, "wait for each other"),
        ({"name": "eval", "command": "eval pope"}, "arm base has 2 steps eval"),
        ({"name": "a", "command": "x", "options": {"n": "{variant+1}"}}, "variant is not a number"),
    ],
)
def test_steps_that_can_not_be_laid_out_are_refused(
    tmp_path: Path, row: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        lay_out(read(tmp_path, steps=[*STEPS, row]), tmp_path)


LONG = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", [*study_names(), *map(str, LONG)])
def test_every_step_of_a_study_that_ships_is_a_command_that_takes_it(name: str) -> None:
    plan = lay_out(find_study(name), Path("runs/x")).plan
    check_steps(plan, one_of_each(plan))


def test_the_code_behind_a_command_is_what_it_imports() -> None:
    """A training's hash changes with the models' room, and not with another stage."""
    found = reached("train dpo")
    assert {"veridical.models.load", "veridical.objectives.dpo"} <= found
    assert not any(name.startswith(("veridical.eval", "veridical.builders")) for name in found)
    assert "veridical.eval.chair" in reached("eval")
    assert len(code_hash("train dpo")) == 16
