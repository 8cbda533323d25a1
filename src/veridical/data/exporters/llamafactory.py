"""LLaMA-Factory's ShareGPT form, with the `dataset_info.json` that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.exporters.tagged import refuse_other_images, rest, turns
from veridical.data.record_kinds import Kind

USE = "dataset_dir: {folder} and dataset: veridical, in its YAML file"


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """A pair's turns up to the question with both answers, or a conversation's turns."""
    refuse_other_images(record)
    if kind == "conversation":
        told: dict[str, object] = {"conversations": turns(record["messages"])}
    else:
        told = {"conversations": turns(record["prompt"])}
        told |= {name: turns(record[name])[0] for name in ("chosen", "rejected")}
    return told | {"images": list(record["images"])} | rest(record, kind)


def beside(kind: Kind) -> dict[str, object]:
    """The entry of the file in `dataset_info.json`."""
    columns = {"messages": "conversations", "images": "images"}
    about: dict[str, object] = {"file_name": "data.jsonl", "formatting": "sharegpt"}
    if kind == "preference":
        about |= {"ranking": True}
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    return {"dataset_info.json": {"veridical": about | {"columns": columns}}}
