"""Two parts of a file that share no image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from veridical.builders.data_split import data_split, held_out_rows
from veridical.cli import main
from veridical.data.messages import assistant_message, user_message
from veridical.data.records import read_records, write_records
from veridical.runtime.files import read_json


def rows(images: list[list[int]]) -> list[dict[str, object]]:
    """Conversations about pictures that are told apart by their gray."""
    return [
        {
            "id": f"row{n}",
            "images": [Image.new("RGB", (8, 8), (gray, gray, gray)) for gray in grays],
            "messages": [user_message("What?", len(grays)), assistant_message(f"Answer {n}.")],
        }
        for n, grays in enumerate(images)
    ]


def test_rows_that_share_an_image_stay_together(tmp_path: Path) -> None:
    """Rows 0, 1 and 2 are linked by images 1 and 2; row 6 has none; the order decides nothing."""
    made = rows([[1], [1, 2], [2], [3], [4], [5], []])
    for name, some in (("a", made), ("b", made[::-1])):
        write_records(some, tmp_path / f"{name}.parquet", "conversation")
        data_split(tmp_path / f"{name}.parquet", tmp_path / name, held_out=0.3, seed=3)
    sides = {}
    for name in "ab":
        held, train = (
            set(read_records(tmp_path / name / f"{part}.parquet", "conversation").ids)
            for part in ("held_out", "train")
        )
        assert held | train == {f"row{n}" for n in range(7)} and not held & train
        assert len(held) == 2
        assert not ({"row0", "row1", "row2"} & held)
        sides[name] = held
    assert sides["a"] == sides["b"]
    assert read_json(tmp_path / "a" / "summary.json")["held_out"] == 2


def test_a_group_that_is_too_large_is_passed_over() -> None:
    ids = [str(n) for n in range(6)]
    assert sum(held_out_rows([0, 0, 0, 0, 1, 1], 2, ids, seed=0)) == 2
    assert sum(held_out_rows([0, 0, 0, 1, 1, 1], 2, ids, seed=0)) == 3  # none fits: the smallest
    assert sum(held_out_rows([0, 0, 0, 0, 0, 0], 2, ids, seed=0)) == 0


def test_one_image_for_all_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(rows([[1], [1]]), tmp_path / "a.parquet", "conversation")
    words = ["data", "split", str(tmp_path / "a.parquet"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "2 rows with the same image, and no other" in capsys.readouterr().err
