"""The set of pairs that a BDHS build ends as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.builders._bdhs_counts import summarize
from veridical.builders._parts import write_skipped
from veridical.data.records import RecordSet, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.runtime.shards import say


def assemble(out: Path, results: Sequence[Mapping[str, Any]], records: RecordSet) -> dict[str, Any]:
    """Write `pairs.parquet`, `skipped.jsonl` and `summary.json`.

    Raises:
        UserError: not a single pair came out.
    """
    left_out = (
        {"id": row["id"], "field": "messages", "reason": row["reason"]}
        for row in results
        if "reason" in row
    )
    skipped = write_skipped(out, records, left_out, "pair")
    kept = [(index, row) for index, row in enumerate(results) if "rejected" in row]
    if not kept:
        raise UserError(
            f"Not one pair came out of {counted(len(results), 'records')}; "
            f"{out / 'skipped.jsonl'} says why."
        )
    write_records(_pairs(kept, records.rows), out / "pairs.parquet", "preference")
    summary = summarize(results, skipped)
    write_json(out / "summary.json", summary)
    for warning in summary["warnings"]:
        say(f"Warning: {warning}")
    return summary


def _pairs(kept: Sequence[tuple[int, Mapping[str, Any]]], rows: Any) -> Iterator[dict[str, Any]]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    for index, result in kept:
        row = raw[index].to_pylist()[0]
        yield {
            "id": row["id"],
            "images": row["images"],
            "prompt": row["messages"][:-1],
            "chosen": row["messages"][-1:],
            "rejected": result["rejected"],
            "source": result["source"],
        }
