"""The whole story in minutes: a model that hallucinates, aligned without an annotator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from veridical.report.page import write_report
from veridical.runtime.files import write_json
from veridical.runtime.progress import track
from veridical.runtime.run_folders import claim_folder, remove_run
from veridical.runtime.run_record import RECORD
from veridical.runtime.runs import json_types, start_run
from veridical.study.arms import (
    BDHS,
    SFT,
    Arm,
    Budget,
    describe_change,
    differences_of,
    ensure_evaluated,
    ensure_pairs,
    ensure_scenes,
    ensure_trained,
    evaluated_by,
    scores_by_benchmark,
    trained_model,
)
from veridical.study.workers import Job, run_jobs

EVALUATION_SEED = 11
PAIR_SEED = 1_000


def demo(out: Path = Path("runs/demo"), model: str = "embedded", seed: int = 0) -> None:
    """See a model hallucinate, align it without an annotator, and see what changed.

    Pairs are made by BDHS from fresh scenes of the kind the model was trained on; DPO learns from
    them; continued SFT on the same chosen answers, for the same number of steps, is the control.
    All three are evaluated on scenes that break the habits of the training scenes.

    Args:
        out: folder to write; the files of an earlier demo there are replaced.
        model: the model to start from.
        seed: of scenes for pairs, sampling and training.
    """
    options = {"out": out, "model": model, "seed": seed}
    claim_folder(out, "demo", options, json_types(options), [Path(model)])
    if (out / RECORD).is_file():
        remove_run(out)
    budget = Budget()
    began = time.monotonic()
    pair_scenes, eval_scenes = out / "data" / "pair_scenes", out / "data" / "eval_scenes"
    with start_run(out, "demo", options) as run:
        _say(1, began, f"drawing {budget.pairs} scenes for pairs, {budget.scenes} for evaluation")
        ensure_scenes(pair_scenes, "prior", budget.pairs, PAIR_SEED + seed)
        ensure_scenes(eval_scenes, "counter", budget.scenes, EVALUATION_SEED)
        _say(2, began, "preference pairs from the model itself, by BDHS")
        ensure_pairs(BDHS, model, pair_scenes, out / "pairs", budget, seed)
        _say(3, began, f"training DPO and its control; evaluating (details: {out / 'logs'})")
        jobs = [
            Job("bdhs", run_demo_arm, (BDHS, model, out, eval_scenes, budget, seed)),
            Job("sft", run_demo_arm, (SFT, model, out, eval_scenes, budget, seed)),
            Job("base", ensure_evaluated, (model, eval_scenes, out / "eval" / "base")),
        ]
        done = track(run_jobs(jobs, out / "logs", workers=2), "trained and evaluated", len(jobs))
        for step, name in enumerate(done, start=4):
            _say(step, began, f"done: {name}")
        _say(7, began, "comparing, and writing the report")
        summary = summarize_demo(out, seed)
        write_json(out / "summary.json", summary)
        run.finish(seconds=round(time.monotonic() - began, 1))
        page = write_report([out])
    for name in ("sft", "bdhs"):
        print(describe_change(summary["differences"], name, "base"))
    print(f"Done in {time.monotonic() - began:.0f} seconds. Open {page}")


def run_demo_arm(arm: Arm, model: str, out: Path, scenes: Path, budget: Budget, seed: int) -> None:
    """Train on the demo's pairs and evaluate."""
    trained = out / "train" / arm.name
    ensure_trained(arm, model, out / "pairs" / "pairs.parquet", trained, budget, seed)
    ensure_evaluated(trained_model(trained), scenes, out / "eval" / arm.name)


def summarize_demo(out: Path, seed: int) -> dict[str, Any]:
    """`summary.json`: the metrics of every arm, and the paired differences."""
    folders = {name: out / "eval" / name for name in ("base", "sft", "bdhs")}
    arms = [
        {"name": name, "scores": scores_by_benchmark(folder)} for name, folder in folders.items()
    ]
    compared = (("bdhs", "base"), ("sft", "base"), ("bdhs", "sft"))
    differences = [
        row
        for arm, baseline in compared
        for row in differences_of(arm, baseline, folders[arm], folders[baseline], seed)
    ]
    return {"benchmarks": evaluated_by(), "arms": arms, "differences": differences}


def _say(step: int, began: float, what: str) -> None:
    print(f"[{step}/7, {time.monotonic() - began:.0f} s] {what}", flush=True)
