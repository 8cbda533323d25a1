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

from veridical.bdhs.image_noise import add_noise, shrunk
from veridical.builders._parts import write_skipped
from veridical.data.records import RecordSet, count_images, read_records, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.progress import are_in, track
from veridical.runtime.runs import start_run


def build_distort(
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
    noise_steps: int = 500,
    limit: int | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
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
        limit: use only the first so many records.
        images_root: what image paths are relative to; the data file's folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
        seed: of the noise.
    """
    configuration = dict(locals())
    require_file(data, "--data")
    if not 1 <= noise_steps <= 1000:
        raise UserError(f"--noise-steps is {noise_steps}; the schedule has 1 to 1000.")
    with start_run(out, "build distort", configuration, {"data": data}) as run:
        records = read_records(data, kind, images_root, max_bad_fraction)
        blind, seen = _by_sight(records, limit)
        reasons = (
            {"id": name, "field": "images", "reason": "there is no image to distort"}
            for name in blind
        )
        skipped = write_skipped(out, records, reasons, "pair")
        if not seen:
            raise UserError(f"No row of {data} has an image, so there is nothing to distort.")
        pairs = _pairs(records.rows, seen, noise_steps, seed)
        write_records(pairs, out / "pairs.parquet", "preference")
        summary = {"records": records.total, "pairs": len(seen), "skipped": skipped}
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(are_in(len(seen), "pairs", out / "pairs.parquet"))


def _by_sight(records: RecordSet, limit: int | None) -> tuple[list[str], list[int]]:
    """Ids of the rows without an image, and indices of the others."""
    texts = records.rows.remove_columns(["images"])
    count = len(texts) if limit is None else min(limit, len(texts))
    blind, seen = [], []
    for index in range(count):
        row = texts[index]
        if count_images(row["messages"] if "messages" in row else row["prompt"]):
            seen.append(index)
        else:
            blind.append(row["id"])
    return blind, seen


def _pairs(rows: Any, indices: list[int], steps: int, seed: int) -> Iterator[dict[str, Any]]:
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
