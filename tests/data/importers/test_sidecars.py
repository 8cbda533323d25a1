"""A folder of pictures with a JSON file for each is a set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical import cli
from veridical.data.importers.sidecars import rows_of
from veridical.data.importers.splits import by_split
from veridical.data.records import read_records, text_of
from veridical.runtime.files import read_jsonl, write_jsonl

PAIR = {"question": "What is this?", "chosen": "A cup.", "rejected": "A dog."}


def picture(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (9, shade, 200)).save(path)


def card(folder: Path, name: str, content: Any, suffix: str = ".jpg") -> None:
    picture(folder / f"{name}{suffix}", len(name) * 20)
    (folder / f"{name}.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def imported(folder: Path, *options: str, kind: Any = "preference") -> list[dict[str, Any]]:
    out = folder.parent / "ours.jsonl"
    assert cli.main(["data", "import", str(folder), "--out", str(out), *options]) == 0
    return list(read_records(out, kind).rows)


def skipped(folder: Path) -> list[tuple[str, int, str]]:
    rows = read_jsonl(folder.parent / "ours.jsonl.skipped.jsonl")
    return [(Path(row["file"]).name, row["row"], row["field"]) for row in rows]


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        (PAIR, 1),
        ({**PAIR, "image": "IMG_1.jpg"}, 1),
        ({**PAIR, "image": "/somewhere/else/IMG_1.jpg"}, 1),
        ([PAIR, {**PAIR, "question": "And this?"}], 2),
        ({"image": "IMG_1.jpg", "qa": [PAIR, {**PAIR, "question": "And this?"}]}, 2),
        ({"1": PAIR, "2": {**PAIR, "question": "And this?"}}, 2),
        ({"conversations": [{"from": "human", "value": "<image>\nWhat?"},
                            {"from": "gpt", "value": "A cup."}],
          "rejected_conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                     {"from": "gpt", "value": "A dog."}]}, 1),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "image": "IMG_1.jpg"},
                                                  {"type": "text", "text": "What?"}]}],
          "chosen": "A cup.", "rejected": "A dog."}, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("below", ["", "day 1"])
def test_a_json_file_is_about_the_picture_of_its_name(
    content: Any, pairs: int, below: str, tmp_path: Path
) -> None:
    card(tmp_path / "set" / below, "IMG_1", content)
    card(tmp_path / "set" / below, "IMG_10", PAIR, ".PNG")
    found = imported(tmp_path / "set")
    assert len(found) == pairs + 1
    assert all(len(row["images"]) == 1 for row in found)
    assert len({row["images"][0].getpixel((0, 0)) for row in found}) == 2
    assert read_jsonl(tmp_path / "ours.jsonl.skipped.jsonl") == []


def test_conversations_and_names_with_both_suffixes(tmp_path: Path) -> None:
    picture(tmp_path / "set/a.jpg")
    (tmp_path / "set/a.jpg.json").write_text('{"question": "What?", "answer": "A cup."}')
    (row,) = imported(tmp_path / "set", kind="conversation")
    assert len(row["images"]) == 1
    assert text_of(row["messages"][-1:]) == "A cup."


def test_pictures_in_a_folder_beside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        card(tmp_path / "set/images", name, PAIR)
        (tmp_path / "set/labels").mkdir(exist_ok=True)
        (tmp_path / f"set/images/{name}.json").rename(tmp_path / f"set/labels/{name}.json")
    assert [len(row["images"]) for row in imported(tmp_path / "set")] == [1, 1]


def test_a_broken_file_is_one_bad_row_under_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        card(tmp_path / "set", f"IMG_{number}", PAIR)
    card(tmp_path / "set", "IMG_4", '[{"question": "W')
    (tmp_path / "set/IMG_5.json").write_text(json.dumps(PAIR))
    (tmp_path / "set/IMG_6.json").write_bytes(b"\xff\xfe\x00")
    card(tmp_path / "set", "IMG_7", "")
    given = ["data", "import", str(tmp_path / "set"), "--dry-run"]
    assert cli.main(given) == 2
    told = capsys.readouterr()
    assert "more than --max-bad-fraction 0.01 allows" in told.err
    assert "IMG_4.json, row 1" in told.out
    assert len(imported(tmp_path / "set", "--max-bad-fraction", "0.5")) == 4
    assert skipped(tmp_path / "set") == [
        ("IMG_4.json", 1, "row"), ("IMG_5.json", 1, "images"), ("IMG_6.json", 1, "row"),
        ("IMG_7.json", 1, "row"),
    ]  # fmt: skip


def test_two_pictures_of_one_name_are_refused_unless_the_row_says_which(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        card(tmp_path / "set", name, PAIR)
    picture(tmp_path / "set/a.png")
    picture(tmp_path / "set/b.png")
    (tmp_path / "set/b.json").write_text(json.dumps(PAIR | {"image": "b.png"}))
    assert len(imported(tmp_path / "set", "--max-bad-fraction", "0.5")) == 2
    assert skipped(tmp_path / "set") == [("a.json", 1, "images")]


def test_other_files_of_rows_beside_them_are_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card(tmp_path / "set", "a", PAIR)
    write_jsonl(tmp_path / "set/pairs.jsonl", [PAIR])
    assert cli.main(["data", "import", str(tmp_path / "set"), "--dry-run"]) == 2
    assert "other files of rows (pairs.jsonl)" in capsys.readouterr().err


def test_splits_of_them_are_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photograph may be called `test_1`."""
    card(tmp_path / "set/train", "test_1", PAIR)
    card(tmp_path / "set/train", "b", PAIR)
    card(tmp_path / "set/val", "c", PAIR)
    assert len(imported(tmp_path / "set")) == 2
    assert "--split sets another (validation)" in capsys.readouterr().out
    assert len(imported(tmp_path / "set", "--split", "validation")) == 1
    given = ["data", "import", str(tmp_path / "set"), "--split", "test", "--dry-run"]
    assert cli.main(given) == 2
    assert "Set --split to one of train, validation" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_rows_of_several_files_are_listed_under_their_own(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("one", "two"):
        picture(folder / "images/x.png")
        rows = [PAIR | {"image": "images/x.png"}, PAIR | {"image": "images/gone.png"}]
        if suffix == ".csv":
            lines = ["image,question,chosen,rejected"]
            lines += [f"{row['image']},Q?,A.,B." for row in rows]
            (folder / f"{name}.csv").write_text("\n".join(lines))
        elif suffix == ".json":
            (folder / f"{name}.json").write_text(json.dumps(rows))
        else:
            write_jsonl(folder / f"{name}.jsonl", rows)
    assert len(imported(folder, "--max-bad-fraction", "0.5")) == 2
    assert skipped(folder) == [(f"one{suffix}", 2, "images"), (f"two{suffix}", 2, "images")]


def test_a_broken_list_of_rows_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows how many rows it had."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/one.json").write_text(json.dumps([PAIR]))
    (tmp_path / "set/two.json").write_text(json.dumps([PAIR])[:-9])
    assert cli.main(["data", "import", str(tmp_path / "set"), "--dry-run"]) == 2
    assert "two.json is not JSON" in capsys.readouterr().err


def test_a_picture_that_is_a_link_to_itself_is_one_bad_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        card(tmp_path / "set", name, PAIR)
    (tmp_path / "set/a.jpg").unlink()
    (tmp_path / "set/a.jpg").symlink_to("a.jpg")
    assert len(imported(tmp_path / "set", "--max-bad-fraction", "0.5")) == 1
    assert skipped(tmp_path / "set") == [("a.json", 1, "images")]


def test_files_of_no_split_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "x"):
        (tmp_path / "set").mkdir(exist_ok=True)
        write_jsonl(tmp_path / f"set/{name}.jsonl", [PAIR])
    assert len(imported(tmp_path / "set")) == 1
    assert "Not read, as no split is in the name: x.jsonl." in capsys.readouterr().out


def test_what_an_object_may_hold() -> None:
    assert rows_of({"a": 1}) == [{"a": 1}]
    assert rows_of({"k": PAIR}) == [{"id": "k", **PAIR}]
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    assert rows_of({"messages": turns}) == [{"messages": turns}]


def test_splits_by_the_names_of_files() -> None:
    folder = Path("set")
    files = [folder / name for name in ("a_train.jsonl", "test-2.jsonl", "latest.jsonl")]
    assert by_split(folder, files) == {"train": [files[0]], "test": [files[1]]}
    shards = [
        folder / "data/odd-00000-of-00002.parquet",
        folder / "data/odd-00001-of-00002.parquet",
    ]
    assert by_split(folder, shards) == {"odd": shards}
    elsewhere = [folder / one.name for one in shards]  # Datasets goes by it in `data` alone
    assert by_split(folder, elsewhere) == {"train": elsewhere}
    plain = [folder / "one.json", folder / "two.json"]
    assert by_split(folder, plain) == {"train": plain}
