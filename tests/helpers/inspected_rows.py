"""Rows and pictures for the tests of data checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def photo(path: Path, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
    """Smooth noise, of which another seed makes another picture."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def write_rows(file: Path, rows: list[Any]) -> Path:
    """JSON Lines; texts are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def pair(number: int, **fields: Any) -> dict[str, Any]:
    """A sound pair without images."""
    return {
        "id": f"r{number}",
        "prompt": f"What is number {number}?",
        "chosen": f"Number {number} is a car.",
        "rejected": f"Number {number} is a bus.",
        **fields,
    }
