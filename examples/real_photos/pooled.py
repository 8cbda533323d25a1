"""Cells of `measure.py` put together: every arm, every difference, and how surely it is known.

Intervals are over photographs, each of which is held out in one fold and answered about once a
seed. They hold for the models that were trained; how much trainings differ is told by the seeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from photos import read_photos, write_objects
from run import ARMS, CHAIR, POPE, cell_text

from veridical.eval.chair import ChairOptions, eval_chair
from veridical.eval.compare import compare_runs
from veridical.eval.evaluation import Subject
from veridical.eval.pope import PopeOptions, eval_pope
from veridical.eval.scores import read_scores
from veridical.runtime.errors import UserError
from veridical.runtime.files import (
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text_atomic,
)

Cells: TypeAlias = Mapping[tuple[int, int], Path]
"""The folder of each (fold, seed)."""
Row: TypeAlias = dict[str, Any]

# Of a two-sided test at 5 %, found four times out of five: 1.96 + 0.84 standard errors.
FOUND = 2.8
BENCHMARKS = ("chair", "pope")
PAIRS = (("sft", "bdhs"), ("base", "bdhs"), ("base", "sft"), ("base", "base-shuffled"))
BASELINES = ("base-shuffled", "constant-1", "constant-3")
AUC = "random/auc"
SHOWN = (*(("chair", name) for name in CHAIR), *(("pope", name) for name in POPE))
SEEN = (("chair", "chair_i"), ("chair", "recall"), ("pope", "random/accuracy"), ("pope", AUC))
"""Of a fold's taught model."""
POWER = (("chair", "chair_i"), ("chair", "recall"), ("pope", "random/accuracy"))
"""What the question is about: DPO against SFT by these."""


def standard_error(row: Mapping[str, Any]) -> float:
    """Of a difference, from its 95 % interval.

    Raises:
        UserError: it has none, such as CHAIR_i where nothing was named at all.
    """
    if row["low"] is None or row["high"] is None:
        raise UserError(
            f"The difference in {row['metric']} has no interval ({row.get('note', 'undefined')}), "
            "so it can't be said what could be found: use more photographs, or teach more."
        )
    return float(row["high"] - row["low"]) / (2 * 1.96)


def power(pilot: Path, photographs: int) -> Row:
    """The smallest differences that so many photographs can find, from one cell's intervals.

    They shrink with the root of the number of photographs. Seeds of one photograph are not counted
    as more photographs.
    """
    found: Row = {"photographs": photographs, "pilot": pilot.name}
    for benchmark, metric in POWER:
        rows: Sequence[Mapping[str, Any]] = compare_runs(
            pilot / "eval/sft" / benchmark, pilot / "eval/bdhs" / benchmark
        )
        row = next(row for row in rows if row["metric"] == metric)
        error = standard_error(row) * (row["clusters"] / photographs) ** 0.5
        found[metric] = {"standard_error": error, "smallest_difference": FOUND * error}
    return found


def pool(photos: Path, cells: Cells, own: Mapping[tuple[int, int], list[Row]], out: Path) -> Row:
    """Some cells as one evaluation, by the public functions.

    Args:
        photos: the list of photographs.
        cells: which.
        own: differences within each.
        out: folder, written anew: it takes seconds.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_objects(read_photos(photos), out / "objects.json")
    scores = {arm: _pool_arm(arm, cells, out) for arm in (*ARMS, *BASELINES)}
    return {
        "cells": [list(one) for one in cells],
        "scores": scores,
        "differences": [
            *differences(out / "eval"),
            *area_differences({one: own[one] for one in cells}),
        ],
        "perplexities": perplexities(cells),
    }


def _pool_arm(arm: str, cells: Cells, out: Path) -> Row:
    folder = out / "eval" / arm
    folder.mkdir(parents=True)
    descriptions, answers, questions = [], [], []
    for (fold, seed), cell in cells.items():
        descriptions += read_jsonl(cell / "eval" / arm / "chair" / "answers.jsonl")
        for row in read_jsonl(cell / "eval" / arm / "pope" / "answers.jsonl"):
            name = f"{seed}-{fold}-{row['question_id']}"
            answers.append({"question_id": name, "answer": row["answer"]})
            asked = {k: row[k] for k in ("image", "image_id", "split", "label")}
            questions.append({**asked, "question_id": name, "text": row["question"]})
    for name, rows in (
        ("descriptions", descriptions), ("answers", answers), ("questions", questions),
    ):  # fmt: skip
        write_jsonl(folder / f"{name}.jsonl", rows)
    eval_chair(
        ChairOptions(out / "objects.json"), folder / "chair",
        Subject(answers=[folder / "descriptions.jsonl"]),
    )  # fmt: skip
    eval_pope(
        PopeOptions(questions=[folder / "questions.jsonl"]), folder / "pope",
        Subject(answers=[folder / "answers.jsonl"]),
    )  # fmt: skip
    found = _scores(out, arm)
    areas = [_scores(cell, arm)["pope"].get(AUC) for cell in cells.values()]
    if all(areas):
        # Margins of different models can't be ranked together, so each cell has its own area.
        mean = sum(area["value"] for area in areas) / len(areas)
        found["pope"][AUC] = {"value": mean, "low": None, "high": None}
    return found


def _scores(cell: Path, arm: str) -> Row:
    """What the tables show of an arm's scores, by benchmark."""
    found: Row = {}
    for benchmark in BENCHMARKS:
        scores = read_scores(cell / "eval" / arm / benchmark)
        found[benchmark] = {name: scores[name] for b, name in SHOWN
                            if b == benchmark and name in scores}  # fmt: skip
    return found


def differences(folder: Path) -> list[Row]:
    """Rows of `eval compare` for every pair of arms, of what the tables show."""
    return [
        {**row, "arm": arm, "baseline": baseline}
        for baseline, arm in PAIRS
        for benchmark in BENCHMARKS
        for row in compare_runs(folder / baseline / benchmark, folder / arm / benchmark)
        if (benchmark, row["metric"]) in SHOWN
    ]


def area_differences(own: Mapping[tuple[int, int], Sequence[Row]]) -> list[Row]:
    """Mean differences of POPE's area under the curve over cells, for every pair of arms.

    Folds hold different photographs: their errors add up as squares. Seeds of a fold hold the same
    ones: their errors are averaged, as if all of them came from the photographs.

    Args:
        own: differences within each (fold, seed).
    """
    found = []
    for baseline, arm in PAIRS:
        rows = {one: _find(each, "pope", AUC, arm, baseline) for one, each in own.items()}
        errors: dict[int, list[float]] = {}
        for (fold, _), row in rows.items():
            errors.setdefault(fold, []).append(standard_error(row))
        squares = [(sum(each) / len(each)) ** 2 for each in errors.values()]
        value = sum(row["value"] for row in rows.values()) / len(rows)
        half = 1.96 * sum(squares) ** 0.5 / len(squares)
        found.append({"metric": AUC, "arm": arm, "baseline": baseline, "benchmark": "pope",
                      "value": value, "low": value - half, "high": value + half})  # fmt: skip
    return found


def _find(rows: Sequence[Row], benchmark: str, metric: str, arm: str, baseline: str) -> Row:
    wanted = (benchmark, metric, arm, baseline)
    names = ("benchmark", "metric", "arm", "baseline")
    return next(row for row in rows if tuple(row[name] for name in names) == wanted)


def perplexities(cells: Cells) -> dict[str, float]:
    """Mean perplexity on plain English over cells, by arm."""
    found: dict[str, list[float]] = {}
    for cell in cells.values():
        for file in sorted((cell / "text").glob("*.json")):
            found.setdefault(file.stem, []).append(float(read_json(file)["perplexity"]))
    return {arm: sum(own) / len(own) for arm, own in found.items()}


def proofs_passed(cells: Cells) -> str:
    """How many proofs applied to the trainings of some cells, and how many of them passed."""
    runs = [
        [row for row in read_json(path) if row["applicable"]]
        for cell in cells.values()
        for path in sorted((cell / "train").glob("*/proofs.json"))
    ]
    passed = sum(row["passed"] for rows in runs for row in rows)
    return f"{passed} of {sum(map(len, runs))} proofs passed, in {len(runs)} trainings."


def sum_up(photos: Path, cells: Cells, out: Path) -> Row:
    """Each seed, all of them together, every cell; written to `measured.json` and `.md`.

    Args:
        photos: the list of photographs.
        cells: whole seeds.
        out: folder with `power.json`.
    """
    own = {one: differences(cell / "eval") for one, cell in cells.items()}
    seeds = sorted({seed for _, seed in cells})
    each = [{one: cell for one, cell in cells.items() if one[1] == seed} for seed in seeds]
    found = {
        "power": read_json(out / "power.json"),
        "proofs": proofs_passed(cells),
        "each": [
            pool(photos, some, own, out / f"pooled-seed{seed}")
            for seed, some in zip(seeds, each, strict=True)
        ],
        "together": pool(photos, cells, own, out / "pooled"),
        "cells": [
            {"fold": fold, "seed": seed, "differences": own[fold, seed],
             "scores": {arm: _scores(cell, arm) for arm in ("base", *BASELINES)},
             "perplexity": perplexities({(fold, seed): cell})}
            for (fold, seed), cell in cells.items()
        ],
    }  # fmt: skip
    write_json(out / "measured.json", found)
    write_text_atomic(out / "measured.md", tables(found))
    return found


def tables(found: Row) -> str:
    """What was found as Markdown: what can be told, every arm, every difference, every cell."""
    power, whole = found["power"], found["together"]
    foretold = [f"{name} {power[name]['smallest_difference']:.3f}" for _, name in POWER]
    rows = [_find(whole["differences"], *about, "bdhs", "sft") for about in POWER]
    reached = [f"{row['metric']} {FOUND * standard_error(row):.3f}" for row in rows]
    lines = [
        f"{power['photographs']} photographs. The smallest differences found four times out of "
        f"five: by the first cell's intervals {', '.join(foretold)}; by those of the whole "
        f"{', '.join(reached)}.",
        "",
        found["proofs"],
        "",
        *_arms(whole),
        "",
        f"Perplexity of the language model alone: "
        f"{whole['perplexities']['language_model_alone']:.1f}.",
        "",
        *_changes(found["each"], whole),
        "",
        "What each fold's taught model sees:",
        "",
        *_folds([one for one in found["cells"] if one["seed"] == 0]),
        "",
        "Each cell by itself, DPO against SFT:",
        "",
        *_cells(found["cells"]),
    ]
    return "\n".join(lines) + "\n"


def _arms(whole: Row) -> list[str]:
    lines = [_line("", *map("/".join, SHOWN), "perplexity"), "|---" * (len(SHOWN) + 2) + "|"]
    for arm, scores in whole["scores"].items():
        text = whole["perplexities"].get(arm)
        told = [cell_text(scores[benchmark].get(name)) for benchmark, name in SHOWN]
        lines.append(_line(arm, *told, f"{text:.1f}" if text else ""))
    return lines


def _changes(each: Sequence[Row], whole: Row) -> list[str]:
    seeds = [f"seed {seed}" for seed in range(len(each))]
    lines = [_line("", "", *seeds, "together"), "|---" * (len(seeds) + 3) + "|"]
    for row in whole["differences"]:
        about, pair = (row["benchmark"], row["metric"]), (row["arm"], row["baseline"])
        own = [_find(one["differences"], *about, *pair) for one in (*each, whole)]
        told = [cell_text(one, signed=True) for one in own]
        lines.append(_line(" against ".join(pair), "/".join(about), *told))
    return lines


def _folds(cells: Sequence[Row]) -> list[str]:
    lines = [_line("fold", "", *map("/".join, SEEN), "perplexity"), "|---" * (len(SEEN) + 3) + "|"]
    for one in cells:
        for arm, scores in one["scores"].items():
            text = one["perplexity"].get(arm)
            told = [cell_text(scores[benchmark].get(name)) for benchmark, name in SEEN]
            lines.append(_line(str(one["fold"]), arm, *told, f"{text:.1f}" if text else ""))
    return lines


def _cells(cells: Sequence[Row]) -> list[str]:
    lines = [_line("fold", "seed", *map("/".join, POWER)), "|---" * (len(POWER) + 2) + "|"]
    for one in cells:
        rows = [_find(one["differences"], *about, "bdhs", "sft") for about in POWER]
        told = [cell_text(row, signed=True) for row in rows]
        lines.append(_line(str(one["fold"]), str(one["seed"]), *told))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
