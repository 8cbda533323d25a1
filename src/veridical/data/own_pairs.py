"""What measures a model on a user's own pairs, which have no labels."""

from __future__ import annotations

import shlex
from pathlib import Path

from veridical.data.record_kinds import Kind


def how_to_measure(kind: Kind, file: Path, images_root: Path | None = None) -> str:
    """How pairs of one's own measure a model without labels; "" for other records.

    Args:
        kind: of the records.
        file: that holds them.
        images_root: the folder that image paths are relative to, if not the file's own.
    """
    if kind != "preference":
        return ""
    root = "" if images_root is None else f" --images-root {shlex.quote(str(images_root))}"
    return (
        "To measure a model on such pairs, without labels: "
        f"`veridical data split {shlex.quote(str(file))}{root} --out FOLDER`, train on "
        "FOLDER/train.parquet, then `veridical eval label_free MODEL --data "
        "FOLDER/held_out.parquet --out SCORES`."
    )
