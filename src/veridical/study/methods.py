"""Every method from the same base, on the same scenes, at the same budget."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from veridical.eval.scores import read_scores
from veridical.objectives.likelihood import Likelihood
from veridical.report.hacking import movement
from veridical.report.page import write_report
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_path, read_json, read_jsonl, write_json
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.options import options_of
from veridical.runtime.progress import track
from veridical.study.arms import (
    Budget,
    begin_study,
    changes_from_base,
    differences_of,
    ensure_evaluated,
    ensure_scenes,
    evaluated_by,
    is_finished,
    mean_score,
    scores_by_benchmark,
    trained_model,
    training_of,
)
from veridical.study.fresh_methods import learned_from, make_samples_and_rewards, train_fresh
from veridical.study.method_list import (
    LABELS,
    METHODS,
    STEER,
    TUNING_SEED,
    UNSTEERED,
    Method,
    Trial,
)
from veridical.study.method_sets import (
    data_file,
    make_bdhs_and_plain,
    make_noise,
    make_unguided,
    scenes_of,
)
from veridical.study.workers import Job, run_jobs
from veridical.train.dpo import train_dpo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

# Used for no choice: not of the model, nor of a setting.
EVALUATION_SEED = 60_221
# What every method's setting is chosen on, and nothing else.
DEVELOPMENT_SEED = 8_314
DEVELOPMENT_SCENES = 300
PAIR_SEED = 6_000


def methods(
    out: Path = Path("runs/methods"),
    model: str = "embedded",
    seeds: int = 3,
    workers: int = 2,
) -> None:
    """Compare every method, from the same base and at the same budget.

    All learn from the same scenes, for the same number of steps in batches of the same size. Each
    method is tried in three settings on development scenes, and the one with the best mean score of
    the exact judge is taken; with a reward model, the one that was best with the exact judge. All
    are evaluated on the same fresh scenes. A seed changes the scenes learned from, all sampling,
    and the order of training. What is finished is not made again, unless what it depends on has
    changed.

    Args:
        out: folder to write; a comparison that was interrupted there goes on.
        model: the model to start from.
        seeds: how many seeds.
        workers: processes at once, one thread each.
    """
    options = {"out": out, "model": model, "seeds": seeds, "workers": workers}
    budget = Budget()
    began = time.monotonic()
    with begin_study(out, "methods", {**options, "budget": asdict(budget)}) as run:
        ensure_scenes(out / "data" / "eval_scenes", "counter", budget.scenes, EVALUATION_SEED)
        ensure_scenes(out / "data" / "dev_scenes", "counter", DEVELOPMENT_SCENES, DEVELOPMENT_SEED)
        _run_all("data sets", _data_jobs(out, model, range(seeds), budget), out, workers)
        _run_all("trials", _trial_jobs(out, model, budget), out, workers)
        chosen = choose_trial(out)
        _run_all("methods", _method_jobs(out, model, range(seeds), chosen, budget), out, workers)
        summary = summarize_methods(out, range(seeds), chosen)
        write_json(out / "summary.json", summary)
        run.finish(seconds=round(time.monotonic() - began, 1))
        page = write_report([out])
    print(methods_table(summary), hacking_table(summary), sep="\n\n")
    print(f"Done in {time.monotonic() - began:.0f} seconds. Open {page}")


def _run_all(label: str, jobs: Sequence[Job], out: Path, workers: int) -> None:
    for _ in track(run_jobs(jobs, out / "logs", workers), label, len(jobs)):
        pass


def _data_jobs(out: Path, model: str, seeds: Sequence[int], budget: Budget) -> list[Job]:
    jobs = [Job("base", ensure_evaluated, (model, out / "data/eval_scenes", out / "eval/base"))]
    for seed in seeds:
        # Scenes first, here: the jobs of a seed share them.
        ensure_scenes(scenes_of(out, seed), "prior", budget.pairs, PAIR_SEED + seed)
        for function in (make_samples_and_rewards, make_noise, make_bdhs_and_plain, make_unguided):
            jobs.append(
                Job(f"seed{seed}-{function.__name__}", function, (out, model, seed, budget))
            )
    return jobs


def _trial_jobs(out: Path, model: str, budget: Budget) -> list[Job]:
    return [
        Job(f"trial-{method.name}-{number}", run_trial, (out, model, method, number, budget))
        for method in METHODS
        for number in range(len(method.trials))
        if not method.tuned_as
    ]


def run_trial(out: Path, model: str, method: Method, number: int, budget: Budget) -> None:
    """Train with one setting, and evaluate on the development scenes."""
    folder = out / "trials" / f"{method.name}-{number}"
    trial = method.trials[number]
    key = arm_key(out, model, method, trial, TUNING_SEED, budget)
    _forget_unless(folder / "key.json", key, [folder / "train", folder / "eval"])
    ensure_method_trained(out, model, method, trial, TUNING_SEED, budget, folder / "train")
    steer = STEER if method.trainer == "steerlm" else None
    scenes = out / "data" / "dev_scenes"
    model = trained_model(folder / "train")
    ensure_evaluated(model, scenes, folder / "eval", steer, with_pope=False)


def choose_trial(out: Path) -> dict[str, int]:
    """For every method the trial with the best mean exact score; written to `tuning.json`."""
    chosen, told = {}, {}
    for method in METHODS:
        if method.tuned_as:
            continue
        scores = [
            read_scores(out / "trials" / f"{method.name}-{number}" / "eval" / "chair")
            for number in range(len(method.trials))
        ]
        values = [score["exact_score"]["value"] for score in scores]
        defined = {n: value for n, value in enumerate(values) if value is not None}
        chosen[method.name] = max(defined, key=defined.__getitem__)
        told[method.name] = [
            {**asdict(trial), "exact_score": value, "chair_i": score["chair_i"]["value"]}
            for trial, value, score in zip(method.trials, values, scores, strict=True)
        ]
    chosen |= {m.name: chosen[m.tuned_as] for m in METHODS if m.tuned_as}
    write_json(out / "tuning.json", {"chosen": chosen, "trials": told})
    return chosen


def _method_jobs(
    out: Path, model: str, seeds: Sequence[int], chosen: Mapping[str, int], budget: Budget
) -> list[Job]:
    return [
        Job(
            f"seed{seed}-{method.name}",
            run_method,
            (out, model, method, chosen[method.name], seed, budget),
        )
        for seed in seeds
        for method in METHODS
    ]


def run_method(
    out: Path, model: str, method: Method, number: int, seed: int, budget: Budget
) -> None:
    """Train with the chosen setting, and evaluate on the scenes that decided nothing."""
    folder = out / f"seed{seed}"
    trial = method.trials[number]
    trained = folder / "train" / method.name
    evaluated = {name: folder / "eval" / name for name, _ in evaluations(method)}
    key = arm_key(out, model, method, trial, seed, budget)
    _forget_unless(folder / "keys" / f"{method.name}.json", key, [trained, *evaluated.values()])
    before = out / "trials" / f"{method.name}-{number}" / "train"
    if seed == TUNING_SEED and not is_finished(trained) and is_finished(before):
        shutil.copytree(before, trained, dirs_exist_ok=True)
    ensure_method_trained(out, model, method, trial, seed, budget, trained)
    scenes = out / "data" / "eval_scenes"
    for name, steer in evaluations(method):
        ensure_evaluated(trained_model(trained), scenes, evaluated[name], steer)


def evaluations(method: Method) -> list[tuple[str, str | None]]:
    """Under which names a method is evaluated, and what it is asked for besides."""
    if method.trainer == "steerlm":
        return [(method.name, STEER), (UNSTEERED, None)]
    return [(method.name, None)]


def ensure_method_trained(
    out: Path, model: str, method: Method, trial: Trial, seed: int, budget: Budget, folder: Path
) -> None:
    """Train unless it is finished; an interrupted training goes on from a checkpoint."""
    if is_finished(folder):
        return
    data = data_file(out, seed, method.data)
    training = training_of(budget, trial.learning_rate, seed, folder)
    if method.trainer == "dpo":
        train_dpo(
            model,
            data,
            folder,
            dataclasses.replace(
                method.objective,
                loss=dataclasses.replace(method.objective.loss, beta=trial.beta),
                terms=(Likelihood(budget.nll_weight),),
            ),
            training=training,
        )
    elif method.trainer == "sft":
        of_pairs = method.data == "bdhs"
        train_sft(model, data, folder, "preference" if of_pairs else "conversation", training)
    elif method.fresh is not None:
        train_fresh(out, model, method.fresh, trial.learning_rate, trial.beta, seed, budget, folder)
    else:
        train_steerlm(model, data, folder, training)


def arm_key(out: Path, model: str, method: Method, trial: Trial, seed: int, budget: Budget) -> str:
    """Hash of what a trained arm depends on: base, data, method, setting, budget and seed."""
    fresh = method.fresh
    read = learned_from(out, seed, fresh) if fresh else [data_file(out, seed, method.data)]
    parts = {
        "model": fingerprint(model).key,
        "data": hash_path(read[0]),
        "method": [method.trainer, options_of(method.objective)],
        **({"fresh": [asdict(fresh), *map(hash_path, read[1:])]} if fresh else {}),
        "trial": asdict(trial),
        "budget": asdict(budget),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _forget_unless(file: Path, key: str, folders: Sequence[Path]) -> None:
    """Keep what was made of the same things, and delete it otherwise."""
    if not (file.is_file() and read_json(file) == key):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, key)


def summarize_methods(out: Path, seeds: Sequence[int], chosen: Mapping[str, int]) -> dict[str, Any]:
    """`summary.json`: metrics, cost and settings of every arm, and differences from the base."""
    base = out / "eval" / "base"
    arms: list[dict[str, Any]] = [{"name": "base", "scores": scores_by_benchmark(base)}]
    differences = []
    for seed in seeds:
        for method in METHODS:
            folder = out / f"seed{seed}"
            results = read_json(folder / "train" / method.name / "run.json")["results"]
            for name, _ in evaluations(method):
                evaluated = folder / "eval" / name
                arms.append(
                    {
                        "name": name,
                        "seed": seed,
                        "scores": scores_by_benchmark(evaluated),
                        "setting": asdict(method.trials[chosen[method.name]]),
                        "seconds": results["train_seconds"],
                        "rows_per_second": results["rows_per_second"],
                        "watched": _watched(folder / "train" / method.name / "log.jsonl"),
                    }
                )
                differences += differences_of(name, "base", evaluated, base, seed)
    if len(arms) == 1:
        raise UserError("--seeds is 0, so nothing was compared. Give 1 or more.")
    return {
        "benchmarks": evaluated_by(),
        "arms": arms,
        "differences": differences,
        "budget": asdict(Budget()),
    }


def _watched(log: Path) -> dict[str, list[float]]:
    """Of reinforcement learning: reward, truth and length at its first and last tenth."""
    rows = [row for row in read_jsonl(log) if row.get("split") == "train"]
    names = ("reward", "exact_score", "judge_score", "response_tokens", "kl_k1")
    if not rows or "judge_score" not in rows[0] or "kl_k1" not in rows[0]:
        return {}
    found = {name: movement(rows, name) for name in names}
    return {name: [*moved] for name, moved in found.items() if moved is not None}


def hacking_table(summary: Mapping[str, Any]) -> str:
    """Reward against truth while it is trained on, as a Markdown table: a line for each seed."""
    lines = [
        "| | seed | reward, in the judge's deviations | the exact score | tokens a response "
        "| KL from the start, nats |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        for arm in summary["arms"]:
            watched = arm.get("watched")
            if arm["name"] != name or not watched:
                continue
            truth = watched.get("exact_score", watched["judge_score"])
            cells = [_moved(watched["reward"]), _moved(truth, 3)]
            cells += [_moved(watched["response_tokens"], 1), _moved(watched["kl_k1"], 1)]
            lines.append(f"| {label} | {arm['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _moved(movement_of: Sequence[float], digits: int = 2) -> str:
    start, end, errors = movement_of
    return f"{start:.{digits}f} to {end:.{digits}f} ({errors:+.1f} SE)"


def methods_table(summary: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table: means over seeds, and each seed's change of CHAIR_i."""
    lines = [
        "| | CHAIR_i | its change from base, each seed | CHAIR_s | recall | words | POPE accuracy "
        "| exact score | seconds | rows a second |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        found = [arm for arm in summary["arms"] if arm["name"] == name]
        if not found:
            continue
        changes = changes_from_base(summary, name, "chair/chair_i")
        shown = {
            metric: mean_score(found, metric)
            for metric in (
                "chair/chair_i", "chair/chair_s", "chair/recall", "chair/mean_length",
                "pope/accuracy", "chair/exact_score",
            )
        }  # fmt: skip
        trained = [arm for arm in found if arm.get("seconds") is not None]
        speeds = [arm["rows_per_second"] for arm in trained if arm["rows_per_second"]]
        seconds = f"{fmean(arm['seconds'] for arm in trained):.0f}" if trained else ""
        lines.append(
            f"| {label} | {100 * shown['chair/chair_i']:.1f}% | {changes} | "
            f"{100 * shown['chair/chair_s']:.1f}% | {100 * shown['chair/recall']:.1f}% | "
            f"{shown['chair/mean_length']:.1f} | {100 * shown['pope/accuracy']:.1f}% | "
            f"{shown['chair/exact_score']:+.3f} | {seconds} | "
            f"{f'{fmean(speeds):.1f}' if speeds else ''} |"
        )
    return "\n".join(lines)
