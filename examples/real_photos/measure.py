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

import numpy as np
from photos import read_photos, write_objects
from run import ARMS, CHAIR, POPE, Plan, Steps, cell_text, finished, measure_arms

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
    for arm in ("base", *BASELINES):
        if not (own / "eval" / arm).exists():
            shutil.copytree(first / "eval" / arm, own / "eval" / arm)
    text = own / "text" / "base.json"
    text.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(first / "text" / "base.json", text)


def power(plan: Plan, photographs: int) -> dict[str, Any]:
    """The smallest differences that the whole can find, from the first cell's spread.

    The unit is the photograph; seeds of one photograph are not counted as more of them, so this
    errs towards too large.
    """
    first = cell(plan, 0, 0).out
    found: dict[str, Any] = {"photographs": photographs, "pilot": str(first)}
    for name, benchmark, file in (
        ("chair_i", "chair", "details.jsonl"),
        ("pope_accuracy", "pope", "answers.jsonl"),
    ):
        ours, theirs = (
            _by_photograph(first / "eval" / arm / benchmark / file, name) for arm in ("bdhs", "sft")
        )
        both = sorted(ours.keys() & theirs.keys())
        differences = np.array([ours[image] - theirs[image] for image in both])
        spread = float(differences.std(ddof=1))
        found[name] = {
            "standard_deviation": spread,
            "smallest_difference": FOUND * spread / photographs**0.5,
        }
    return found


def _by_photograph(path: Path, name: str) -> dict[str, float]:
    """Share of mentions that are hallucinated, or of questions that are right, by photograph."""
    shares: dict[str, list[float]] = {}
    for row in read_jsonl(path):
        own = shares.setdefault(str(row["image_id"]), [])
        if name == "chair_i":
            own += [float(mention["hallucinated"]) for mention in row["mentions"]]
        else:
            own.append(float(row["parsed"] == row["label"]))
    return {image: sum(own) / len(own) for image, own in shares.items() if own}


def pool(plan: Plan, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """All folds of some seeds as one evaluation, by the public commands.

    Several answers about a photograph are one cluster of the intervals.
    """
    out.mkdir(parents=True, exist_ok=True)
    steps = Steps(out)
    write_objects(read_photos(plan.photos), out / "objects.json")
    for arm in (*ARMS, *BASELINES):
        folder = out / "eval" / arm
        folder.mkdir(parents=True, exist_ok=True)
        descriptions, answers, questions = [], [], []
        for seed in seeds:
            for fold in range(FOLDS):
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
        steps.veridical(
            f"chair {arm}", folder / "chair", "eval", "chair", "--answers",
            folder / "descriptions.jsonl", "--objects", out / "objects.json", "--out",
            folder / "chair", local_code=False,
        )  # fmt: skip
        steps.veridical(
            f"pope {arm}", folder / "pope", "eval", "pope", "--answers", folder / "answers.jsonl",
            "--questions", folder / "questions.jsonl", "--out", folder / "pope", local_code=False,
        )  # fmt: skip
    differences = []
    for baseline, arm in PAIRS:
        for benchmark in BENCHMARKS:
            folder = out / "compare" / f"{arm}_{baseline}_{benchmark}"
            steps.veridical(
                f"compare {arm} {baseline} {benchmark}", folder, "eval", "compare",
                out / "eval" / baseline / benchmark, out / "eval" / arm / benchmark, "--out",
                folder, local_code=False,
            )  # fmt: skip
            for row in read_json(folder / "comparison.json")["differences"]:
                names = {"arm": arm, "baseline": baseline, "benchmark": benchmark}
                differences.append({**row, **names})
    scores = {
        arm: {b: read_json(out / "eval" / arm / b / "scores.json") for b in BENCHMARKS}
        for arm in (*ARMS, *BASELINES)
    }
    for arm in ARMS:
        # Margins of different models can't be ranked together, so each fold has its own area.
        areas = [
            read_json(cell(plan, fold, seed).out / "eval" / arm / "pope" / "scores.json")[AUC]
            for seed in seeds
            for fold in range(FOLDS)
        ]
        mean = sum(area["value"] for area in areas) / len(areas)
        scores[arm]["pope"][AUC] = {"value": mean, "low": None, "high": None}
    return {
        "seeds": list(seeds),
        "scores": scores,
        "differences": differences,
        "perplexities": perplexities(plan, seeds),
    }


def perplexities(plan: Plan, seeds: Sequence[int]) -> dict[str, float]:
    """Mean perplexity on plain English over folds and seeds, by arm."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for fold in range(FOLDS):
            for file in sorted((cell(plan, fold, seed).out / "text").glob("*.json")):
                found.setdefault(file.stem, []).append(float(read_json(file)["perplexity"]))
    return {arm: sum(own) / len(own) for arm, own in found.items()}


def tables(found: dict[str, Any]) -> str:
    """What was found as Markdown: what can be told, every arm, every difference."""
    power = found["power"]
    lines = [
        f"{power['photographs']} photographs. By the first fold's spread a difference of "
        f"{power['chair_i']['smallest_difference']:.3f} in CHAIR_i and of "
        f"{power['pope_accuracy']['smallest_difference']:.3f} in POPE's accuracy would be found "
        "four times of five.",
        "",
    ]
    whole = found.get("together") or found["each"][-1]
    lines += ["| | " + " | ".join(SHOWN) + " | perplexity |", "|---" * (len(SHOWN) + 2) + "|"]
    for arm, scores in whole["scores"].items():
        both = {**scores["chair"], **scores["pope"]}
        text = whole["perplexities"].get(arm)
        cells = [cell_text(both.get(name)) for name in SHOWN]
        lines.append(f"| {arm} | {' | '.join(cells)} | {f'{text:.1f}' if text else ''} |")
    pools = [*found["each"], *([found["together"]] if "together" in found else [])]
    seeds = ["seed " + ", ".join(map(str, one["seeds"])) for one in pools]
    lines += ["", "| | | " + " | ".join(seeds) + " |", "|---" * (len(pools) + 2) + "|"]
    for row in whole["differences"]:
        if row["metric"] not in SHOWN:
            continue
        cells = []
        for one in pools:
            own = next(
                r for r in one["differences"]
                if all(r[k] == row[k] for k in ("metric", "arm", "baseline", "benchmark"))
            )  # fmt: skip
            cells.append(f"{own['value']:+.3f} [{own['low']:+.3f}, {own['high']:+.3f}]")
        names = f"{row['arm']} against {row['baseline']} | {row['metric']}"
        lines.append(f"| {names} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def complete(plan: Plan, seed: int) -> bool:
    """Whether every fold of a seed has been evaluated."""
    return all(
        finished(cell(plan, fold, seed).out / "eval" / arm / benchmark)
        for fold in range(FOLDS)
        for arm in ARMS
        for benchmark in BENCHMARKS
    )


def summarise(plan: Plan, seeds: int) -> dict[str, Any]:
    """Each complete seed, and all of them together; written to `measured.json`."""
    done = [seed for seed in range(seeds) if complete(plan, seed)]
    found: dict[str, Any] = {"power": read_json(plan.out / "power.json"), "each": []}
    for seed in done:
        found["each"].append(pool(plan, [seed], plan.out / f"pooled-seed{seed}"))
    if len(done) > 1:
        name = "-".join(map(str, done))
        found["together"] = pool(plan, done, plan.out / f"pooled-seeds{name}")
    write_json(plan.out / "measured.json", found)
    write_text_atomic(plan.out / "measured.md", tables(found))
    return found


def main() -> None:
    """Read the command line; run the cells that are missing, seed after seed."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--photos", type=Path, required=True)
    reader.add_argument("--parts", type=Path, required=True)
    reader.add_argument("--out", type=Path, default=Path("runs/real_photos/measured"))
    reader.add_argument("--seeds", type=int, default=SEEDS)
    given = reader.parse_args()
    plan = Plan(given.photos, given.out, given.parts)
    photographs = len(read_photos(given.photos))
    for seed in range(given.seeds):
        for fold in range(FOLDS):
            print(f"== fold {fold}, seed {seed}", flush=True)
            own = cell(plan, fold, seed)
            if seed:
                take_over(cell(plan, fold, 0).out, own.out)
            measure_arms(own, Steps(own.out))
            if not (plan.out / "power.json").exists():
                write_json(plan.out / "power.json", power(plan, photographs))
        summarise(plan, seed + 1)
    print((plan.out / "measured.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
