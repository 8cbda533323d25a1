"""Preference pairs as a reward model reads them, and what they are grouped by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from veridical.data.images import ImageLike, image_bytes_key, row_images
from veridical.data.messages import clean_messages, count_images
from veridical.data.records import RecordSet, text_of
from veridical.models.rendering import Group, RefusedRowError, open_images
from veridical.models.reward_model import RewardModel, judged_group
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.runtime.randomness import generator
from veridical.runtime.run_files import SkippedRow

Told = Literal["own", "none", "other"]
Seen = Literal["own", "gray"]


def facts_to_tell(records: RecordSet, told: Told, seed: int) -> list[list[str]]:
    """What is told of each record.

    Raises:
        UserError: facts of others are asked for, and no other image has any.
    """
    own: list[list[str]] = [[] for _ in range(len(records.rows))]
    if "facts" in records.rows.column_names and told != "none":
        cells = records.rows.with_format("arrow")["facts"].to_pylist()
        own = [list(lines or []) for lines in cells]
    if told != "other":
        return own
    known, names = clusters(records), records.ids
    candidates = [index for index, lines in enumerate(own) if lines]
    if len({known[index] for index in candidates}) < 2:
        raise UserError("--facts other needs records with facts about different images.")
    swapped = []
    for name, cluster in zip(names, known, strict=True):
        rng = generator(seed, "facts of another", name)
        other = candidates[int(rng.integers(len(candidates)))]
        while known[other] == cluster:
            other = candidates[int(rng.integers(len(candidates)))]
        swapped.append(own[other])
    return swapped


def clusters(records: RecordSet, key: str | None = None) -> list[str]:
    """What tells the records apart that the intervals take as one.

    Args:
        records: the pairs.
        key: of the records' `source`, whose value tells; None takes the images, or the prompt
            where there is none.

    Raises:
        UserError: a record's `source` has no such key.
    """
    if key is not None:
        return _by_key(records, key)
    pictures = records.rows.select_columns(["images"])
    texts = records.rows.select_columns(["prompt"])
    found = []
    for index in range(len(texts)):
        prompt = texts[index]["prompt"]
        images = row_images(pictures, index, count_images(prompt))
        keys = [image_bytes_key(image) for image in images]
        found.append("/".join(keys) or text_of(prompt))
    return found


@dataclass(frozen=True)
class RenderedPairs:
    """Pairs as a reward model reads them, by their place in the file; and what it can't read."""

    kept: Mapping[int, Group]
    refused: Sequence[SkippedRow]


def render_pairs(
    reward_model: RewardModel,
    records: RecordSet,
    told: Sequence[Sequence[str]],
    seen: Seen,
    limit: int | None,
) -> RenderedPairs:
    """Pairs as the model reads them; a file's first `limit` if that is set."""
    pictures = records.rows.select_columns(["images"])
    rejected_pictures = None
    columns = records.rows.column_names
    if "rejected_images" in columns:
        rejected_pictures = records.rows.select_columns(["rejected_images"])
    texts = records.rows.remove_columns([name for name in columns if name.endswith("images")])
    pairs: dict[int, Group] = {}
    refused: list[SkippedRow] = []
    for index in range(min(len(texts), limit or len(texts))):
        row = texts[index]
        prompt = clean_messages(row["prompt"])
        count = count_images(prompt)
        images: Sequence[ImageLike] = row_images(pictures, index, count)
        own: list[Sequence[ImageLike] | None] = []
        if rejected_pictures is not None and seen == "own":
            cell = rejected_pictures.with_format("arrow")[index]["rejected_images"][0]
            if cell.is_valid:
                own = [None, row_images(rejected_pictures, index, count, "rejected_images")]
        if seen == "gray":
            images = [Image.new("RGB", i.size, (127, 127, 127)) for i in open_images(images)]
        answers = [clean_messages(row["chosen"]), clean_messages(row["rejected"])]
        try:
            if row.get("rejected_masked"):
                raise RefusedRowError("image tokens can't be hidden (rejected_masked) from it")
            pairs[index] = judged_group(
                reward_model.policy, reward_model.reading, row["id"], images, prompt, answers,
                told[index], own,
            )  # fmt: skip
        except RefusedRowError as reason:
            refused.append({"id": row["id"], "field": "messages", "reason": str(reason)})
    return RenderedPairs(pairs, refused)


def about_pairs(
    records: RecordSet,
    pairs: Mapping[int, Group],
    name: str,
    by: Sequence[str],
    cluster: str | None,
) -> list[JsonObject]:
    known = clusters(records, cluster)
    texts = records.rows.remove_columns(
        [column for column in records.rows.column_names if column.endswith("images")]
    )
    rows = []
    for index in pairs:
        row = texts[index]
        lengths = [len(text_of(row[branch]).split()) for branch in ("chosen", "rejected")]
        rows.append(
            {
                "id": row["id"],
                "data": name,
                "groups": [f"data={name}", *_groups(row.get("source"), by)],
                "image_id": known[index],
                "words": lengths[0] - lengths[1],
            }
        )
    return rows


def _by_key(records: RecordSet, key: str) -> list[str]:
    columns = records.rows.with_format("arrow").select_columns(
        [name for name in ("id", "source") if name in records.rows.column_names]
    )
    found = []
    for index in range(len(columns)):
        row = columns[index].to_pylist()[0]
        known = _provenance(row.get("source"))
        if key not in known:
            raise UserError(f"--cluster {key}: the source of {row['id']} has no {key!r}.")
        found.append(str(known[key]))
    return found


def _provenance(source: str | None) -> dict[str, object]:
    try:
        content = json.loads(source or "{}")
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _groups(source: str | None, by: Sequence[str]) -> list[str]:
    """What the record's provenance says of it, by the keys asked for."""
    known = _provenance(source)
    return [f"{key}={known[key]}" for key in by if isinstance(known.get(key), str | int | bool)]
