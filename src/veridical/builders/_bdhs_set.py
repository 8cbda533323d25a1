"""The set of pairs that a BDHS build ends as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from veridical.builders._bdhs_counts import BDHSSummary, summarize
from veridical.builders._rows import Pair, Skipped, sort_out, write_set
from veridical.data.messages import Message
from veridical.data.records import RecordSet
from veridical.runtime.shards import print_result


@dataclass(frozen=True)
class Rejected:
    """A rejected answer.

    Attributes:
        index: of its record among the usable ones.
        messages: the answer.
        source: how it was made, as JSON.
    """

    index: int
    messages: Sequence[Message]
    source: str


def write_bdhs_set(
    out: Path, results: Sequence[Mapping[str, Any]], records: RecordSet
) -> BDHSSummary:
    """Write `pairs.parquet` and `skipped.jsonl`; returns the summary.

    Raises:
        UserError: not a single pair came out.
    """
    outcome = sort_out(_rejected_or_skipped(results))
    pairs = map(vars, _pairs(outcome.kept, records.rows))
    skipped = write_set(out / "pairs.parquet", "preference", pairs, outcome, records, "pair")
    summary = summarize(results, skipped)
    for warning in summary["warnings"]:
        print_result(f"Warning: {warning}")
    return summary


def _rejected_or_skipped(results: Sequence[Mapping[str, Any]]) -> Iterator[Rejected | Skipped]:
    for index, row in enumerate(results):
        if "reason" in row:
            yield Skipped(row["id"], "messages", row["reason"])
        else:
            yield Rejected(index, row["rejected"], row["source"])


def _pairs(kept: Sequence[Rejected], rows: Dataset) -> Iterator[Pair]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    for one in kept:
        row = raw[one.index].to_pylist()[0]
        yield Pair(
            id=row["id"],
            images=row["images"],
            prompt=row["messages"][:-1],
            chosen=row["messages"][-1:],
            rejected=one.messages,
            source=one.source,
        )
