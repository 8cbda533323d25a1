"""Whole files or none, and folders that cannot be written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.runtime.runs import start_run
from veridical.study.align import align


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_place_of_the_run_folder(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        start_run(tmp_path / out, "train dpo", {})


def test_a_file_in_the_place_of_an_alignment(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        align(tmp_path / "file", "embedded")


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": {"c": 1, "c": 2}}')
    with pytest.raises(UserError, match=r"a\.json is not JSON: .*the key 'c' twice"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"c": 1}\n{"c": 1, "c": 1}')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 .*the key 'c' twice"):
        read_jsonl(tmp_path / "a.jsonl")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]", encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == read_jsonl(tmp_path / "a.json")[0] == [1]


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"answer": "\\ud83d\\udc15 dog"}')
    assert read_json(path) == {"answer": "\U0001f415 dog"} == read_jsonl(path)[0]
    path.write_text('{"answer": "\\ud83d dog"}')
    for read in (read_json, read_jsonl):
        with pytest.raises(UserError, match="half a surrogate pair"):
            read(path)
