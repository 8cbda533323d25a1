"""ms-swift's form: `messages` that end with the chosen answer, and `rejected_response`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.exporters.tagged import refuse_other_images, rest, tagged, text_messages
from veridical.data.record_kinds import Kind

USE = "--dataset {file}, from the folder it is in"


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """A pair, or a conversation."""
    refuse_other_images(record, ("rejected_images",))
    told: dict[str, object] = {"images": list(record["images"])}
    if kind == "conversation":
        return told | {"messages": text_messages(record["messages"])} | rest(record, kind)
    told |= {"messages": text_messages([*record["prompt"], *record["chosen"]])}
    told |= {"rejected_response": tagged(record["rejected"][0])}
    if record.get("rejected_images") is not None:
        told |= {"rejected_images": list(record["rejected_images"])}
    return told | rest(record, kind)
