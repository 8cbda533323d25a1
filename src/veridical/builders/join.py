"""Several rejected answers to one chosen one: two sets of pairs become one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from veridical.builders._parts import finish
from veridical.builders._rows import Skipped, write_skipped
from veridical.data.images import RowImage, image_bytes_key, row_images
from veridical.data.messages import clean_messages
from veridical.data.reading import read
from veridical.data.record_types import CheckedRow, NewRow
from veridical.data.records import Message, text_of, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import counted, part_of
from veridical.runtime.runs import start_run


@dataclass(frozen=True)
class Further:
    """A pair that gives its rejected answers.

    Attributes:
        chosen: text of its chosen answer.
        rejected: its rejected answers.
        prompt: its prompt, in the one form of messages.
        pictures: its images, not opened yet.
        own_picture: whether its rejected answer goes with an image of its own.
    """

    chosen: str
    rejected: list[list[Message]]
    prompt: list[Message]
    pictures: tuple[RowImage, ...]
    own_picture: bool


def build_join(
    pairs: Path,
    more: Path,
    out: Path,
    reading: Reading = Reading(),
) -> None:
    """Add MORE's rejected answers to those pairs of PAIRS that have the same id, prompt and images.

    The chosen answer has to be the same too. Images are the same if they have the same pixels,
    whatever their files are called. `train dpo` averages its loss over a pair's rejected answers
    (`--first-rejected-weight`). Pairs without a partner keep their one answer; MORE's without one
    are listed in `skipped.jsonl`.

    Args:
        pairs: preference pairs; images, prompts and provenance are taken from here.
        more: preference pairs made from the same records.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        reading: how both are read.
    """
    require_file(pairs, "--pairs")
    require_file(more, "--more")
    options = {"pairs": pairs, "more": more, "out": out, "reading": reading}
    with start_run(out, "build join", options, {"pairs": pairs, "more": more}) as run:
        ours = read(pairs, "preference", reading)
        theirs = read(more, "preference", reading)
        joined, left_out = _match(ours.rows, further_answers(theirs.rows))
        skipped = write_skipped(out, ours, left_out, "second rejected answer")
        if not joined:
            raise UserError(
                f"Not one pair of {more} gives an answer to one of {pairs}: "
                f"{_commonest(left_out)}. Make both from the same records."
            )
        write_records(_rows(ours.rows, joined), out / "pairs.parquet", "preference")
        summary = {"pairs": len(ours.rows), "joined": len(joined), "skipped": skipped}
        finish(run, summary)
        print(f"{part_of(len(joined), len(ours.rows), 'pairs')} got a further rejected answer.")


class JoinedRow(CheckedRow):
    """A row, and whether its rejected answer has images of its own."""

    own_picture: bool


def further_answers(rows: Dataset) -> dict[str, Further]:
    """The rejected answers that each pair of a set gives, by id."""
    found = {}
    for row, pictures in with_row_images(rows):
        found[row["id"]] = Further(
            text_of(row["chosen"]),
            [row["rejected"], *(row.get("more_rejected") or [])],
            clean_messages(row["prompt"]),
            pictures,
            row["own_picture"],
        )
    return found


def with_row_images(rows: Dataset) -> Iterator[tuple[JoinedRow, tuple[RowImage, ...]]]:
    """Rows without their images, and these beside, none of them opened."""
    columns = [name for name in rows.column_names if name.endswith("images")]
    texts = rows.remove_columns(columns)
    pictures = rows.select_columns(["images"])
    counts = pictures.with_format("arrow")
    distorted = rows.select_columns(["rejected_images"]) if "rejected_images" in columns else None
    for index, row in enumerate(texts):
        count = len(counts[index]["images"][0])
        own = distorted is not None and (
            distorted.with_format("arrow")[index]["rejected_images"][0].is_valid
        )
        own = own or row.get("rejected_masked") is not None
        yield row | {"own_picture": own}, row_images(pictures, index, count)


def _match(
    rows: Dataset, answers: Mapping[str, Further]
) -> tuple[dict[str, list[list[Message]]], list[Skipped]]:
    """What each pair gains, and why the rest of the answers are left out."""
    joined: dict[str, list[list[Message]]] = {}
    refused = dict.fromkeys(answers, "no pair has this id")
    for row, pictures in with_row_images(rows):
        if row["id"] not in answers:
            continue
        theirs = answers[row["id"]]
        reason = difference(row, pictures, theirs)
        have = list(row.get("more_rejected") or [])
        seen_alike = [] if row["own_picture"] else [row["rejected"]]
        known = {text_of(answer) for answer in (row["chosen"], *seen_alike, *have)}
        further = [answer for answer in theirs.rejected if text_of(answer) not in known]
        prefix = row.get("answer_prefix") or ""
        if not all(text_of(answer).lstrip().startswith(prefix) for answer in further):
            reason = reason or "its rejected answer does not begin with the pair's answer_prefix"
        if not reason and not further:
            reason = "the pair of this id has this rejected answer already"
        if reason:
            refused[row["id"]] = reason
            continue
        joined[row["id"]] = [*have, *further]
        del refused[row["id"]]
    return joined, [Skipped(name, "id", reason) for name, reason in refused.items()]


def difference(
    row: Mapping[str, Any], pictures: tuple[RowImage, ...], theirs: Further
) -> str | None:
    """Why a pair's answers do not belong to the pair of the same id; None if they do."""
    if clean_messages(row["prompt"]) != theirs.prompt:
        return "the pair of this id has another prompt"
    if text_of(row["chosen"]) != theirs.chosen:
        return "the pair of this id has another chosen answer"
    if theirs.own_picture:
        return "a rejected answer with an image of its own (rejected_images) can't be joined"
    if len(pictures) != len(theirs.pictures):
        own = counted(len(pictures), "images")
        return f"the pair of this id has {own}, this one {len(theirs.pictures)}"
    for number, (one, other) in enumerate(zip(pictures, theirs.pictures, strict=True), 1):
        if not _same_picture(one, other):
            return f"the pair of this id has another picture as image {number}"
    return None


def _same_picture(one: RowImage, other: RowImage) -> bool:
    """Whether two images hold the same pixels; equal files are not decoded."""
    if image_bytes_key(one) == image_bytes_key(other):
        return True
    opened = [image.open() for image in (one, other)]
    if opened[0].size != opened[1].size:
        return False
    pixels = [hashlib.sha256(image.tobytes()).digest() for image in opened]
    return pixels[0] == pixels[1]


def _commonest(left_out: list[Skipped]) -> str:
    reasons = [one.reason for one in left_out]
    return max(reasons, key=reasons.count) if reasons else "it holds no pairs"


def _rows(rows: Dataset, joined: Mapping[str, list[list[Message]]]) -> Iterator[NewRow]:
    raw = rows.with_format("arrow")
    for index in range(len(rows)):
        # In Arrow's form images are the bytes of their files, not decoded and packed again.
        row = raw[index].to_pylist()[0]
        yield row | {"more_rejected": joined.get(row["id"], row.get("more_rejected"))}
