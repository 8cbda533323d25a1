"""Prompts for OpenRLHF: `input`, `images` and `label`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.exporters.tagged import rest
from veridical.data.record_kinds import Kind

USE = "--data.prompt_dataset {file} --data.input_key input --data.label_key label"


def row(record: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """A prompt; the label is the expected answer, or empty.

    Messages are blocks: OpenRLHF leaves a text without `<image>` as a string, and templates that
    read blocks (LLaVA-1.5's) would leave such a turn empty.
    """
    told: dict[str, object] = {
        "input": list(record["prompt"]),
        "images": list(record["images"]),
    }
    told |= {"label": record.get("expected_answer") or "", "datasource": "veridical"}
    return told | rest(record, kind)
