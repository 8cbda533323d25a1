"""Rows of a composed set, made of the pairs that were taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from veridical.builders.composing.recipe import (
    Candidate,
)
from veridical.data.messages import text_of
from veridical.data.record_types import NewRow
from veridical.data.records import RecordSet


def row_maker(
    records: Sequence[RecordSet],
    other: RecordSet | None,
    names: Sequence[str],
    seed: int,
) -> Callable[[Sequence[Candidate]], Iterator[NewRow]]:
    """What makes rows of pairs that were taken."""
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = [one.rows.with_format("arrow") for one in records]
    theirs = other.rows.remove_columns(["images"]).with_format("arrow") if other else None

    def rows(taken: Sequence[Candidate]) -> Iterator[NewRow]:
        for one in taken:
            row = raw[one.set][one.index].to_pylist()[0]
            partner = None
            if theirs is not None and one.partner is not None:
                partner = theirs[one.partner].to_pylist()[0]
            yield cast(NewRow, _row(one, row, partner, names, seed))

    return rows


def _row(
    one: Candidate,
    row: dict[str, Any],
    partner: Mapping[str, Any] | None,
    names: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """A row of the result, of the pair's own row and of the one its rejected answer is from."""
    source: dict[str, object] = {"builder": "compose", "set": names[one.set], **one.factors,
                              "swapped": one.swap, "seed": seed}  # fmt: skip
    if one.swap:
        who = {"chosen_by": source.pop("rejected_by", None),
               "rejected_by": source.pop("chosen_by", None)}  # fmt: skip
        source |= {name: author for name, author in who.items() if author is not None}
    if row.get("source"):
        source["from"] = row["source"]
    if partner is not None:
        row |= {"rejected": partner["rejected"], "more_rejected": None, "rejected_images": None,
                "rejected_masked": None, "ratings": _of_chosen(row.get("ratings")),
                "span_weights": _of_chosen(row.get("span_weights"))}  # fmt: skip
        prefix = row.get("answer_prefix")
        if prefix and not text_of(row["rejected"]).lstrip().startswith(prefix):
            row["answer_prefix"] = None  # two answers that have no beginning in common
        source["rejected_from"] = partner.get("source")
    if one.swap:
        row |= {"chosen": row["rejected"], "rejected": row["chosen"],
                "ratings": _exchanged(row.get("ratings")),
                "span_weights": _exchanged(row.get("span_weights"))}  # fmt: skip
    return row | {"id": row_name(one, names), "source": json.dumps(source, ensure_ascii=False)}


def _of_chosen(parts: Sequence[Mapping[str, object]] | None) -> list[Mapping[str, object]] | None:
    """Of ratings or weights, those of the chosen answer."""
    return [one for one in parts or () if one["answer"] == "chosen"] or None


def _exchanged(parts: Sequence[Mapping[str, Any]] | None) -> list[dict[str, object]] | None:
    """Ratings or weights once the two answers have changed places."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return [
        {**one, "answer": other.get(one["answer"], one["answer"])} for one in parts or ()
    ] or None


def row_name(row: Candidate, names: Sequence[str]) -> str:
    """The id of a taken row: of several sets, behind its set's name."""
    return row.id if len(names) == 1 else f"{names[row.set]}/{row.id}"
