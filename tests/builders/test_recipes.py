"""The recipes of docs/making.md run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from veridical.cli import main
from veridical.data.records import read_records
from veridical.runtime.files import read_json

PAGE = Path(__file__).parents[2] / "docs" / "making.md"


def commands(name: str) -> list[list[str]]:
    block = re.search(rf"<!-- {name}: begin -->\n```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


@pytest.mark.slow
def test_two_rounds_on_own_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands("rounds"):
        assert main(words) == 0, words
    second = read_json(tmp_path / "runs" / "r2" / "dpo" / "run.json")
    assert second["status"] == "finished"
    # The second round starts from the first one's model, and has it as its reference: the start
    # proof compares the two.
    assert second["models"]["model"]["name"] == "runs/r1/dpo/adapter"
    assert "start" in str(read_json(tmp_path / "runs" / "r2" / "dpo" / "proofs.json"))


@pytest.mark.slow
def test_chair_dpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands("chair"):
        assert main(words) == 0, words
    rows = read_records(tmp_path / "runs" / "pairs" / "pairs.parquet", "preference").rows
    assert len(rows) > 0
    assert read_json(tmp_path / "runs" / "chair-dpo" / "run.json")["status"] == "finished"
