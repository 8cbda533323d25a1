"""Pairs with distorted pictures beside their own, without any model.

In `rejected_images` they are what the rejected answer is read with, in `contrast_images` what the
chosen answer is compared with (`--loss mdpo`). From conversations: the true answer is both chosen
and rejected, and only the picture tells the branches apart, so the policy has to look (the
conditional pair of mDPO, Wang et al. 2024). From pairs: the rejected answer stays (as in POVID).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from datasets import Dataset
from PIL import Image

from veridical.bdhs.image_corruptions import COVERED, black, cover_blocks, cover_pixels, turned
from veridical.bdhs.image_crops import cropped
from veridical.bdhs.image_noise import add_noise, shrunk
from veridical.builders._other_images import OtherImages
from veridical.builders._parts import finish
from veridical.builders._row_parts import RowParts, build_set
from veridical.builders._rows import Skipped, require_any, sort_out, write_skipped
from veridical.data.origins import image_paths
from veridical.data.reading import read
from veridical.data.record_types import ImageField, NewRow
from veridical.data.records import RecordSet, count_images
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import Reading
from veridical.runtime.progress import are_in
from veridical.runtime.ranges import Range
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

How = Literal["noise", "crop", "pixels", "blocks", "tokens", "rotate", "black", "other"]
SHARES = ("pixels", "blocks", "tokens")
"""What `--covered` is a share of."""
NOISE_STEPS = 500


@dataclass(frozen=True)
class Distortion:
    """What is done to pictures, and where the result goes; as the options of `build_distort`."""

    how: How
    column: ImageField
    noise_steps: int
    covered: float
    seed: int

    def apply(self, picture: Image.Image, name: str) -> Image.Image:
        """A picture, distorted; the same for the same name."""
        match self.how:
            case "crop":
                return cropped(picture, self.seed, name)
            case "pixels":
                return cover_pixels(shrunk(picture), self.covered, self.seed, name)
            case "blocks":
                return cover_blocks(shrunk(picture), self.covered, self.seed, name)
            case "rotate":
                return turned(picture, self.seed, name)
            case "black":
                return black(picture)
        return add_noise(shrunk(picture), self.noise_steps, self.seed, name)

    def provenance(self) -> JsonObject:
        """What a pair's `source` says of it."""
        own: JsonObject = {"noise_steps": self.noise_steps} if self.how == "noise" else {}
        own |= {"covered": self.covered} if self.how in SHARES else {}
        told: JsonObject = {"builder": "distort", "how": self.how, "column": self.column}
        return told | own | {"seed": self.seed}


def build_distort(
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
    how: How = "noise",
    column: Literal["rejected_images", "contrast_images"] = "rejected_images",
    noise_steps: Annotated[int | None, Range(1, 1000)] = None,
    covered: Annotated[float | None, Range(0, 1, above=True)] = None,
    reading: Reading = Reading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Give every pair a distorted picture beside its own, for its rejected branch or for mDPO.

    Under `noise`, `pixels` and `blocks`, pictures are at most 336 pixels on their shorter side, so
    that nothing is averaged away where a model's processor makes a large photograph small.

    Rows without an image are left out and listed: nothing could be distorted. An interrupted run
    continues when the command is given again. The number of shards does not change the result.

    Args:
        data: conversations with true answers, or preference pairs.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are; of a `conversation` the last answer is chosen and rejected alike.
        how: `noise` is diffusion noise; `crop` keeps a random part, 1 to 20% of the area; `pixels`
            and `blocks` (14 x 14 pixels) give some the picture's mean color; `tokens` leaves the
            picture and has training hide some of its tokens (`rejected_masked`,
            `contrast_masked`); `rotate` turns it by 90, 180 or 270 degrees; `black`; `other` is
            another picture of DATA.
        column: where the distorted picture goes: `rejected_images` is seen by the rejected answer,
            `contrast_images` (of a `preference`) is what `train dpo --loss mdpo` compares with.
        noise_steps: of `noise`: diffusion steps, 1 to 1000; 500 if not set.
        covered: of `pixels`, `blocks` and `tokens`: which share of them is covered; 0.3 if not set.
        reading: how DATA is read.
        seed: of all that is random.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    part = read_shard(shard)
    _check(how, noise_steps, covered)
    if column == "contrast_images" and kind == "conversation":
        raise UserError(
            "--column contrast_images needs pairs that have a rejected answer: set --kind "
            "preference. From conversations the picture is all that tells the branches apart."
        )
    distortion = Distortion(how, column, noise_steps or NOISE_STEPS, covered or COVERED, seed)
    options = {
        "data": data, "out": out, "kind": kind, "how": how, "column": column,
        "noise_steps": noise_steps, "covered": covered, "reading": reading,
        "seed": seed, "shard": shard,
    }  # fmt: skip
    with start_run(out, "build distort", options, {"data": data}, any_process=True) as run:
        records = read(data, kind, reading)
        outcome = sort_out(_seen_or_skipped(records))
        nothing = f"No row of {data} has an image, so there is nothing to distort."
        if not outcome.kept:
            write_skipped(out, records, outcome.skipped, "pair")
        require_any(outcome, out, "pair", nothing)
        path, files = out / "pairs.parquet", image_paths(records.rows)
        identity = {**distortion.provenance(), "kind": kind,
                    "data": run.record["inputs"]["data"]["sha256"]}  # fmt: skip
        others = OtherImages(records.rows, outcome.kept, seed) if how == "other" else None
        if others is not None:
            identity["others"] = others.key
        parts = RowParts(out / "parts", identity, "preference")
        if not build_set(
            parts, path, outcome.kept, lambda some: _pairs(records.rows, some, distortion, others),
            files, "pairs", part,
        ):  # fmt: skip
            return
        skipped = write_skipped(out, records, outcome.skipped, "pair")
        summary = {"records": records.total, "pairs": len(outcome.kept), "skipped": skipped}
        finish(run, summary, parts)
        print_result(are_in(len(outcome.kept), "pairs", path))


def _check(how: How, noise_steps: int | None, covered: float | None) -> None:
    if noise_steps is not None and not 1 <= noise_steps <= 1000:
        raise UserError(f"--noise-steps is {noise_steps}; the schedule has 1 to 1000.")
    if covered is not None and not 0 < covered <= 1:
        raise UserError(f"--covered is {covered:g}; give a share above 0, at most 1.")
    if noise_steps is not None and how != "noise":
        raise UserError(f"--noise-steps means nothing with --how {how}. Leave it out.")
    if covered is not None and how not in SHARES:
        raise UserError(f"--covered means nothing with --how {how}. Leave it out.")


def _seen_or_skipped(records: RecordSet) -> Iterator[int | Skipped]:
    """The indices of the rows with an image."""
    for index, row in enumerate(records.rows.remove_columns(["images"])):
        if count_images(row["messages"] if "messages" in row else row["prompt"]):
            yield index
        else:
            yield Skipped(row["id"], "images", "there is no image to distort")


def _pairs(
    rows: Dataset, indices: Sequence[int], distortion: Distortion, others: OtherImages | None
) -> Iterator[NewRow]:
    change = distortion.apply if others is None else others.instead_of
    raw = rows.with_format("arrow")
    for index in indices:
        row = rows[index]
        pair: NewRow = row.copy()
        if messages := pair.pop("messages", None):
            pair["prompt"] = messages[:-1]
            pair["chosen"] = pair["rejected"] = messages[-1:]
        # In Arrow's form images are the bytes of their files, not decoded and packed again.
        pair["images"] = raw[index].to_pylist()[0]["images"]
        if distortion.how == "tokens":
            masked: Literal["rejected_masked", "contrast_masked"] = "contrast_masked"
            if distortion.column == "rejected_images":
                masked = "rejected_masked"
            pair[masked] = distortion.covered
        else:
            pair[distortion.column] = [
                change(image, f"{row['id']}/{number}") for number, image in enumerate(row["images"])
            ]
        provenance = distortion.provenance()
        if row.get("source"):
            provenance["from"] = row["source"]
        pair["source"] = json.dumps(provenance, ensure_ascii=False)
        yield pair
