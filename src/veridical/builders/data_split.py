"""A file of records in two parts that share no image: one to train on, one to hold out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from veridical.builders._parts import finish
from veridical.builders._rows import write_skipped
from veridical.builders.data_export import kind_of
from veridical.data.images import image_bytes_key, row_images
from veridical.data.messages import count_images
from veridical.data.reading import read
from veridical.data.record_kinds import Kind
from veridical.data.record_writing import plain_record
from veridical.data.records import RecordSet, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import counted, track
from veridical.runtime.randomness import generator
from veridical.runtime.runs import start_run


def data_split(
    data: Path,
    out: Path,
    kind: Kind | None = None,
    held_out: float = 0.1,
    held_out_limit: int | None = None,
    reading: Reading = Reading(),
    seed: int = 0,
) -> None:
    """Split a file of records into one to train on and one to hold out; no image is in both.

    Rows with an image in common are on the same side, whole, so the share is met as nearly as that
    allows. Which rows are held out is drawn by seed. The parts hold the images' bytes.

    Args:
        data: Parquet, JSON Lines, or LLaVA's JSON.
        out: folder for the run: `train.parquet`, `held_out.parquet`, `summary.json`,
            `skipped.jsonl`, `run.json`.
        kind: kind of the records; recognized by their columns if not set.
        held_out: share of the rows that are held out, above 0 and below 1.
        held_out_limit: hold out at most so many rows.
        reading: how DATA is read.
        seed: of the draw.
    """
    require_file(data, "--data")
    if not 0 < held_out < 1:
        raise UserError(f"--held-out is {held_out:g}; give a share above 0 and below 1.")
    options = {
        "data": data, "out": out, "kind": kind, "held_out": held_out,
        "held_out_limit": held_out_limit, "reading": reading, "seed": seed,
    }  # fmt: skip
    with start_run(out, "data split", options, {"data": data}) as run:
        kind = kind or kind_of(data)
        records = read(data, kind, reading)
        groups = groups_by_image(records)
        wanted = max(1, round(held_out * len(groups)))
        chosen = held_out_rows(groups, min(wanted, held_out_limit or wanted), records.ids, seed)
        if not any(chosen):
            raise UserError(
                f"{data} can't be split: {counted(len(groups), 'rows')} with the same image, and "
                "no other. Give rows with other images as well."
            )
        skipped = write_skipped(out, records, [], "row")
        counts = {}
        for name, side in (("train", False), ("held_out", True)):
            places = [place for place, is_held in enumerate(chosen) if is_held == side]
            write_records(_rows(records, places, name), out / f"{name}.parquet", kind)
            counts[name] = len(places)
        finish(run, {"kind": kind, **counts, "skipped": skipped})
        print(
            f"{counted(counts['train'], 'rows')} to train on are in {out / 'train.parquet'}, "
            f"{counts['held_out']} held out in {out / 'held_out.parquet'}."
        )


def groups_by_image(records: RecordSet) -> Sequence[int]:
    """A number for each row; rows with an image in common, directly or by others, have the same."""
    pictures = records.rows.select_columns(["images"])
    texts = records.rows.remove_columns(
        [name for name in records.rows.column_names if name.endswith("images")]
    )
    names: dict[str, int] = {}
    pairs = [
        (index, names.setdefault(image_bytes_key(image), len(names)))
        for index, row in enumerate(track(texts, "reading images", len(texts)))
        for image in row_images(pictures, index, _images(row))
    ]
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    columns = np.array([len(texts) + name for _, name in pairs], dtype=np.int64)
    nodes = len(texts) + len(names)
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(nodes, nodes))
    _, labels = connected_components(links, directed=False)
    return [int(label) for label in labels[: len(texts)]]


def _images(row: Mapping[str, Any]) -> int:
    return count_images(row["messages"] if "messages" in row else row["prompt"])


def held_out_rows(groups: Sequence[int], wanted: int, ids: Sequence[str], seed: int) -> list[bool]:
    """Whether each row is held out: whole groups, drawn by seed, until `wanted` rows are.

    A group that would take more than is wanted is passed over; where all would, the smallest is
    taken. None is held out where all rows are one group.
    """
    sizes = np.bincount(groups)
    if np.count_nonzero(sizes) < 2:
        return [False] * len(groups)
    # By the first row's id, so that the order of rows decides nothing else.
    order = list(dict.fromkeys(groups[place] for place in np.argsort(np.array(ids), kind="stable")))
    drawn = [order[place] for place in generator(seed, "held out").permutation(len(order))]
    taken: set[int] = set()
    left = min(wanted, len(groups) - 1)
    for group in drawn:
        if sizes[group] <= left:
            taken.add(group)
            left -= int(sizes[group])
    return [group in (taken or {min(drawn, key=lambda one: sizes[one])}) for group in groups]


def _rows(records: RecordSet, places: Sequence[int], label: str) -> Iterator[dict[str, object]]:
    """Rows with their images as the bytes of their files."""
    raw = records.rows.with_format("arrow")
    for place in track(places, f"writing {label}", len(places)):
        yield plain_record(raw[place].to_pylist()[0])
