"""Pairs of two pictures, each with its right answer, for losses that compare them both ways.

SymMPO (Liu et al. 2025) takes two similar images with their right answers and a wrong answer to the
first; S-VCO (Wu et al. 2025) two images with their right answers. Here the second image and its
answer are another row's, to the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from datasets import Dataset

from veridical.builders._answers import ChosenAnswer, read_answers
from veridical.builders._object_lists import objects_of
from veridical.builders._partners import Partner, Partners
from veridical.builders._parts import finish
from veridical.builders._row_parts import RowParts, build_set
from veridical.builders._rows import Skipped, require_any, sort_out, write_skipped
from veridical.builders.options import ObjectFiles
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.origins import image_paths
from veridical.data.reading import read
from veridical.data.record_types import NewRow
from veridical.data.vocabulary import read_vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import are_in
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

MAY_BE_TRUE_OF_BOTH = (
    "Without --objects the other picture is drawn from all to the same prompt: an answer may be "
    "true of both pictures. Look at some pairs (`veridical view`), or give object lists."
)


def build_contrast(
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
    files: ObjectFiles = ObjectFiles(),
    reading: Reading = Reading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Give every answer another row's picture, with the right answer to that one.

    The other row has the same prompt, another picture and another answer. With --objects it is the
    one whose picture shares most objects, while each of the two pictures shows one that the other
    lacks; else it is drawn, and an answer may be true of both pictures.

    Rows for which there is none are left out and listed. An interrupted run continues when the
    command is given again. The number of shards does not change the result.

    Args:
        data: conversations with true answers, or preference pairs.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are. A `conversation` becomes a pair for `train dpo --loss svco`: the
            other answer is the rejected one. A `preference` becomes one for `--loss symmpo`: its
            rejected answer stays, and the other chosen one is `contrast_chosen`.
        files: what is in the images.
        reading: how DATA is read.
        seed: of the draws.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    if files.vocabulary is not None and files.objects is None:
        raise UserError("--vocabulary names objects, and there are no --objects. Set both.")
    part = read_shard(shard)
    options = {
        "data": data, "out": out, "kind": kind, "files": files, "reading": reading, "seed": seed,
        "shard": shard,
    }  # fmt: skip
    inputs = {"data": data, **files.inputs}
    with start_run(out, "build contrast", options, inputs, any_process=True) as run:
        records = read(data, kind, reading)
        every = read_answers(records.rows, kind)
        seen = sort_out(
            answer if answer.images else Skipped(answer.record, "images", "there is no image")
            for answer in every
        )
        outcome = sort_out(Partners(seen.kept, _listed(seen.kept, files), seed).all())
        outcome.skipped[:0] = seen.skipped
        if not outcome.kept:
            write_skipped(out, records, outcome.skipped, "pair")
        require_any(outcome, out, "pair")
        path, image_files = out / "pairs.parquet", image_paths(records.rows)
        paired = [
            Partner(seen.kept[one.own].index, seen.kept[one.other].index, one.shared)
            for one in outcome.kept
        ]
        identity = {
            "builder": "contrast", "kind": kind, "data": run.record["inputs"]["data"]["sha256"],
            "seed": seed, "partners": [[one.own, one.other] for one in paired],
        }  # fmt: skip
        parts = RowParts(out / "parts", identity, "preference")
        if not build_set(
            parts, path, paired, lambda some: _pairs(records.rows, every, some, seed),
            lambda one: [*image_files(one.own), *image_files(one.other)], "pairs", part,
        ):  # fmt: skip
            return
        skipped = write_skipped(out, records, outcome.skipped, "pair")
        summary: dict[str, object] = {"records": records.total, "pairs": len(paired)}
        shares = [one.shared for one in paired if one.shared is not None]
        if shares:
            summary["shared_objects"] = round(sum(shares) / len(shares), 4)
        finish(run, summary | {"skipped": skipped}, parts)
        if files.objects is None:
            print_result(MAY_BE_TRUE_OF_BOTH)
        print_result(are_in(len(paired), "pairs", path))


def _listed(answers: Sequence[ChosenAnswer], files: ObjectFiles) -> list[list[str] | None] | None:
    """What is in each answer's images; None where no lists are given."""
    if files.objects is None:
        return None
    listed = name_objects(read_objects(files.objects), read_vocabulary(files.vocabulary))
    match_image_ids(sorted({name for one in answers for name in one.image_names}), listed)
    return [objects_of(answer, listed) for answer in answers]


def _pairs(
    rows: Dataset, answers: Sequence[ChosenAnswer], some: Sequence[Partner], seed: int
) -> Iterator[NewRow]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    for one in some:
        own, other = (raw[index].to_pylist()[0] for index in (one.own, one.other))
        pair: NewRow = own.copy()
        if pair.pop("messages", None):
            pair["prompt"] = answers[one.own].prompt
            pair["chosen"], pair["rejected"] = (
                [answers[one.own].message],
                [answers[one.other].message],
            )
        else:
            pair["contrast_chosen"] = other["chosen"]
        pair["contrast_images"] = other["images"]
        pair["contrast_masked"] = None
        source = {"builder": "contrast", "other": other["id"], "shared": one.shared, "seed": seed}
        if own.get("source"):
            source["from"] = own["source"]
        pair["source"] = json.dumps(source, ensure_ascii=False)
        yield pair
