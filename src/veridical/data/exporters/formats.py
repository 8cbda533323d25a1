"""Other tools' formats that records are written in: one file for each, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from veridical.data.exporters import llamafactory, llava, ms_swift, openrlhf, trl, verl
from veridical.data.record_kinds import Kind

Container = Literal["jsonl", "json", "parquet", "records", "shards"]
RowMaker = Callable[[Mapping[str, object], Kind], dict[str, object]]


@dataclass(frozen=True)
class Format:
    """What a tool reads.

    Attributes:
        name: as in `--to NAME`.
        kinds: of records that it has a place for.
        container: how rows lie in files: JSON Lines, a JSON list, Parquet of its own columns,
            Parquet of ours (`records`), or tar files.
        row: a record, its images as references, to the tool's row; refuses with a `RowError`.
        beside: further JSON files by name, for a kind.
        use: how the tool is told of it.
        ours: whether what reads it is Veridical, which uses every column.
    """

    name: str
    kinds: tuple[Kind, ...]
    container: Container
    row: RowMaker = trl.row
    beside: Callable[[Kind], dict[str, object]] = lambda kind: {}
    use: str = ""
    ours: bool = False


ALL: tuple[Kind, ...] = ("preference", "unpaired", "conversation", "prompt", "sample")
TRAINED: tuple[Kind, ...] = ("preference", "conversation")
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("trl", ("preference", "unpaired", "conversation", "prompt"), "records", use=trl.USE),
        Format(
            "llamafactory", TRAINED, "jsonl", llamafactory.row, llamafactory.beside,
            llamafactory.USE,
        ),
        Format("ms-swift", TRAINED, "jsonl", ms_swift.row, use=ms_swift.USE),
        Format("llava", TRAINED, "json", llava.row, use=llava.USE),
        Format("openrlhf", ("prompt",), "jsonl", openrlhf.row, use=openrlhf.USE),
        Format("verl", ("prompt",), "parquet", verl.row, use=verl.USE),
        Format("webdataset", ALL, "shards", ours=True),
        Format("hub", ALL, "records", ours=True),
    )
}  # fmt: skip
