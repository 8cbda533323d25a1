"""Rows of a data set are as long as each family's own processor makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_group
from every_family import FAMILIES
from family_models import can_be_built
from PIL import Image

from veridical.data.messages import text_of
from veridical.inspection.inspecting import with_pictures
from veridical.inspection.lengths import measuring
from veridical.inspection.pictures import Album
from veridical.inspection.rows import read_row
from veridical.models.batching import layout_tokens, row_batch, shared_batch
from veridical.models.lengths import check_lengths
from veridical.models.policy import Policy
from veridical.models.processing import process
from veridical.models.rendering import Group, render_group
from veridical.train.loop.trial import CANDIDATES, longest_rows

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


def test_a_layouts_size_is_the_processors(built: Policy, groups: list[Group]) -> None:
    for group in check_lengths(built, groups, None).fit:
        for lay_out in (row_batch, shared_batch):
            size = lay_out(built, [group]).inputs["input_ids"].numel()
            assert layout_tokens(group, lay_out is shared_batch) == size


SMALL, WIDE, LARGE = [Image.new("RGB", size) for size in ((56, 56), (400, 100), (700, 700))]
ENGLISH, CHINESE = "There is a red cup. " * 12, "\u8fd9\u662f\u4ec0\u4e48" * 15


@pytest.mark.parametrize(
    ("name", "usual", "long"),
    [
        # A token for every byte, and for every few of English.
        ("LLaVA", ([SMALL], ENGLISH), ([SMALL], CHINESE)),
        ("Qwen2.5-VL", ([LARGE], "What?"), ([SMALL], CHINESE)),
        # As many tokens for each picture, whatever its size.
        ("LLaVA", ([LARGE], "What?"), ([SMALL, SMALL], "What?")),
        # Tiles by the shape, not by the pixels.
        ("LLaVA-NeXT", ([WIDE], "What?"), ([SMALL], "What?")),
        ("Qwen2.5-VL", ([SMALL], ENGLISH), ([LARGE], "What?")),
    ],
)
def test_the_longest_row_is_tried(
    name: str, usual: tuple[list[Image.Image], str], long: tuple[list[Image.Image], str]
) -> None:
    """Among twice as many others as are laid out."""
    family = next(family for family in FAMILIES if family.name == name)
    if not can_be_built(family):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    policy = family.build()
    if long[0] == [LARGE]:
        policy.processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 490_000}
    many = [make_group(policy, str(i), *usual, "Yes.", "No.") for i in range(2 * CANDIDATES)]
    many[50] = make_group(policy, "50", *long, "Yes.", "No.")
    read = check_lengths(policy, many, None).fit
    assert longest_rows(policy, read, False, 1) == [50]
