"""A row that is left out is found again: by its file, its number there and its images."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from veridical.builders._rows import Skipped, write_skipped
from veridical.data.origins import place_in_words
from veridical.data.records import assistant_message, read_records, user_message, write_records
from veridical.runtime.files import read_jsonl


def row(name: str, image: str) -> dict[str, object]:
    messages = [user_message("Describe it."), assistant_message("A cup.")]
    return {"id": name, "images": [image], "messages": messages}


def test_builders_list_file_and_row(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = tmp_path / "conversations.jsonl"
    lines = [row("a", "a.png"), row("gone", "gone.png"), row("b", "b.png")]
    data.write_text("\n\n".join(map(json.dumps, lines)))  # every second line is empty
    records = read_records(data, "conversation", max_bad_fraction=0.5)
    refused = [Skipped("b", "messages", "no")]
    assert write_skipped(tmp_path, records, refused, "pair") == 2
    unread, late = read_jsonl(tmp_path / "skipped.jsonl")
    assert (unread["id"], unread["file"], unread["row"]) == ("gone", str(data), 3)
    assert late == {
        "id": "b", "file": str(data), "row": 5, "image_files": [str(tmp_path / "b.png")],
        "field": "messages", "reason": "no",
    }  # fmt: skip
    assert place_in_words(late).startswith(f"{data} line 5 (b, image ")


def test_rows_of_a_parquet_file_are_counted_with_those_that_can_not_be_read(
    tmp_path: Path,
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = tmp_path / "conversations.parquet"
    write_records([row(n, str(tmp_path / f"{n}.png")) for n in ("a", "b")], data, "conversation")
    records = read_records(data, "conversation")
    write_skipped(tmp_path, records, [Skipped("b", "images", "no")], "pair")
    (late,) = read_jsonl(tmp_path / "skipped.jsonl")
    assert (late["id"], late["file"], late["row"]) == ("b", str(data), 2)
