"""Which share of the image tokens BDHS should mask, by what DPO then does to development views.

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

from photos import Photo, Split, make_views, picture, read_photos, split_photos
from run import CHAIR, DESCRIBE, Data, Plan, Steps, align, write_data

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


def choose(plan: Plan, shares: Sequence[float], views: int) -> list[dict[str, object]]:
    """A row for each share; also written to `choice.json`."""
    split = split_photos(read_photos(plan.photos), plan.fold)
    half = len(split.paired) // 2
    own = Split(split.taught, split.paired[:half], split.paired[half:])
    seen = Data(plan.out / "views")
    if not seen.objects.exists():
        write_views(own.held_out, seen, views)
    before = describe(plan, Steps(plan.out), "base", str(plan.base), seen)
    rows: list[dict[str, object]] = []
    for share in shares:
        tried = replace(plan, out=plan.out / f"mask-{share:g}", mask=share)
        steps = Steps(tried.out)
        models = align(tried, steps, str(plan.base), write_data(tried, own), ["bdhs"])
        summary = read_json(tried.out / "pairs" / "summary.json")
        row: dict[str, object] = {"share": share, "pairs": summary["pairs"]}
        row |= {"similarity": summary["mean_similarity"]}
        log = read_jsonl(tried.out / "train" / "bdhs" / "log.jsonl")
        row |= {"margin": log[-1]["rewards_margin"]}
        row |= {"base": before, "bdhs": describe(tried, steps, "bdhs", models["bdhs"], seen)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    write_json(plan.out / "choice.json", {"rows": rows, "views": views})
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
    choose(plan, given.shares, given.views)


if __name__ == "__main__":
    main()
