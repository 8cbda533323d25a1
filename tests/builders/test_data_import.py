"""Foreign sets become records; what can't is counted and named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical import cli
from veridical.data.records import read_records, text_of
from veridical.runtime.files import read_json, read_jsonl, write_jsonl


def picture(folder: Path, name: str, color: tuple[int, int, int] = (9, 90, 200)) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), color).save(path)
    return name


def import_rows(folder: Path, rows: Sequence[Any], *options: str) -> list[dict[str, Any]]:
    write_jsonl(folder / "theirs.jsonl", rows)
    given = [str(folder / "theirs.jsonl"), "--out", str(folder / "ours.parquet"), *options]
    assert cli.main(["data", "import", *given]) == 0
    kind = read_json(folder / "ours.parquet.import.json")["kind"]
    return list(read_records(folder / "ours.parquet", kind).rows)


def skipped(folder: Path) -> list[tuple[int, str, str]]:
    rows = read_jsonl(folder / "ours.parquet.skipped.jsonl")
    return [(row["row"], row["field"], row["reason"]) for row in rows]


def rlaif_v(image: str, **other: Any) -> dict[str, Any]:
    row = {"ds_name": "RLAIF-V", "question": "What is this?", "chosen": "A cup.", "idx": "7"}
    row |= {"rejected": "A dog.", "origin_dataset": "MSCOCO", "origin_split": "{}"}
    return row | {"image_path": image} | other


def test_a_known_set_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = import_rows(tmp_path, [rlaif_v(picture(tmp_path, "a.png"))])
    told = capsys.readouterr().out
    assert "Taken for rlaif-v (flat), as its rows have chosen, ds_name, origin_dataset" in told
    assert text_of(row["prompt"]) == "What is this?"
    assert text_of(row["chosen"]) == "A cup."
    assert [image.size for image in row["images"]] == [(24, 20)]
    source = json.loads(row["source"])
    assert (source["set"], source["row"]) == ("rlaif-v", 1)
    assert source["columns"]["origin_dataset"] == "MSCOCO"


def test_what_is_left_out_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = picture(tmp_path, "a.png")
    rows = [rlaif_v(good), rlaif_v("gone.png"), rlaif_v(good, rejected="A cup. "), "text"]
    assert len(import_rows(tmp_path, rows, "--as", "rlaif-v")) == 1
    assert [one[:2] for one in skipped(tmp_path)] == [(2, "images"), (3, "rejected"), (4, "row")]
    told = capsys.readouterr().out
    assert "4 rows gave 1 record." in told
    assert "1 x rejected: is the same as chosen (first: row 3)" in told


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [rlaif_v(picture(tmp_path, "a.png"))] * 7)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count('"chosen": "A cup."') == 5
    assert "7 rows gave 7 records" in told
    assert sorted(tmp_path.iterdir()) == before


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    rows = [{"meta": {"file": picture(tmp_path, "a.png")}, "q": "Why?", "good": "A.", "bad": "B."}]
    columns = ["images=meta.file", "prompt=q", "chosen=good", "rejected=bad"]
    options = [word for column in columns for word in ("--columns", column)]
    (row,) = import_rows(tmp_path, rows, "--as", "flat", *options)
    assert (text_of(row["chosen"]), len(row["images"])) == ("A.", 1)


def test_a_file_that_no_import_wrote_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [rlaif_v(picture(tmp_path, "a.png"))])
    (tmp_path / "mine.jsonl").write_text("mine")
    given = [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "mine.jsonl")]
    assert cli.main(["data", "import", *given]) == 2
    assert "no import wrote it" in capsys.readouterr().err
    assert (tmp_path / "mine.jsonl").read_text() == "mine"
