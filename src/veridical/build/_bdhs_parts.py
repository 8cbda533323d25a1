"""What a BDHS build has finished so far, and the set that it ends as."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from veridical.errors import UserError
from veridical.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.records import RecordSet, write_records


class Parts:
    """Finished chunks of a build, one file each, under `parts/`."""

    def __init__(
        self,
        out: Path,
        settings: Any,
        similarity: str,
        inputs: Mapping[str, Any],
        model: str,
    ) -> None:
        """Open the folder.

        Raises:
            UserError: it holds chunks of a build with other settings or data.
        """
        self.folder = out / "parts"
        constants = dataclasses.asdict(settings)
        del constants["batch_size"]
        hashes = {name: entry["sha256"] for name, entry in inputs.items()}
        identity = {"settings": constants, "similarity": similarity, "model": model, **hashes}
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        known = self.folder / "key.json"
        if known.is_file() and read_json(known) != key:
            raise UserError(
                f"{out} holds an unfinished build with other settings, model or data. "
                "Choose another --out, or delete that folder."
            )
        write_json(known, key)

    def path(self, start: int) -> Path:
        """The file of the chunk that begins at record `start`."""
        return self.folder / f"{start:08d}.jsonl"

    def has(self, start: int, ids: Sequence[str]) -> bool:
        """Whether that chunk is finished, and of these very records (`--limit` may have grown)."""
        path = self.path(start)
        return path.is_file() and [row["id"] for row in read_jsonl(path)] == list(ids)

    def write(self, start: int, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep a finished chunk."""
        write_jsonl(self.path(start), results)


def assemble(out: Path, parts: Parts, starts: Sequence[int], records: RecordSet) -> dict[str, Any]:
    """Write `pairs.parquet`, `skipped.jsonl` and `summary.json`; remove the parts.

    Raises:
        UserError: not a single pair came out.
    """
    results = [row for start in starts for row in read_jsonl(parts.path(start))]
    skipped = [{"id": p.id, "field": p.field, "reason": p.reason} for p in records.problems]
    skipped += [
        {"id": row["id"], "field": "messages", "reason": row["reason"]}
        for row in results
        if "reason" in row
    ]
    write_jsonl(out / "skipped.jsonl", skipped)
    kept = [(index, row) for index, row in enumerate(results) if "rejected" in row]
    if not kept:
        raise UserError(
            f"Not one pair came out of {len(results)} records; {out / 'skipped.jsonl'} says why."
        )
    write_records(_pairs(kept, records.rows), out / "pairs.parquet", "preference")
    summary = _summary([json.loads(row["source"]) for _, row in kept], len(results), len(skipped))
    write_json(out / "summary.json", summary)
    shutil.rmtree(parts.folder)
    if skipped:
        print(f"{len(skipped)} records gave no pair; {out / 'skipped.jsonl'} says which and why.")
    return summary


def _pairs(kept: Sequence[tuple[int, dict[str, Any]]], rows: Any) -> Iterator[dict[str, Any]]:
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


def _summary(sources: Sequence[dict[str, Any]], records: int, skipped: int) -> dict[str, Any]:
    iterations = Counter(source["iteration"] for source in sources)
    return {
        "records": records,
        "pairs": len(sources),
        "skipped": skipped,
        "pairs_by_iteration": {str(i): iterations[i] for i in sorted(iterations)},
        "mean_similarity": round(fmean(source["similarity"] for source in sources), 4),
        "mean_share_masked": round(fmean(source["share_masked"] for source in sources), 4),
    }
