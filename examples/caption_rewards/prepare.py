"""Pairs of real captions for a reward model, and what guessing without reading would give.

    python prepare.py vlm_caption_pairs.jsonl --out runs/captions

Reads JSON Lines {"image_id", "question", "chosen", "rejected", "chosen_model", "rejected_model",
"gt_objects"}: captions by several vision-language models, of which the rejected one names objects
that the photograph does not show. The photographs themselves are not needed: rows are text alone,
and what is known to be in the picture stands in `facts`. A share of the images is held out with all
their pairs. Writes `train.jsonl`, `held_out.jsonl` and `baselines.json`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from veridical.data.records import assistant_message, user_message, write_records
from veridical.runtime.files import read_jsonl, write_json
from veridical.runtime.randomness import generator
from veridical.scoring.statistics import Metric, Ratio, estimate, sum_by_cluster

Row = dict[str, Any]
Guess = Callable[[Row], float]


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows held out; an image is on one side with all its pairs."""
    images = sorted({row["image_id"] for row in rows}, key=str)
    drawn = sorted(images, key=lambda image: generator(seed, "held-out", str(image)).random())
    held_out = set(drawn[: round(share * len(images))])
    return (
        [row for row in rows if row["image_id"] not in held_out],
        [row for row in rows if row["image_id"] in held_out],
    )


def by_author(rows: Sequence[Row]) -> Guess:
    """Of two authors the one that won more often in `rows`; a half where neither did."""
    wins: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        wins[row["chosen_model"], row["rejected_model"]] += 1

    def guess(row: Row) -> float:
        ours = wins[row["chosen_model"], row["rejected_model"]]
        theirs = wins[row["rejected_model"], row["chosen_model"]]
        return 0.5 if ours == theirs else float(ours > theirs)

    return guess


def by_length(shorter: bool) -> Guess:
    """The shorter of the two, or the longer one; a half where they are as long."""

    def guess(row: Row) -> float:
        chosen, rejected = len(row["chosen"].split()), len(row["rejected"].split())
        return 0.5 if chosen == rejected else float((chosen < rejected) == shorter)

    return guess


def accuracy(rows: Sequence[Row], guess: Guess) -> dict[str, Any]:
    """With a 95 % interval clustered by image."""
    counted = ((row["image_id"], {"right": guess(row), "pairs": 1.0}) for row in rows)
    metric = Metric("accuracy", Ratio("right", "pairs"), "pairs")
    return estimate(sum_by_cluster(counted), [metric])["accuracy"].as_json()


def record(row: Row, number: int) -> Row:
    """A preference record, of text alone."""
    about = {name: row[name] for name in ("chosen_model", "rejected_model", "image_id")}
    return {
        "id": f"{row['image_id']}-{number}",
        "images": [],
        "prompt": [user_message(row["question"], images=0)],
        "chosen": [assistant_message(row["chosen"])],
        "rejected": [assistant_message(row["rejected"])],
        "facts": list(row["gt_objects"]) or None,
        "source": json.dumps({"builder": "captions", **about}),
    }


def main() -> None:
    """Read the command line."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("pairs", type=Path)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--held-out", type=float, default=0.25, help="share of the images")
    reader.add_argument("--most-words", type=int, default=120, help="longer captions are left out")
    reader.add_argument("--seed", type=int, default=0)
    given = reader.parse_args()
    every = read_jsonl(given.pairs)
    rows = [
        row
        for row in every
        if max(len(row[branch].split()) for branch in ("chosen", "rejected")) <= given.most_words
    ]
    train, held_out = split(rows, given.held_out, given.seed)
    for name, part in (("train", train), ("held_out", held_out)):
        records = [record(row, number) for number, row in enumerate(part)]
        write_records(records, given.out / f"{name}.jsonl", "preference")
    baselines = {
        "author": accuracy(held_out, by_author(train)),
        "shorter": accuracy(held_out, by_length(shorter=True)),
        "longer": accuracy(held_out, by_length(shorter=False)),
    }
    write_json(given.out / "baselines.json", baselines)
    print(f"{len(rows)} of {len(every)} pairs have at most {given.most_words} words an answer;")
    print(f"{len(train)} to learn from, {len(held_out)} held out.")
    for name, score in baselines.items():
        print(f"  guessing by {name:8} {score['value']:.3f} [{score['low']:.3f}, "
              f"{score['high']:.3f}]")  # fmt: skip


if __name__ == "__main__":
    main()
