"""The three-seed study behind the README's figures; interrupted and started again, it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veridical.report.page import write_report
from veridical.runtime.files import write_json
from veridical.runtime.progress import track
from veridical.study.arms import (
    BDHS,
    NOISE,
    PLAIN,
    SFT,
    UNGUIDED,
    Arm,
    Budget,
    begin_study,
    changes_from_base,
    differences_of,
    ensure_evaluated,
    ensure_pairs,
    ensure_scenes,
    ensure_trained,
    evaluated_by,
    mean_score,
    scores_by_benchmark,
    trained_model,
)
from veridical.study.workers import Job, run_jobs

# Used for no choice: not of the model, nor of a learning rate, nor of a threshold.
EVALUATION_SEED = 27_182
PAIR_SEED = 4_000
GROUPS: tuple[tuple[Arm, ...], ...] = ((BDHS, SFT), (PLAIN,), (NOISE,), (UNGUIDED,))
"""Arms that share their pairs, and so a process."""
LABELS = {
    "base": "the model as it ships",
    "sft": "control: fine-tuned on the chosen answers alone",
    "bdhs": "**DPO on BDHS pairs**",
    "plain": "DPO, rejected answers sampled from the full image",
    "noise": "DPO on BDHS pairs, with image noise instead of the mask",
    "unguided": "DPO, rejected answers written freely from the masked image",
}


def evidence(
    out: Path = Path("runs/evidence"),
    model: str = "embedded",
    seeds: int = 3,
    workers: int = 2,
) -> None:
    """Run BDHS, its SFT control, plain samples, image noise and unguided BDHS, over seeds.

    Every arm has the same budget and is evaluated on the same fresh scenes, which were used for
    no choice. A seed changes the scenes that pairs come from, all sampling and the order of
    training.

    Args:
        out: folder to write; a study that was interrupted there goes on.
        model: the model to start from.
        seeds: how many seeds.
        workers: processes at once, one thread each.
    """
    options = {"out": out, "model": model, "seeds": seeds, "workers": workers}
    budget = Budget()
    began = time.monotonic()
    scenes = out / "data" / "eval_scenes"
    with begin_study(out, "evidence", {**options, "budget": asdict(budget)}) as run:
        ensure_scenes(scenes, "counter", budget.scenes, EVALUATION_SEED)
        cases = [(seed, group) for seed in range(seeds) for group in GROUPS]
        jobs = [Job("base", ensure_evaluated, (model, scenes, out / "eval" / "base"))]
        jobs += [
            Job(_name(seed, group), run_group, (out, model, seed, group, budget))
            for seed, group in cases
        ]
        for _ in track(run_jobs(jobs, out / "logs", workers), "evidence", len(jobs)):
            pass
        summary = summarize_evidence(out, range(seeds))
        write_json(out / "summary.json", summary)
        run.finish(seconds=round(time.monotonic() - began, 1))
        page = write_report([out])
    print(evidence_table(summary))
    print(f"Done in {time.monotonic() - began:.0f} seconds. Open {page}")


def run_group(out: Path, model: str, seed: int, group: Sequence[Arm], budget: Budget) -> None:
    """Pairs, training and evaluation of arms that share pairs."""
    folder = out / f"seed{seed}"
    pair_scenes = folder / "scenes" / group[0].pairs
    ensure_scenes(pair_scenes, "prior", budget.pairs, PAIR_SEED + seed)
    pairs = folder / "pairs" / group[0].pairs
    ensure_pairs(group[0], model, pair_scenes, pairs, budget, seed)
    for arm in group:
        trained = folder / "train" / arm.name
        ensure_trained(arm, model, pairs / "pairs.parquet", trained, budget, seed)
        evaluated = folder / "eval" / arm.name
        ensure_evaluated(trained_model(trained), out / "data" / "eval_scenes", evaluated)


def summarize_evidence(out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """`summary.json`: metrics of every arm and seed, and differences from base and from SFT."""
    base = out / "eval" / "base"
    arms: list[dict[str, Any]] = [{"name": "base", "scores": scores_by_benchmark(base)}]
    differences = []
    for seed in seeds:
        folder = out / f"seed{seed}" / "eval"
        for arm in (arm for group in GROUPS for arm in group):
            arms.append(
                {"name": arm.name, "seed": seed, "scores": scores_by_benchmark(folder / arm.name)}
            )
            differences += differences_of(arm.name, "base", folder / arm.name, base, seed)
            if arm is not SFT:
                differences += differences_of(
                    arm.name, SFT.name, folder / arm.name, folder / SFT.name, seed
                )
    return {
        "benchmarks": evaluated_by(),
        "arms": arms,
        "differences": differences,
        "budget": asdict(Budget()),
    }


def evidence_table(summary: Mapping[str, Any]) -> str:
    """The study as a Markdown table: means over seeds, and each seed's change of CHAIR_i."""
    head = (
        "| | invented objects | change from the start, each seed | objects found | words "
        "| yes/no right |"
    )
    lines = [head, "|---|---|---|---|---|---|"]
    for name, label in LABELS.items():
        found = [arm for arm in summary["arms"] if arm["name"] == name]
        changes = changes_from_base(summary, name, "chair/chair_i")
        shown = {
            metric: mean_score(found, metric)
            for metric in ("chair/chair_i", "chair/recall", "chair/mean_length", "pope/accuracy")
        }
        lines.append(
            f"| {label} | {100 * shown['chair/chair_i']:.1f}% | {changes} | "
            f"{100 * shown['chair/recall']:.1f}% | {shown['chair/mean_length']:.1f} | "
            f"{100 * shown['pope/accuracy']:.1f}% |"
        )
    return "\n".join(lines)


def _name(seed: int, group: Sequence[Arm]) -> str:
    return f"seed{seed}-{'-'.join(arm.name for arm in group)}"
