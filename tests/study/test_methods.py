"""The comparison of methods: what is chosen, what is kept, and a small one from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from veridical.eval.chair import BENCHMARK
from veridical.eval.scores import write_scores
from veridical.runtime.files import read_json, read_jsonl
from veridical.scoring.statistics import Estimate
from veridical.study import fresh_methods, methods
from veridical.study.arms import Budget, ensure_evaluated, ensure_scenes
from veridical.study.fresh_methods import make_samples_and_rewards, train_fresh
from veridical.study.method_list import IPO_PER_TOKEN, METHODS, STEER, UNSTEERED, Method, Trial
from veridical.study.method_sets import data_file, make_bdhs_and_plain, make_samples
from veridical.study.methods import (
    arm_key,
    choose_trial,
    hacking_table,
    methods_table,
    run_method,
    run_trial,
    summarize_methods,
)

TINY = Budget(pairs=8, steps=2, batch=4, scenes=6)


def by_name(name: str) -> Method:
    return next(method for method in METHODS if method.name == name)


def test_every_method_has_the_same_budget_of_trials() -> None:
    assert all(len(set(method.trials)) == 3 for method in METHODS)
    assert len({method.name for method in METHODS}) == len(METHODS) == 20


def test_the_trial_with_the_best_score_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "METHODS", (by_name("bdhs"),))
    for number, score in enumerate((0.1, 0.3, -0.2)):
        write_scores(
            tmp_path / "trials" / f"bdhs-{number}" / "eval" / "chair",
            BENCHMARK,
            {
                "exact_score": Estimate(score, None, None, 4, 4),
                "chair_i": Estimate(0.1, 0, 1, 4, 4),
            },
        )
    assert choose_trial(tmp_path) == {"bdhs": 1}
    told = read_json(tmp_path / "tuning.json")
    assert [trial["exact_score"] for trial in told["trials"]["bdhs"]] == [0.1, 0.3, -0.2]


def test_with_a_reward_model_the_setting_is_that_of_the_exact_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = [method for method in METHODS if method.tuned_as]
    assert [method.name for method in proxies] == ["online-reward", "ppo-reward", "ppo-facts"]
    for method in proxies:
        assert method.trials == by_name(method.tuned_as).trials
    monkeypatch.setattr(methods, "METHODS", (by_name("ppo"), *proxies[1:]))
    for number, score in enumerate((0.1, 0.3, 0.4)):
        write_scores(
            tmp_path / "trials" / f"ppo-{number}" / "eval" / "chair",
            BENCHMARK,
            {
                "exact_score": Estimate(score, None, None, 4, 4),
                "chair_i": Estimate(0.1, 0, 1, 4, 4),
            },
        )
    assert choose_trial(tmp_path) == {"ppo": 2, "ppo-reward": 2, "ppo-facts": 2}


def test_what_an_arm_depends_on_is_in_its_key(tmp_path: Path) -> None:
    method = by_name("bdhs")
    file = data_file(tmp_path, 0, "bdhs")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"pairs")

    def key(changed: Method, trial: Trial, budget: Budget) -> str:
        return arm_key(tmp_path, "embedded", changed, trial, 0, budget)

    first = key(method, method.trials[0], TINY)
    assert first == key(method, method.trials[0], TINY)
    assert first == key(replace(method, label="another"), method.trials[0], TINY)
    others = {
        key(method, method.trials[1], TINY),
        key(replace(method, objective=IPO_PER_TOKEN), method.trials[0], TINY),
        key(method, method.trials[0], replace(TINY, steps=3)),
    }
    file.write_bytes(b"other pairs")
    others.add(key(method, method.trials[0], TINY))
    assert len(others - {first}) == 4


def test_a_small_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(by_name(name) for name in ("rejection", "steerlm", "averaged"))
    monkeypatch.setattr(methods, "METHODS", few)
    monkeypatch.setattr(
        methods, "LABELS", {"base": "base", UNSTEERED: "", **{m.name: m.label for m in few}}
    )
    for name, count, seed in (("eval_scenes", TINY.scenes, 1), ("dev_scenes", 4, 2)):
        ensure_scenes(tmp_path / "data" / name, "counter", count, seed)
    ensure_scenes(tmp_path / "seed0" / "scenes", "prior", TINY.pairs, 3)
    ensure_evaluated("embedded", tmp_path / "data" / "eval_scenes", tmp_path / "eval" / "base")
    make_samples(tmp_path, "embedded", 0, TINY)
    make_bdhs_and_plain(tmp_path, "embedded", 0, TINY)
    for method in few:
        run_trial(tmp_path, "embedded", method, 1, TINY)
        run_method(tmp_path, "embedded", method, 1, 0, TINY)
    chosen = {method.name: 1 for method in few}
    summary = summarize_methods(tmp_path, [0], chosen)
    names = [arm["name"] for arm in summary["arms"]]
    assert names == ["base", "rejection", "steerlm", UNSTEERED, "averaged"]
    assert {row["arm"] for row in summary["differences"]} == set(names[1:])
    lines = methods_table(summary).splitlines()
    assert len(lines) == 2 + len(names)
    # What was trained as a trial is taken over, not trained again.
    again = read_json(tmp_path / "seed0" / "train" / "averaged" / "run.json")
    assert again == read_json(tmp_path / "trials" / "averaged-1" / "train" / "run.json")
    answers = tmp_path / "seed0" / "eval"
    steered, plain = (
        read_json(answers / name / "chair" / "run.json")["configuration"]["steer"]
        for name in ("steerlm", UNSTEERED)
    )
    assert (steered, plain) == (STEER, None)


def test_reward_against_truth_is_told_of_reinforcement_learning_alone() -> None:
    truth = [0.7, 0.6, -3.2]
    proxy = {"reward": [0.0, 0.5, 9.0], "judge_score": [1.0, 1.2, 9.0], "exact_score": truth}
    rest = {"response_tokens": [30.0, 40.0, 5.0], "kl_k1": [0.0, 6.0, 7.0]}
    arms = [
        {"name": "bdhs", "seed": 0, "watched": {}},
        {"name": "ppo-reward", "seed": 1, "watched": {**proxy, **rest}},
    ]
    *_, last = hacking_table({"arms": arms}).splitlines()
    assert last == (
        "| PPO, reward model | 1 | 0.00 to 0.50 (+9.0 SE) | 0.700 to 0.600 (-3.2 SE) | "
        "30.0 to 40.0 (+5.0 SE) | 0.0 to 6.0 (+7.0 SE) |"
    )
    assert len(hacking_table({"arms": arms}).splitlines()) == 3


def test_the_page_quotes_what_was_found() -> None:
    folder = Path(__file__).parents[2] / "docs"
    summary = read_json(folder / "methods" / "summary.json")
    page = (folder / "methods.md").read_text(encoding="utf-8")
    assert methods_table(summary) in page
    assert hacking_table(summary) in page
    assert {arm.get("seed") for arm in summary["arms"]} == {None, 0, 1, 2}


@pytest.mark.slow
def test_a_few_steps_of_every_fresh_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_methods, "REWARD_STEPS", 2)
    ensure_scenes(tmp_path / "seed0" / "scenes", "prior", TINY.pairs, 6_000)
    make_samples_and_rewards(tmp_path, "embedded", 0, TINY)
    make_bdhs_and_plain(tmp_path, "embedded", 0, TINY)
    for method in METHODS:
        if method.fresh is None:
            continue
        folder, trial = tmp_path / method.name, method.trials[0]
        arm_key(tmp_path, "embedded", method, trial, 0, TINY)
        train_fresh(
            tmp_path, "embedded", method.fresh, trial.learning_rate, trial.beta, 0, TINY, folder
        )
        (*_, last) = read_jsonl(folder / "log.jsonl")
        assert last["step"] == TINY.steps
        if method.fresh.command != "online":
            # Truth watches, whoever rewards.
            assert ("exact_score" in last) == (method.fresh.judge != "exact")
        assert (folder / "model" / "model.safetensors").is_file()
