"""Broken files and rows: each ends in a message and an exit status, none in a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspected_rows import pair, photo

from veridical import cli


def parquet_bytes(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


SOUND = [pair(1), pair(2)]
LINES = "".join(json.dumps(row) + "\n" for row in SOUND).encode()
PARQUET = parquet_bytes({name: [row[name] for row in SOUND] for name in SOUND[0]})
LIST = json.dumps(SOUND).encode()

FILES: dict[str, tuple[str, bytes]] = {
    "empty lines": ("x.jsonl", b""),
    "blank lines": ("x.jsonl", b"\n  \n\t\n"),
    "empty list": ("x.json", b"[]"),
    "empty json": ("x.json", b""),
    "empty parquet": ("x.parquet", b""),
    "no rows in parquet": ("x.parquet", parquet_bytes({"prompt": pa.array([], pa.string())})),
    "csv": ("x.csv", b"prompt,chosen,rejected\na,b,c\n"),
    "text": ("x.txt", LINES),
    "no suffix": ("x", LINES),
    "lines called parquet": ("x.parquet", LINES),
    "parquet called lines": ("x.jsonl", PARQUET),
    "parquet called list": ("x.json", PARQUET),
    "list called lines over two lines": ("x.jsonl", LIST.replace(b"}, {", b"},\n{")),
    "lines called list": ("x.json", LINES),
    "gzip called lines": ("x.jsonl", gzip.compress(LINES)),
    "gzip called parquet": ("x.parquet", gzip.compress(PARQUET)),
    "html": ("x.jsonl", b"<!doctype html>\n<html><body>404 Not Found</body></html>\n"),
    "git lfs pointer": ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "git lfs pointer as parquet": ("x.parquet", b"version https://git-lfs.github.com/spec/v1\n"),
    "latin-1": ("x.jsonl", json.dumps(pair(1)).encode() + b'\n{"prompt": "caf\xe9"}\n'),
    "utf-16": ("x.jsonl", LINES.decode().encode("utf-16")),
    "utf-16 list": ("x.json", LIST.decode().encode("utf-16")),
    "nul bytes": ("x.jsonl", b"\0" * 200),
    "number": ("x.json", b"7"),
    "text in json": ("x.json", b'"pairs"'),
    "null": ("x.json", b"null"),
    "list of numbers": ("x.json", b"[1, 2, 3]"),
    "list of nulls": ("x.json", b"[null, null]"),
    "deep nesting": ("x.json", b"[" * 100_000),
    "deep nesting in a line": ("x.jsonl", b"[" * 100_000 + b"\n"),
    "list without its end": ("x.json", LIST[:-1]),
    "list cut in a text": ("x.json", LIST[:40]),
    "list with a comma too many": ("x.json", LIST[:-1] + b",]"),
    "object of numbers": ("x.json", b'{"a": 1, "b": 2}'),
    "python literals": ("x.jsonl", str(pair(1)).encode() + b"\n"),
    "other columns": ("x.jsonl", b'{"a": 1, "b": 2}\n'),
    "other columns in parquet": ("x.parquet", parquet_bytes({"a": [1], "b": [2]})),
    "png": ("x.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    **{f"parquet cut at {share} %": ("x.parquet", PARQUET[: len(PARQUET) * share // 100])
       for share in (1, 10, 50, 90, 99)},
    **{f"parquet overwritten at {share} %": ("x.parquet", PARQUET[: len(PARQUET) * share // 100]
       + b"\xff" * 64 + PARQUET[len(PARQUET) * share // 100 + 64 :])
       for share in (5, 25, 60, 80)},
}  # fmt: skip

TURN = {"role": "user", "content": "What?"}
BAD_VALUES: dict[str, list[Any]] = {
    "prompt": [7, True, [], {}, {"a": 1}, [7], ["What?"], [{"role": "user"}], [{"content": "x"}],
               [{"role": "robot", "content": "x"}], [{"role": "user", "content": 7}],
               [TURN, TURN], [{"role": "assistant", "content": "x"}], "\ud800", None,
               [{"role": "user", "content": [{"type": "video"}]}], "<image>\nWhat?",
               "[{'role': 'user', 'content': 'What?'}]"],
    "chosen": [7, [], {}, "", " \n", [7], None, [TURN], [{"role": "assistant", "content": ""}],
               [{"role": "assistant", "content": [{"type": "image"}]}], {"a": {"b": "c"}},
               "\udfff"],
    "rejected": [7, [], "", "\t", None, False, [[]], "Number 2 is a car."],
    "images": [7, [7], [None], [[1, 2]], [{}], [{"path": 3}], "none.png", ["../a.png"], [""],
               ["a\0.png"], ["https://x.org/a.png"], ["/etc/passwd"], ["."], ["text.png"],
               ["cut.png"], ["empty.png"], ["a.png", "a.png", "none.png"],
               "data:image/png;base64,iVBORw0KGgo=", ["x" * 5000]],
    "id": [1.5, [], {}, True, "r1"],
    "ratings": [7, [7], [{}], [{"answer": "third", "aspect": "a", "value": 1}],
                [{"answer": "chosen", "aspect": "a", "value": "good"}]],
    "facts": [7, [7], {"a": 1}],
    "answer_prefix": [7, ["a"], "Nobody said this."],
    "span_weights": [7, [7], [{}], [{"answer": "third", "weight": 1}],
                     [{"answer": "chosen", "weight": 1, "end": 9999}]],
    "more_rejected": [7, [""], [7], ["Number 2 is a car."]],
    "rejected_images": [7, ["a.png"], [None]],
}  # fmt: skip
ROWS = [(field, value) for field, values in BAD_VALUES.items() for value in values]
TEXTS = ["{", "}", "[1, 2]", '"text"', "7", "null", "not json", '{"prompt": 1,}',
         '{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "\ufeff{}", "{}",
         '{"prompt": NaN}', "9" * 5000, '{"prompt": "a", "chosen": "b"}']  # fmt: skip


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(words)
    out, err = capsys.readouterr()
    # Progress bars end in a carriage return or hold a bar.
    said = [line for line in err.replace("\r", "\n").split("\n") if line and "it/s" not in line]
    return status, out, "\n".join(line for line in said if "reading" not in line[:8])


def expect_message(status: int, err: str) -> None:
    assert status == 2
    assert err.startswith("veridical: ")
    assert 20 < len(err) < 1200
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err


def test_there_are_a_hundred() -> None:
    assert len(FILES) + len(ROWS) + len(TEXTS) > 100


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["check", "describe"])
def test_a_broken_file_ends_in_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    file_name, content = FILES[name]
    file = tmp_path / file_name
    file.write_bytes(content)
    more = ["--out", str(tmp_path / "page.html")] if command == "describe" else []
    status, out, err = run(["data", command, str(file), *more], capsys)
    if status == 1:  # rows that could be read, and what is wrong with others
        assert command == "check"
        assert "error:" in out
        assert "row " in out
    else:
        expect_message(status, err)


def with_pictures(folder: Path) -> None:
    whole = photo(folder / "a.png", 1).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")


@pytest.mark.parametrize(("field", "value"), ROWS)
def test_a_bad_value_is_named_with_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any
) -> None:
    with_pictures(tmp_path)
    rows = [pair(1), {**pair(2), field: value}, pair(3)]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = run(["data", "check", str(file)], capsys)
    assert (status, err) == (1, "")
    assert "\n  row 2" in out
    assert "\n  row 1" not in out
    assert "to fix: " in out


@pytest.mark.parametrize("text", TEXTS)
def test_a_bad_line_is_named_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(f"{json.dumps(pair(1))}\n{text}\n{json.dumps(pair(3))}\n", encoding="utf-8")
    status, out, err = run(["data", "check", str(file)], capsys)
    assert (status, err) == (1, "")
    assert "\n  row 2: " in out


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path.with_name("nowhere")),
        lambda path: path.symlink_to(path),
        lambda path: None,
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    file = tmp_path / "x.jsonl"
    make(file)
    for words in (["data", "check", str(file)], ["data", "describe", str(file)]):
        status, _, err = run(words, capsys)
        expect_message(status, err)
