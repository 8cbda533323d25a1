"""Pairs of two pictures, each with its right answer, from file to file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.builders.contrast import build_contrast
from veridical.builders.options import ObjectFiles
from veridical.cli.dispatch import main
from veridical.data.records import (
    assistant_message,
    read_records,
    text_of,
    user_message,
    write_records,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json

SHOWN = {
    "a": ["cat", "dog", "bus"],
    "b": ["cat", "dog", "car"],
    "c": ["cat", "bus"],
    "d": ["bird"],
    "e": ["cat", "dog", "bus", "car"],
}
COLORS = {"a": "red", "b": "blue", "c": "green", "d": "white", "e": "gray"}


def picture(name: str) -> Image.Image:
    return Image.new("RGB", (9, 9), COLORS[name])


def conversation(name: str, question: str = "What is here?", **other: Any) -> dict[str, Any]:
    said = " and ".join(f"a {thing}" for thing in SHOWN[name])
    turns = [user_message(question), assistant_message(f"There is {said}.")]
    return {"id": name, "images": [picture(name)], "messages": turns} | other


def write(folder: Path, rows: list[dict[str, Any]], kind: Any = "conversation") -> Path:
    write_records(rows, folder / "rows.parquet", kind)
    write_json(folder / "objects.json", SHOWN)
    return folder / "rows.parquet"


def made(folder: Path) -> dict[str, Any]:
    return {row["id"]: row for row in read_records(folder / "pairs.parquet", "preference").rows}


def reasons(folder: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read_jsonl(folder / "skipped.jsonl")}


def test_the_most_similar_picture_that_still_shows_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of cat, dog, bus: 2 of 4 objects are shared with b, 3 of 4 with e, which lacks none of them.

    c (cat, bus) lacks nothing that a or e show; with b it shares 1 of 4. d shares nothing.
    """
    data = write(tmp_path, [conversation(name) for name in SHOWN])
    words = ["--data", str(data), "--objects", str(tmp_path / "objects.json")]
    assert main(["build", "contrast", *words, "--out", str(tmp_path / "out")]) == 0
    assert "may be true of both pictures" not in capsys.readouterr().out
    rows = made(tmp_path / "out")
    others = {name: json.loads(row["source"])["other"] for name, row in rows.items()}
    assert others == {"a": "b", "b": "a", "c": "b", "d": others["d"], "e": "d"}
    shared = {name: json.loads(row["source"])["shared"] for name, row in rows.items()}
    assert shared == {"a": 0.5, "b": 0.5, "c": 0.25, "d": 0.0, "e": 0.0}
    for name, row in rows.items():
        assert row["contrast_images"][0].tobytes() == picture(others[name]).tobytes()
        assert row["images"][0].tobytes() == picture(name).tobytes()
        assert text_of(row["chosen"]) == text_of(conversation(name)["messages"][-1:])
        assert text_of(row["rejected"]) == text_of(conversation(others[name])["messages"][-1:])
        assert row.get("contrast_chosen") is None
    assert read_json(tmp_path / "out" / "summary.json") == {
        "records": 5, "pairs": 5, "shared_objects": 0.25, "skipped": 0,
    }  # fmt: skip


def test_pairs_keep_their_rejected_answer_beside_the_other_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for name in "abc":
        prompt, chosen = conversation(name)["messages"]
        rows.append(
            {"id": name, "images": [picture(name)], "prompt": [prompt], "chosen": [chosen],
             "rejected": [assistant_message("A sofa.")], "contrast_images": [picture("e")],
             "contrast_masked": 0.5, "beta_factor": 2.0, "source": "here"}
        )  # fmt: skip
    data = write(tmp_path, rows, "preference")
    for out in ("one", "two"):
        build_contrast(data, tmp_path / out, "preference")
        assert "an answer may be true of both pictures" in capsys.readouterr().out
    found = made(tmp_path / "one")
    for name, row in found.items():
        source = json.loads(row["source"])
        assert source["from"] == "here" and source["shared"] is None and source["other"] != name
        assert text_of(row["rejected"]) == "A sofa." and row["beta_factor"] == 2.0
        assert row["contrast_images"][0].tobytes() == picture(source["other"]).tobytes()
        right = text_of(conversation(source["other"])["messages"][-1:])
        assert text_of(row["contrast_chosen"]) == right and row.get("contrast_masked") is None
    both = [(tmp_path / out / "pairs.parquet").read_bytes() for out in ("one", "two")]
    assert both[0] == both[1]


def test_only_another_picture_and_answer_to_the_same_prompt_will_do(tmp_path: Path) -> None:
    """The picture of b is a's in another file format; c says what a says; d asks something else."""
    picture("a").save(tmp_path / "a.png")
    picture("a").save(tmp_path / "a.bmp")
    rows = [
        conversation("a", images=[tmp_path / "a.png"]),
        conversation("b", images=[tmp_path / "a.bmp"]),
        conversation("c", messages=conversation("a")["messages"]),
        conversation("d", "And here?"),
        {"id": "text", "images": [],
         "messages": [user_message("Hello?", images=0), assistant_message("Hello.")]},
    ]  # fmt: skip
    data = write(tmp_path, rows)
    build_contrast(data, tmp_path / "out")
    others = {id: json.loads(row["source"])["other"] for id, row in made(tmp_path / "out").items()}
    assert others == {"b": "c", "c": "b"}
    found = reasons(tmp_path / "out")
    assert set(found) == {"a", "d", "text"} and "no image" in found["text"]
    assert found["a"] == found["d"] and "same prompt, another picture" in found["a"]


def test_lists_that_say_nothing_of_a_picture(tmp_path: Path) -> None:
    data = write(tmp_path, [conversation(name) for name in "abc"])
    write_json(tmp_path / "two.json", {name: SHOWN[name] for name in "bc"})
    build_contrast(data, tmp_path / "out", files=ObjectFiles(objects=tmp_path / "two.json"))
    assert set(made(tmp_path / "out")) == {"b", "c"}
    assert reasons(tmp_path / "out") == {"a": "the image has no object list"}
    write_json(tmp_path / "two.json", {name: SHOWN[name] for name in "ac"})
    with pytest.raises(UserError, match="Not one pair came out of 3 records"):
        build_contrast(data, tmp_path / "none", files=ObjectFiles(objects=tmp_path / "two.json"))
    assert "shows an object that the other lacks" in reasons(tmp_path / "none")["a"]
    with pytest.raises(UserError, match="there are no --objects"):
        build_contrast(data, tmp_path / "no", files=ObjectFiles(vocabulary=tmp_path / "two.json"))


def test_shards_contrast_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veridical.builders._row_parts.CHUNK", 2)
    data = write(tmp_path, [conversation(name) for name in SHOWN])
    build_contrast(data, tmp_path / "whole")
    build_contrast(data, tmp_path / "shards", shard="2/2")
    assert not (tmp_path / "shards" / "pairs.parquet").exists()
    build_contrast(data, tmp_path / "shards", shard="1/2")
    for name in ("pairs.parquet", "skipped.jsonl", "summary.json"):
        both = [(tmp_path / out / name).read_bytes() for out in ("whole", "shards")]
        assert both[0] == both[1], name
