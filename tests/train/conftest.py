"""A tiny model in a folder, and rows that it is trained on; modules may have their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.policy import Policy

WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    """A folder with the tiny model in float32."""
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Twelve preference pairs."""
    return write_pairs(tmp_path / "pairs.parquet", pictures, 12)


@pytest.fixture
def write(pictures: list[Image.Image]) -> Callable[[Path, int], Path]:
    """Writes so many pairs into a file, and gives the file."""
    return lambda path, count: write_pairs(path, pictures, count)


def write_pairs(path: Path, pictures: list[Image.Image], count: int, name: str = "pair") -> Path:
    """Write preference pairs over the pictures."""
    rows = [
        {
            "id": f"{name}-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {WORDS[i % 6]}.")],
            "rejected": [assistant_message(f"There is a {WORDS[(i + 1) % 6]} on the left.")],
        }
        for i in range(count)
    ]
    write_records(rows, path, "preference")
    return path
