"""Which share of the image tokens to mask, and how fast to learn: by development views.

    python choose.py --photos photos.jsonl --parts FOLDER --base MODEL --out runs/choose

Half of the photographs kept for pairs give the pairs, views of the other half are described; the
photographs that are held out are not touched. With 16 image tokens the paper's share of 0.99 leaves
nothing to see, so that what is rejected has nothing to do with the picture.
"""

from __future__ import annotations

import argparse
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
    refuse_taught,
    split_photos,
    taught_errors,
)
from run import CHAIR, Data, Plan, Steps, align, always, cell_text, most_frequent, write_data

from veridical.eval.chair import BENCHMARK, ChairOptions, chair_sums, eval_chair
from veridical.eval.evaluation import Subject
from veridical.runtime.errors import UserError
from veridical.runtime.files import (
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text_atomic,
)
from veridical.scoring.statistics import ClusterSums, compare, estimate

SHARES = (0.5, 0.75, 0.9, 0.99)
BASELINES = ("base", "base, other photographs", "constant-1", "constant-3")


def write_views(shown: Sequence[Photo], data: Data, views: int) -> None:
    """Views as pictures of their own; what may or may not be seen in one counts as there."""
    data.images.mkdir(parents=True, exist_ok=True)
    objects = {}
    for photo in shown:
        for one in make_views(photo, views, seed=1):
            picture(one).save(data.images / f"{one.id}.png")
            objects[one.id] = sorted({*one.names, *one.unclear})
    write_json(data.objects, objects)


def describe(steps: Steps, out: Path, model: str, data: Data) -> None:
    """Have the development views described."""
    steps.veridical(
        f"chair {out.parents[1].name} {out.name}", out, "eval", "chair", model,
        "--images", data.images,
        "--objects", data.objects, "--prompt", DESCRIBE, "--max-new-tokens", 64, "--out", out,
    )  # fmt: skip


def by_photograph(folder: Path) -> ClusterSums:
    """CHAIR's counts by photograph, as views of one are not independent."""
    details = read_jsonl(folder / "details.jsonl")
    return chair_sums([{**row, "image_id": row["image_id"].rpartition("-")[0]} for row in details])


def score(folder: Path) -> dict[str, Any]:
    """CHAIR of descriptions of views; intervals are over photographs."""
    found = estimate(by_photograph(folder), BENCHMARK.formulas)
    return {name: found[name].as_json() for name in CHAIR}


def not_looked(
    folder: Path, base: Path, known: Sequence[Photo], shown: Sequence[Photo], data: Data
) -> dict[str, dict[str, Any]]:
    """CHAIR of what has not looked: answers about other photographs, and constant ones.

    Every view is asked about in the same words, so the base model's answer about the next
    photograph's view is what it would say if that were shown in place of this one.

    Args:
        folder: to write to.
        base: folder of the base model's answers.
        known: photographs to learn from; what they show most often is what is always said.
        shown: the photographs whose views are described.
        data: those views.
    """
    image_ids = list(read_json(data.objects))
    views = {
        photo.id: [one for one in image_ids if one.rpartition("-")[0] == str(photo.id)]
        for photo in shown
    }
    said = {row["image_id"]: row["answer"] for row in read_jsonl(base / "answers.jsonl")}
    others = []
    for place, photo in enumerate(shown):
        following = views[shown[(place + 1) % len(shown)].id]
        others += [
            {"image_id": one, "answer": said[following[number % len(following)]]}
            for number, one in enumerate(views[photo.id])
        ]
    frequent = most_frequent(known)
    found = {}
    for name, answers in (
        (BASELINES[1], others),
        (BASELINES[2], always(frequent[:1], image_ids)),
        (BASELINES[3], always(frequent[:3], image_ids)),
    ):
        out = folder / name.replace(", ", "_").replace(" ", "_")
        out.mkdir(parents=True, exist_ok=True)
        write_jsonl(out / "descriptions.jsonl", answers)
        eval_chair(
            ChairOptions(data.objects), out / "chair",
            Subject(answers=[out / "descriptions.jsonl"]),
        )  # fmt: skip
        found[name] = score(out / "chair")
    return found


def choose(plan: Plan, shares: Sequence[float], views: int) -> list[dict[str, Any]]:
    """A row for each share, beside those of earlier calls; written to `choice.json` and `.md`."""
    split = split_photos(read_photos(plan.photos), plan.fold)
    half = len(split.paired) // 2
    own = Split(split.taught, split.paired[:half], split.paired[half:])
    if len(own.held_out) < 2:
        raise UserError("One photograph to describe can't be exchanged for another; give more.")
    refuse_taught(own.held_out, str(plan.base))
    seen = Data(plan.out / f"fold{plan.fold}-views{views}")
    if not seen.objects.exists():
        write_views(own.held_out, seen, views)
    steps = Steps(plan.out)
    file = plan.out / "choice.json"
    rows: list[dict[str, Any]] = read_json(file) if file.exists() else []
    began = Plan(plan.photos, plan.out / f"fold{plan.fold}-views{views}-base", base=plan.base)
    began.settle()
    base = began.out / "eval" / "base"
    describe(steps, base, str(plan.base), seen)
    before = {BASELINES[0]: score(base)}
    before |= not_looked(began.out / "eval", base, [*own.taught, *own.paired], own.held_out, seen)
    for share in shares:
        name = f"fold{plan.fold}-mask{share:g}-rate{plan.learning_rate:g}-steps{plan.steps}"
        tried = replace(plan, out=plan.out / name, mask=share)
        tried.settle()
        models = align(tried, Steps(tried.out), str(plan.base), write_data(tried, own), ["bdhs"])
        summary = read_json(tried.out / "pairs" / "summary.json")
        log = read_jsonl(tried.out / "train" / "bdhs" / "log.jsonl")
        after = tried.out / "eval" / f"bdhs-{views}"
        describe(steps, after, models["bdhs"], seen)
        change = compare(by_photograph(after), by_photograph(base), BENCHMARK.formulas)
        row = {
            "mask": share, "learning_rate": plan.learning_rate, "steps": plan.steps,
            "fold": plan.fold, "views": views, "pairs": summary["pairs"],
            "similarity": summary["mean_similarity"], "margin": log[-1]["rewards_margin"],
            "not looked": before, "bdhs": score(after), "change": change["chair_i"].as_json(),
        }  # fmt: skip
        rows = [*(other for other in rows if other != row), row]
        write_json(file, rows)
        write_text_atomic(plan.out / "choice.md", table(rows))
        print(table(rows), flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The last row and others of its fold and views, below the base and what has not looked."""
    same = [row for row in rows if all(row[k] == rows[-1][k] for k in ("fold", "views"))]
    lines = [f"| | {' | '.join(CHAIR)} | chair_i against base |", "|---" * (len(CHAIR) + 2) + "|"]
    for name, scores in rows[-1]["not looked"].items():
        lines.append(f"| {name} | {' | '.join(cell_text(scores[one]) for one in CHAIR)} | |")
    for row in same:
        told = " | ".join(cell_text(row["bdhs"][one]) for one in CHAIR)
        lines.append(
            f"| mask {row['mask']:g}, rate {row['learning_rate']:g}, {row['steps']} steps "
            f"| {told} | {cell_text(row['change'], signed=True)} |"
        )
    return "\n".join(lines) + "\n"


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
