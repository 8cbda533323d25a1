"""LLaVA's JSON list of `conversations`; a pair has `rejected_conversations` too, as POVID's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.exporters.tagged import refuse_other_images, rest, turns
from veridical.data.record_kinds import Kind

USE = "--data_path {file} --image_folder {folder}"


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """One image is a text, several are a list; without any there is no `image`."""
    refuse_other_images(record)
    images = list(record["images"])
    told: dict[str, object] = {"id": record["id"]}
    if images:
        told["image"] = images[0] if len(images) == 1 else images
    if kind == "conversation":
        return told | {"conversations": turns(record["messages"])} | rest(record, kind)
    told["conversations"] = turns([*record["prompt"], *record["chosen"]])
    told["rejected_conversations"] = turns([*record["prompt"], *record["rejected"]])
    return told | rest(record, kind)
