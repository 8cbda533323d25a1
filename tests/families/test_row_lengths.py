"""Rows of a data set are as long as each family's own processor makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from veridical.data.messages import text_of
from veridical.inspection.inspecting import with_pictures
from veridical.inspection.lengths import measuring
from veridical.inspection.pictures import Album
from veridical.inspection.rows import read_row
from veridical.models.policy import Policy
from veridical.models.processing import process
from veridical.models.rendering import render_group

SIZES = [(96, 64), (64, 96), (200, 120), (128, 128)]
NEAR_NOTHING = 100_000


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Pairs whose images differ in size, and whose answers differ in length."""
    made = []
    for number, size in enumerate(SIZES):
        noise = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        made.append({"id": str(number), "images": [f"{number}.png"], "prompt": "What do you see?",
                     "chosen": "A red cup. " * (number + 1), "rejected": "A dog."})  # fmt: skip
    return made


def test_lengths_are_the_processors(
    built: Policy, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    read = [read_row(number, row, "preference") for number, row in enumerate(rows, start=1)]
    seen = list(with_pictures(read, Album(tmp_path)))
    measure, _ = measuring(built, seen, NEAR_NOTHING)
    for row in seen:
        found = measure(row)
        assert row.record is not None
        image = Image.open(tmp_path / f"{row.id}.png").convert("RGB")
        answers = [row.record["chosen"], row.record["rejected"]]
        group = render_group(built, row.id, [image], row.record["prompt"], answers)
        made = process(built, [(image,)], [group.prompt_text], "right")["input_ids"]
        assert found.refusal == ""
        # The noise image is prepared here; a blank one of its size was counted.
        assert found.prompt == made.shape[1], text_of(row.record["prompt"])
        assert found.answer == max(len(ids) for ids in group.response_ids)
