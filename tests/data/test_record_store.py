"""Parquet sets: read from any Arrow type, kept out of memory, checked once."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, LargeList, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from veridical.data import record_checks, record_files, records
from veridical.data.images import RowImage, row_images
from veridical.data.record_store import store_key
from veridical.data.records import read_records
from veridical.runtime.errors import UserError


def png(color: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    memory = io.BytesIO()
    Image.new("RGB", size, color).save(memory, format="PNG")
    return memory.getvalue()


def table(name: str, column: pa.Array, text: pa.DataType | None = None) -> pa.Table:
    text = text or pa.string()
    columns = {"prompt": ["What?"], "chosen": ["A cat."], "rejected": ["A dog."]}
    arrays = {key: pa.array(value).cast(text) for key, value in columns.items()}
    return pa.table({**arrays, name: column})


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LARGE_STRUCT = pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})
CELL = {"bytes": png(), "path": None}


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("image", pa.binary(), png()),
        ("image", pa.large_binary(), png()),
        ("image", pa.binary_view(), png()),
        ("image", pa.binary(len(png())), png()),
        ("image", STRUCT, CELL),
        ("image", LARGE_STRUCT, CELL),
        ("images", pa.list_(pa.binary()), [png()]),
        ("images", pa.list_(STRUCT), [CELL]),
        ("images", pa.list_(STRUCT, 1), [CELL]),
        ("images", pa.large_list(STRUCT), [CELL]),
        ("images", pa.large_list(LARGE_STRUCT), [CELL]),
        ("images", pa.large_list(pa.large_binary()), [png()]),
        ("images", pa.list_(pa.large_string()), ["red.png"]),
        ("image", pa.string_view(), "red.png"),
    ],
    ids=str,
)
def test_image_columns_of_every_arrow_type(
    name: str, kind: pa.DataType, value: Any, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(png())
    pq.write_table(table(name, pa.array([value], kind)), tmp_path / "set.parquet")
    found = read_records(tmp_path / "set.parquet", "preference")
    assert [image.getpixel((0, 0)) for image in found.rows[0]["images"]] == [(255, 0, 0)]


@pytest.mark.parametrize("feature", [List(ImageFeature()), LargeList(ImageFeature())], ids=str)
def test_images_of_datasets_are_read(feature: Any, tmp_path: Path) -> None:
    text = Value("string")
    features = {"prompt": text, "chosen": text, "rejected": text, "images": feature}
    rows = {"prompt": ["What?"], "chosen": ["A."], "rejected": ["B."], "images": [[CELL, CELL]]}
    if isinstance(feature, List):
        rows["prompt"] = ["Compare."]
    set_ = Dataset.from_dict(rows, features=Features(features))
    set_.to_parquet(tmp_path / "set.parquet")
    found = read_records(tmp_path / "set.parquet", "preference")
    assert [image.size for image in found.rows[0]["images"]] == [(8, 6), (8, 6)]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("image", base64.b64encode(png("red", (60, 60))).decode(), "base64"),
        ("images", [None], "null"),
        ("images", [[[[255, 0, 0]]]], "numbers"),
        ("image", {"bytes": None, "path": None}, "neither bytes nor a path"),
        ("image", "https://example.com/a.png", "URL"),
    ],
)
def test_what_is_no_image_is_refused_by_name(
    name: str, value: Any, reason: str, tmp_path: Path
) -> None:
    pq.write_table(table(name, pa.array([value])), tmp_path / "set.parquet")
    with pytest.raises(UserError, match=reason):
        read_records(tmp_path / "set.parquet", "preference")


def test_the_published_cases(test_data: Path) -> None:
    refused = {"base64-string", "images-with-null"}
    for file in sorted((test_data / "cases" / "large-list").glob("*.parquet")):
        if file.stem in refused:
            with pytest.raises(UserError, match=r"base64|null"):
                read_records(file, "preference")
            continue
        count = 0 if file.stem == "null-image" else 1
        assert len(read_records(file, "preference").rows[0]["images"]) == count


def write_set(path: Path, rows: int, size: int = 100) -> None:
    """Rows with distinct pictures of about 3 * size * size bytes."""
    noise = np.random.default_rng(0)
    pictures = []
    for _ in range(rows):
        memory = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(
            memory, "PNG", compress_level=0
        )
        pictures.append({"bytes": memory.getvalue(), "path": None})
    columns = {
        "id": [f"row {i}" for i in range(rows)],
        "image": pa.array(pictures, STRUCT),
        "prompt": ["What?"] * rows,
        "chosen": ["A cat."] * rows,
        "rejected": ["A dog."] * (rows - 1) + ["A cat."],
    }
    pq.write_table(pa.table(columns), path, row_group_size=32)


MEASURE = """
import re, sys
from pathlib import Path
from veridical.data.records import read_records

def own():  # memory of this process that no file backs
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1e3

read_records(sys.argv[1], "preference", max_bad_fraction=0.5)
before = own()
found = read_records(sys.argv[2], "preference")
print(own() - before, len(found.rows), found.rows[50]["images"][0].size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_parquet_set_takes_no_memory(tmp_path: Path) -> None:
    write_set(tmp_path / "small.parquet", 2)
    write_set(tmp_path / "large.parquet", 400, size=256)  # 79 MB
    megabytes = (tmp_path / "large.parquet").stat().st_size / 1e6
    files = [str(tmp_path / name) for name in ("small.parquet", "large.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *files],
        env={**os.environ, "VERIDICAL_CACHE": "none", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    taken, rows = done.stdout.split()[:2]
    assert rows == "399" and float(taken) < 0.8 * megabytes
    assert not list(tmp_path.glob("veridical-rows-*")), "temporary files are gone"


def test_rows_of_large_images_are_read_and_checked_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 rows of 32 photographs are gigabytes: their bytes count, not the rows alone."""
    monkeypatch.setenv("VERIDICAL_CACHE", "none")
    write_set(tmp_path / "set.parquet", 40, size=256)  # 197 kB each
    read: list[int] = []
    checked: list[int] = []
    plain, usable = record_files.plain_rows, record_checks.RowChecker.usable

    def plain_rows(table: Any) -> Any:
        read.append(len(table))
        return plain(table)

    def counted(self: Any, chunk: Any) -> Any:
        checked.append(len(chunk))
        return usable(self, chunk)

    monkeypatch.setattr(record_files, "plain_rows", plain_rows)
    monkeypatch.setattr(record_checks.RowChecker, "usable", counted)
    whole = read_records(tmp_path / "set.parquet", "preference", max_bad_fraction=0.5)
    assert (read, checked) == ([32, 8], [40])  # the file has row groups of 32
    read.clear()
    checked.clear()
    monkeypatch.setattr(record_files, "BYTES_AT_A_TIME", 1_000_000)
    few = read_records(tmp_path / "set.parquet", "preference", max_bad_fraction=0.5)
    assert max(read) <= 6 and max(checked) <= 6 and sum(read) == sum(checked) == 40
    assert few.rows["id"][:] == whole.rows["id"][:] and few.problems == whole.problems


def test_a_set_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "set.parquet"
    write_set(path, 5)
    first = read_records(path, "preference", max_bad_fraction=0.5)
    opened: list[bytes] = []
    monkeypatch.setattr(record_checks, "decode_image", opened.append)
    again = read_records(path, "preference", max_bad_fraction=0.5)
    assert not opened
    assert again.problems == first.problems and len(again.problems) == 1
    assert (again.total, again.ignored) == (first.total, first.ignored) == (5, ())
    assert [row["id"] for row in again.rows] == [row["id"] for row in first.rows]
    with pytest.raises(UserError, match="row 5"):
        read_records(path, "preference", max_bad_fraction=0)
    write_set(path, 6)
    assert read_records(path, "preference", max_bad_fraction=0.5).total == 6
    assert opened, "another file under the same name is checked again"


def test_long_json_lines_do_not_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"prompt": "Q?", "chosen": "A.", "rejected": "B."}
    rows = [row | {"id": str(n)} | ({"chosen": None} if n == 2 else {}) for n in range(6)]
    texts = map(json.dumps, rows)
    (tmp_path / "set.jsonl").write_text("\n\n".join(texts))
    short = read_records(tmp_path / "set.jsonl", "preference", max_bad_fraction=0.5)
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    monkeypatch.setattr(records, "_in_memory", lambda *_: pytest.fail("in memory"))
    long = read_records(tmp_path / "set.jsonl", "preference", max_bad_fraction=0.5)
    assert list(long.rows) == list(short.rows)
    assert list(long.numbers) == list(short.numbers) == [1, 3, 7, 9, 11]
    assert (long.problems, long.total) == (short.problems, 6)


def test_a_torn_store_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    write_set(tmp_path / "set.parquet", 5)
    read_records(tmp_path / "set.parquet", "preference", max_bad_fraction=0.5)
    (stored,) = (tmp_path / "cache" / "records").glob("*.arrow")
    stored.write_bytes(stored.read_bytes()[:3000])
    found = read_records(tmp_path / "set.parquet", "preference", max_bad_fraction=0.5)
    assert len(found.rows) == 4 and found.rows[3]["images"][0].size == (100, 100)


def test_images_named_by_path_are_checked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "red.png").write_bytes(png())
    pq.write_table(table("image", pa.array(["red.png"])), tmp_path / "set.parquet")
    read_records(tmp_path / "set.parquet", "preference")
    (tmp_path / "red.png").unlink()
    with pytest.raises(UserError, match="is not a file"):
        read_records(tmp_path / "set.parquet", "preference")


def test_a_row_without_its_file_is_usable_once_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    cells = pa.array([CELL, {"bytes": None, "path": "late.png"}], STRUCT)
    columns = {"prompt": ["What?"] * 2, "chosen": ["A cat."] * 2, "rejected": ["A dog."] * 2}
    pq.write_table(pa.table({**columns, "image": cells}), tmp_path / "set.parquet")
    found = read_records(tmp_path / "set.parquet", "preference", max_bad_fraction=0.5)
    assert len(found.rows) == 1 and len(found.problems) == 1
    (tmp_path / "late.png").write_bytes(png("blue"))
    found = read_records(tmp_path / "set.parquet", "preference")
    assert found.rows[1]["images"][0].getpixel((0, 0)) == (0, 0, 255)


def test_other_columns_of_a_kind_are_another_key(tmp_path: Path) -> None:
    write_set(tmp_path / "set.parquet", 2)
    schema = pa.schema({"id": pa.string()})
    wider = schema.append(pa.field("source", pa.string()))
    keys = {store_key(tmp_path / "set.parquet", "prompt", tmp_path, s) for s in (schema, wider)}
    assert len(keys) == 2


def test_one_image_of_a_row_is_opened_alone() -> None:
    cells = [{"bytes": b"not decoded", "path": None}] * 3
    cells[1] = {"bytes": png("blue"), "path": None}
    kept = Dataset(pa.table({"images": pa.array([cells], pa.list_(STRUCT))}))
    rows = kept.with_transform(records._on_access)
    images = row_images(rows, 0, 3)
    assert images[1].open().getpixel((0, 0)) == (0, 0, 255)
    assert images[1].content() == png("blue")
    assert isinstance(images[0], RowImage) and images[0].content() == b"not decoded"
