"""What BDHS and DPO change against more of the same training, on every photograph once.

    python measure.py --photos photos.jsonl --parts FOLDER --out runs/real_photos/measured

Four folds, so that every photograph is held out once, and several seeds. A fold's model is taught
once; a seed changes the views that pairs are made of, the pairs, and the order of training. It
takes hours and goes on where it was stopped. The first cell tells how large a difference the whole
can find; that is written to `power.json` before any other cell is run.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from photos import read_photos, taught_errors, write_objects
from run import ARMS, CHAIR, POPE, Plan, Steps, cell_text, measure_arms

from veridical.eval.chair import eval_chair
from veridical.eval.compare import compare_runs
from veridical.eval.pope import eval_pope
from veridical.files import read_json, read_jsonl, write_json, write_jsonl, write_text_atomic

FOLDS, SEEDS = 4, 3
# Of a two-sided test at 5 %, found four times of five: 1.96 + 0.84 standard errors.
FOUND = 2.8
BENCHMARKS = ("chair", "pope")
PAIRS = (("sft", "bdhs"), ("base", "bdhs"), ("base", "sft"))
BASELINES = ("base-shuffled", "constant-1", "constant-3")
AUC = "random/auc"
SHOWN = (*CHAIR, *POPE)


def cell(plan: Plan, fold: int, seed: int) -> Plan:
    """One run: the whole way for the first seed; others start from the model that it taught."""
    first = plan.out / f"fold{fold}-seed0"
    base = str(first / "models" / "base") if seed else None
    own = plan.out / f"fold{fold}-seed{seed}"
    return replace(plan, out=own, fold=fold, seed=seed, base=base, shuffled=("base",))


def take_over(first: Path, own: Path) -> None:
    """Copy what the first seed found out about the model that both start from, and of constants."""
    for name in (*(f"eval/{arm}" for arm in ("base", *BASELINES)), "text/base.json"):
        if not (own / name).exists():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            partial = own / f"{name}.partial"
            if (first / name).is_dir():
                shutil.copytree(first / name, partial, dirs_exist_ok=True)
            else:
                shutil.copy(first / name, partial)
            partial.rename(own / name)


def power(plan: Plan, photographs: int) -> dict[str, Any]:
    """The smallest differences that the whole can find, from the first cell's intervals.

    They shrink with the root of the number of photographs. Seeds of one photograph are not counted
    as more photographs.
    """
    evals = cell(plan, 0, 0).out / "eval"
    found: dict[str, Any] = {"photographs": photographs, "pilot": str(evals.parent)}
    for benchmark, metric in (("chair", "chair_i"), ("pope", "random/accuracy")):
        rows = compare_runs(evals / "sft" / benchmark, evals / "bdhs" / benchmark)
        row = next(row for row in rows if row["metric"] == metric)
        error = (row["high"] - row["low"]) / (2 * 1.96) * (row["clusters"] / photographs) ** 0.5
        found[metric] = {"standard_error": error, "smallest_difference": FOUND * error}
    return found


def pool(plan: Plan, cells: Sequence[tuple[int, int]], out: Path) -> dict[str, Any]:
    """Some folds of some seeds as one evaluation, by the public functions.

    Several answers about a photograph are one cluster of the intervals. These hold for the models
    that were trained: how much trainings differ is told by the cells themselves.

    Args:
        plan: of the measurement.
        cells: (fold, seed) of each.
        out: folder, written anew: it takes seconds.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_objects(read_photos(plan.photos), out / "objects.json")
    arms = (*ARMS, *BASELINES)
    for arm in arms:
        folder = out / "eval" / arm
        folder.mkdir(parents=True)
        descriptions, answers, questions = [], [], []
        for fold, seed in cells:
            own = cell(plan, fold, seed).out / "eval" / arm
            descriptions += read_jsonl(own / "chair" / "answers.jsonl")
            for row in read_jsonl(own / "pope" / "answers.jsonl"):
                name = f"{seed}-{fold}-{row['question_id']}"
                answers.append({"question_id": name, "answer": row["answer"]})
                asked = {k: row[k] for k in ("image", "image_id", "split", "label")}
                questions.append({**asked, "question_id": name, "text": row["question"]})
        for name, rows in (
            ("descriptions", descriptions), ("answers", answers), ("questions", questions),
        ):  # fmt: skip
            write_jsonl(folder / f"{name}.jsonl", rows)
        eval_chair(out / "objects.json", folder / "chair", answers=folder / "descriptions.jsonl")
        eval_pope(
            folder / "pope", answers=[folder / "answers.jsonl"],
            questions=[folder / "questions.jsonl"],
        )  # fmt: skip
    scores = {
        arm: {b: read_json(out / "eval" / arm / b / "scores.json") for b in BENCHMARKS}
        for arm in arms
    }
    for arm in ARMS:
        # Margins of different models can't be ranked together, so each cell has its own area.
        areas = [
            read_json(cell(plan, *one).out / "eval" / arm / "pope" / "scores.json")[AUC]["value"]
            for one in cells
        ]
        scores[arm]["pope"][AUC] = {"value": sum(areas) / len(areas), "low": None, "high": None}
    return {
        "cells": [list(one) for one in cells],
        "scores": scores,
        "differences": differences(out / "eval"),
        "perplexities": perplexities(plan, cells),
    }


def differences(folder: Path) -> list[dict[str, Any]]:
    """Rows of `eval compare` for every pair of arms."""
    return [
        {**row, "arm": arm, "baseline": baseline, "benchmark": benchmark}
        for baseline, arm in PAIRS
        for benchmark in BENCHMARKS
        for row in compare_runs(folder / baseline / benchmark, folder / arm / benchmark)
    ]


def perplexities(plan: Plan, cells: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Mean perplexity on plain English over cells, by arm."""
    found: dict[str, list[float]] = {}
    for one in cells:
        for file in sorted((cell(plan, *one).out / "text").glob("*.json")):
            found.setdefault(file.stem, []).append(float(read_json(file)["perplexity"]))
    return {arm: sum(own) / len(own) for arm, own in found.items()}


def tables(found: dict[str, Any]) -> str:
    """What was found as Markdown: what can be told, every arm, every difference, every cell."""
    power, whole = found["power"], found["together"]
    lines = [
        f"{power['photographs']} photographs. By the first cell's intervals a difference of "
        f"{power['chair_i']['smallest_difference']:.3f} in CHAIR_i and of "
        f"{power['random/accuracy']['smallest_difference']:.3f} in POPE's random accuracy would be "
        "found four times of five.",
        "",
        "| | " + " | ".join(SHOWN) + " | perplexity |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for arm, scores in whole["scores"].items():
        both = {**scores["chair"], **scores["pope"]}
        text = whole["perplexities"].get(arm)
        cells = [cell_text(both.get(name)) for name in SHOWN]
        lines.append(f"| {arm} | {' | '.join(cells)} | {f'{text:.1f}' if text else ''} |")
    seeds = [f"seed {seed}" for seed in range(len(found["each"]))]
    lines += ["", "| | | " + " | ".join([*seeds, "together"]) + " |"]
    lines += ["|---" * (len(seeds) + 3) + "|"]
    for row in whole["differences"]:
        if row["metric"] in SHOWN:
            own = [_same(row, one["differences"]) for one in (*found["each"], whole)]
            told = " | ".join(cell_text(one, signed=True) for one in own)
            lines.append(f"| {row['arm']} against {row['baseline']} | {row['metric']} | {told} |")
    lines += ["", "Each cell by itself, DPO against SFT:", ""]
    lines += ["| fold | seed | chair_i | recall | random/accuracy |", "|---" * 5 + "|"]
    for one in found["cells"]:
        told = " | ".join(
            cell_text(_same({"arm": "bdhs", "baseline": "sft", "metric": metric,
                             "benchmark": benchmark}, one["differences"]), signed=True)
            for benchmark, metric in (
                ("chair", "chair_i"), ("chair", "recall"), ("pope", "random/accuracy"),
            )
        )  # fmt: skip
        lines.append(f"| {one['fold']} | {one['seed']} | {told} |")
    return "\n".join(lines) + "\n"


def _same(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    names = ("metric", "arm", "baseline", "benchmark")
    return next((other for other in rows if all(other[k] == row[k] for k in names)), None)


def summarise(plan: Plan, seeds: int) -> dict[str, Any]:
    """Each seed, all of them together, every cell; written to `measured.json` and `.md`."""
    each = [[(fold, seed) for fold in range(FOLDS)] for seed in range(seeds)]
    every = [one for own in each for one in own]
    found = {
        "power": read_json(plan.out / "power.json"),
        "each": [
            pool(plan, own, plan.out / f"pooled-seed{seed}") for seed, own in enumerate(each)
        ],
        "together": pool(plan, every, plan.out / "pooled"),
        "cells": [
            {"fold": fold, "seed": seed,
             "differences": differences(cell(plan, fold, seed).out / "eval")}
            for fold, seed in every
        ],
    }  # fmt: skip
    write_json(plan.out / "measured.json", found)
    write_text_atomic(plan.out / "measured.md", tables(found))
    return found


def measure(plan: Plan, seeds: int) -> None:
    """Run the cells that are missing, seed after seed, and sum up after each."""
    photographs = len(read_photos(plan.photos))
    for seed in range(seeds):
        for fold in range(FOLDS):
            print(f"== fold {fold}, seed {seed}", flush=True)
            own = cell(plan, fold, seed)
            if seed:
                take_over(cell(plan, fold, 0).out, own.out)
            measure_arms(own, Steps(own.out))
            if not (plan.out / "power.json").exists():
                write_json(plan.out / "power.json", power(plan, photographs))
        summarise(plan, seed + 1)


def main() -> None:
    """Read the command line; run the cells that are missing, seed after seed."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--photos", type=Path, required=True)
    reader.add_argument("--parts", type=Path, required=True)
    reader.add_argument("--out", type=Path, default=Path("runs/real_photos/measured"))
    reader.add_argument("--seeds", type=int, default=SEEDS)
    given = reader.parse_args()
    with taught_errors():
        measure(Plan(given.photos, given.out, given.parts), given.seeds)
    print((given.out / "measured.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
