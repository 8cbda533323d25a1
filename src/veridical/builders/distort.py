"""Pairs whose rejected branch sees a distorted picture (`rejected_images`), without any model.

From conversations: the true answer is both chosen and rejected, and only the picture tells the
branches apart, so the policy has to look (the conditional pair of mDPO, Wang et al. 2024). From
pairs: the rejected answer stays, and is judged under the distorted picture (as POVID does).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from veridical.bdhs.image_noise import add_noise, shrunk
from veridical.builders._parts import finish
from veridical.builders._rows import Skipped, sort_out, write_set
from veridical.data.reading import read
from veridical.data.records import RecordSet, count_images
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import are_in, track
from veridical.runtime.runs import start_run


def build_distort(
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
    noise_steps: int = 500,
    reading: Reading = Reading(),
    seed: int = 0,
) -> None:
    """Give the rejected branch of every pair a picture under diffusion noise.

    Distorted pictures are at most 336 pixels on their shorter side, so that the noise is not
    averaged away where a model's processor makes a large photograph small.

    Rows without an image are left out and listed: nothing could be distorted.

    Args:
        data: conversations with true answers, or preference pairs.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are; of a `conversation` the last answer is chosen and rejected alike.
        noise_steps: diffusion steps, 1 to 1000.
        reading: how DATA is read.
        seed: of the noise.
    """
    require_file(data, "--data")
    if not 1 <= noise_steps <= 1000:
        raise UserError(f"--noise-steps is {noise_steps}; the schedule has 1 to 1000.")
    options = {
        "data": data, "out": out, "kind": kind, "noise_steps": noise_steps, "reading": reading,
        "seed": seed,
    }  # fmt: skip
    with start_run(out, "build distort", options, {"data": data}) as run:
        records = read(data, kind, reading)
        outcome = sort_out(_seen_or_skipped(records))
        pairs = _pairs(records.rows, outcome.kept, noise_steps, seed)
        nothing = f"No row of {data} has an image, so there is nothing to distort."
        path = out / "pairs.parquet"
        skipped = write_set(path, "preference", pairs, outcome, records, "pair", nothing)
        summary = {"records": records.total, "pairs": len(outcome.kept), "skipped": skipped}
        finish(run, summary)
        print(are_in(len(outcome.kept), "pairs", path))


def _seen_or_skipped(records: RecordSet) -> Iterator[int | Skipped]:
    """The indices of the rows with an image."""
    for index, row in enumerate(records.rows.remove_columns(["images"])):
        if count_images(row["messages"] if "messages" in row else row["prompt"]):
            yield index
        else:
            yield Skipped(row["id"], "images", "there is no image to distort")


def _pairs(rows: Dataset, indices: list[int], steps: int, seed: int) -> Iterator[dict[str, Any]]:
    raw = rows.with_format("arrow")
    for index in track(indices, "pairs"):
        row = rows[index]
        pair = {name: value for name, value in row.items() if name != "messages"}
        if "messages" in row:
            answer = row["messages"][-1:]
            pair |= {"prompt": row["messages"][:-1], "chosen": answer, "rejected": answer}
        # In Arrow's form images are the bytes of their files, not decoded and packed again.
        pair["images"] = raw[index].to_pylist()[0]["images"]
        pair["rejected_images"] = [
            add_noise(shrunk(image), steps, seed, f"{row['id']}/{number}")
            for number, image in enumerate(row["images"])
        ]
        provenance = {"builder": "distort", "noise_steps": steps, "seed": seed}
        if row.get("source"):
            provenance["from"] = row["source"]
        pair["source"] = json.dumps(provenance, ensure_ascii=False)
        yield pair
