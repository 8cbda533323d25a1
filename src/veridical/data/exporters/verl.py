"""Prompts for verl, in Parquet with the images' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from veridical.data.exporters.tagged import rest, text_messages
from veridical.data.record_kinds import Kind

_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct({"id": _TEXT}),
        "veridical": _TEXT,
    }
)
USE = "data.train_files={file}"


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """A prompt; the expected answer becomes verl's `ground_truth`."""
    expected = record.get("expected_answer") or ""
    return {
        "data_source": "veridical",
        "prompt": text_messages(record["prompt"]),
        "images": list(record["images"]),
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": expected},
        "extra_info": {"id": record["id"]},
        **rest(record, kind),
    }
