"""TRL's vision preference format, which is that of our own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.record_kinds import Kind

USE = 'load_dataset("parquet", data_files="{file}", split="train"), for its trainers'


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """The record as it is; a `source` that says nothing tells an import that it is one of ours."""
    del kind
    return {"source": None, **record}
