"""Records as the options of a command ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.data.origins import row_origins
from veridical.data.reading import read
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.runtime.options import Reading


@pytest.fixture
def file(tmp_path: Path) -> Path:
    good = [
        {"id": name, "prompt": [{"role": "user", "content": "What?"}], "images": []}
        for name in ("a", "c", "d")
    ]
    write_jsonl(tmp_path / "prompts.jsonl", [good[0], {"id": "b"}, *good[1:]])
    return tmp_path / "prompts.jsonl"


@pytest.mark.parametrize(
    ("limit", "ids", "rows"),
    [(None, ["a", "c", "d"], [1, 3, 4]), (2, ["a", "c"], [1, 3]), (9, ["a", "c", "d"], [1, 3, 4])],
)
def test_the_first_usable_rows_are_kept_with_their_places(
    file: Path, limit: int | None, ids: list[str], rows: list[int]
) -> None:
    records = read(file, "prompt", Reading(limit=limit, max_bad_fraction=0.5))
    assert records.rows["id"][:] == ids
    assert [origin.row for origin in row_origins(records)] == rows
    assert (records.total, len(records.problems)) == (4, 1)
    assert [row["prompt"][0]["role"] for row in records.rows] == ["user"] * len(ids)


def test_too_many_unusable_rows_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="1 of 4"):
        read(file, "prompt", Reading(max_bad_fraction=0.2))
