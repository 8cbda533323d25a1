"""Facts put beside records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.records import assistant_message, read_records, user_message, write_records
from veridical.runtime.files import read_json, read_jsonl, write_json


def run(*words: object) -> int:
    return main([str(word) for word in words])


def write_pairs(folder: Path) -> Path:
    names = ("COCO_val2014_000000000042", "b", "c")
    for name in names:
        Image.new("RGB", (8, 8), "red").save(folder / f"{name}.png")
    known = {"b": ["A bench."]}
    write_records(
        [
            {
                "id": name,
                "images": [str(folder / f"{name}.png")],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message("Yes.")],
                "rejected": [assistant_message("No.")],
                "facts": known.get(name),
            }
            for name in names
        ],
        folder / "pairs.jsonl",
        "preference",
    )
    return folder / "pairs.jsonl"


def test_facts_join_those_that_are_there(tmp_path: Path, capsys: Any) -> None:
    """An image is found by its name or its number; what has none is listed and kept."""
    pairs = write_pairs(tmp_path)
    write_json(tmp_path / "facts.json", {"42": ["A cat.", "A cat."], "b": ["A dog.", "A bench."]})
    words = ("build", "facts", pairs, "--facts", tmp_path / "facts.json", "--out", tmp_path / "o")
    assert run(*words) == 0
    assert "2 of 3 records got facts" in capsys.readouterr().out
    rows = read_records(tmp_path / "o" / "records.parquet", "preference").rows
    assert rows["facts"] == [["A cat."], ["A bench.", "A dog."], None]
    assert rows[0]["images"][0].size == (8, 8)
    assert [row["id"] for row in read_jsonl(tmp_path / "o" / "skipped.jsonl")] == ["c"]
    assert read_json(tmp_path / "o" / "summary.json") == {
        "records": 3, "with_facts": 2, "skipped": 1,
    }  # fmt: skip


def test_broken_facts_are_refused(tmp_path: Path, capsys: Any) -> None:
    pairs = write_pairs(tmp_path)
    for content, said in (
        ({"b": "A dog."}, "image 'b' has 'A dog.'"),
        ({}, "must be a JSON object"),
        ({"unknown": ["A dog."]}, "nothing about any image"),
    ):
        write_json(tmp_path / "facts.json", content)
        words = ("build", "facts", pairs, "--facts", tmp_path / "facts.json")
        assert run(*words, "--out", tmp_path / "o") == 2
        assert said in capsys.readouterr().err
