"""Which share of the image tokens to mask, and how fast to learn: by development views.

    python choose.py --photos photos.jsonl --parts FOLDER --base MODEL --out runs/choose

Half of the photographs kept for pairs give the pairs, views of the other half are described; the
photographs that are held out are not touched. With 16 image tokens the paper's share of 0.99 leaves
nothing to see, so that what is rejected has nothing to do with the picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from photos import (
    DESCRIBE,
    Photo,
    Split,
    make_views,
    picture,
    read_photos,
    split_photos,
    taught_errors,
)
from run import CHAIR, Data, Plan, Steps, align, write_data

from veridical.files import read_json, read_jsonl, write_json

SHARES = (0.5, 0.75, 0.9, 0.99)


def write_views(shown: Sequence[Photo], data: Data, views: int) -> None:
    """Views as pictures of their own; what may or may not be seen in one counts as there."""
    data.images.mkdir(parents=True, exist_ok=True)
    objects = {}
    for photo in shown:
        for one in make_views(photo, views, seed=1):
            picture(one).save(data.images / f"{one.id}.png")
            objects[one.id] = sorted({*one.names, *one.unclear})
    data.objects.write_text(json.dumps(objects, indent=1))


def describe(plan: Plan, steps: Steps, arm: str, model: str, data: Data) -> dict[str, float]:
    """CHAIR on the development views."""
    out = plan.out / "eval" / arm
    steps.veridical(
        f"chair {plan.out.name} {arm}", out, "eval", "chair", model, "--images", data.images,
        "--objects", data.objects, "--prompt", DESCRIBE, "--max-new-tokens", 64, "--out", out,
    )  # fmt: skip
    scores = read_json(out / "scores.json")
    return {name: scores[name]["value"] for name in CHAIR}


def choose(plan: Plan, shares: Sequence[float], views: int) -> list[dict[str, Any]]:
    """A row for each share, beside those of earlier calls; also written to `choice.json`."""
    split = split_photos(read_photos(plan.photos), plan.fold)
    half = len(split.paired) // 2
    own = Split(split.taught, split.paired[:half], split.paired[half:])
    seen = Data(plan.out / f"fold{plan.fold}-views{views}")
    if not seen.objects.exists():
        write_views(own.held_out, seen, views)
    steps = Steps(plan.out)
    file = plan.out / "choice.json"
    rows: list[dict[str, Any]] = read_json(file) if file.exists() else []
    began = Plan(plan.photos, plan.out / f"fold{plan.fold}-views{views}-base", base=plan.base)
    began.settle()
    before = describe(began, steps, "base", str(plan.base), seen)
    for share in shares:
        name = f"fold{plan.fold}-mask{share:g}-rate{plan.learning_rate:g}-steps{plan.steps}"
        tried = replace(plan, out=plan.out / name, mask=share)
        tried.settle()
        models = align(tried, Steps(tried.out), str(plan.base), write_data(tried, own), ["bdhs"])
        summary = read_json(tried.out / "pairs" / "summary.json")
        log = read_jsonl(tried.out / "train" / "bdhs" / "log.jsonl")
        after = describe(tried, steps, f"bdhs-{views}", models["bdhs"], seen)
        row = {
            "mask": share, "learning_rate": plan.learning_rate, "steps": plan.steps,
            "fold": plan.fold, "views": views, "pairs": summary["pairs"],
            "similarity": summary["mean_similarity"], "margin": log[-1]["rewards_margin"],
            "base": before, "bdhs": after,
        }  # fmt: skip
        rows = [*(other for other in rows if other != row), row]
        write_json(file, rows)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Read the command line."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--photos", type=Path, required=True)
    reader.add_argument("--parts", type=Path, required=True)
    reader.add_argument("--base", required=True)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--fold", type=int, default=0)
    reader.add_argument("--views", type=int, default=4)
    reader.add_argument("--steps", type=int, default=Plan.steps)
    reader.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    reader.add_argument("--shares", type=float, nargs="+", default=SHARES)
    given = reader.parse_args()
    plan = Plan(
        given.photos, given.out, given.parts, given.base, fold=given.fold, steps=given.steps,
        learning_rate=given.learning_rate,
    )  # fmt: skip
    with taught_errors():
        choose(plan, given.shares, given.views)


if __name__ == "__main__":
    main()
