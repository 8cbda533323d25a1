"""Shares of a run: who makes what, and who puts it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from veridical.bdhs.true_answers import TrueAnswer
from veridical.builders import _parts
from veridical.builders._parts import Parts
from veridical.cli.dispatch import main
from veridical.data.prompts import Prompt
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file
from veridical.runtime.shards import ALL, Shard, read_shard

SCENES = 5


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Five drawn scenes."""
    folder = tmp_path / "scenes"
    assert main(["world", "make", str(folder), "--count", str(SCENES), "--seed", "1"]) == 0
    return folder


def test_what_a_share_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_shard(None) == ALL
    assert read_shard("2/8") == Shard(1, 8)
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0"):
        with pytest.raises(UserError, match="--shard"):
            read_shard(wrong)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert read_shard(None) == Shard(3, 4)
    with pytest.raises(UserError, match="launcher"):
        read_shard("1/4")


def test_every_piece_is_in_one_share() -> None:
    for count in (1, 2, 3):
        owners = [[Shard(i, count).has(piece) for i in range(count)] for piece in range(10)]
        assert all(sum(owner) == 1 for owner in owners)


def test_one_of_those_that_finish_together_is_chosen(tmp_path: Path) -> None:
    assert [Shard(i, 2).claim(tmp_path) for i in (1, 0)] == [True, False]
    assert ALL.claim(tmp_path)  # going on alone after a claimant has died
    assert not Shard(0, 2).claim(tmp_path / "removed")


def test_a_share_without_chunks_leaves_nothing_behind(tmp_path: Path) -> None:
    items = [TrueAnswer(Prompt("only", (), ()), "answer")]
    parts = Parts(tmp_path, {"settings": 1}, dict)
    assert parts.work_through_shard(items, lambda _: [], "test", Shard(1, 2)) is None
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("said", "sung"),
        lambda text: text.replace('"id"', '"name"'),
        lambda text: text.replace("{", "[", 1),
        lambda text: text.partition("\n")[2],
        lambda text: "[1]\n",
        lambda text: "",
    ],
)
def test_a_chunk_that_was_changed_is_worked_through_again(
    tmp_path: Path, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    items = [TrueAnswer(Prompt(name, (), ()), "answer") for name in ("a", "b")]
    asked: list[int] = []

    def work(chunk: Sequence[TrueAnswer]) -> list[dict[str, Any]]:
        asked.append(len(chunk))
        return [{"id": item.prompt.id, "text": f"said {item.prompt.id}"} for item in chunk]

    parts = Parts(tmp_path, {"settings": 1}, dict)
    first = parts.work_through(items, work, "test")
    assert parts.work_through(items, work, "test") == first
    assert (asked, capsys.readouterr().out) == ([2], "")
    parts.path(0).write_text(change(parts.path(0).read_text()))
    assert parts.work_through(items, work, "test") == first
    assert asked == [2, 2]
    assert "was damaged or changed: its records are worked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "results"),
    [
        (["build", "sample", "--k", "2"], ["samples.parquet", "summary.json", "skipped.jsonl"]),
        (
            ["build", "bdhs", "--similarity", "edit", "--iterations", "2"],
            ["pairs.parquet", "summary.json", "skipped.jsonl"],
        ),
    ],
)
def test_builds_are_the_same_bytes_however_they_are_shared(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    results: list[str],
) -> None:
    monkeypatch.setattr(_parts, "CHUNK", 2)  # 3 chunks
    data = ["--model", "embedded", "--data", str(scenes / "conversations.jsonl")]
    words = [*command, *data, "--max-new-tokens", "48"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main([*words, "--out", str(whole)]) == 0
    for shard in ("3/3", "1/3", "2/3"):
        assert not (shared / results[0]).exists()
        assert main([*words, "--out", str(shared), "--shard", shard]) == 0
    assert not (shared / "parts").exists()
    for name in results:
        assert hash_file(shared / name) == hash_file(whole / name), name


@pytest.mark.parametrize(
    ("benchmark", "results"),
    [
        ("chair", ["answers.jsonl", "scores.json", "details.jsonl"]),
        ("pope", ["answers.jsonl", "scores.json"]),
    ],
)
def test_evaluations_are_the_same_bytes_however_they_are_shared(
    scenes: Path, tmp_path: Path, benchmark: str, results: list[str]
) -> None:
    words = [
        "eval",
        benchmark,
        "--model",
        "embedded",
        "--objects",
        str(scenes / "objects.json"),
        "--images",
        str(scenes / "images"),
        "--max-new-tokens",
        "8",
        "--batch-size",
        "2",
    ]
    if benchmark == "chair":
        words += ["--vocabulary", str(scenes / "vocabulary.json")]
    else:
        words += ["--per-image", "1"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main([*words, "--out", str(whole)]) == 0
    for shard in ("2/2", "1/2"):
        assert not (shared / "scores.json").exists()
        assert main([*words, "--out", str(shared), "--shard", shard]) == 0
    for name in results:
        assert hash_file(shared / name) == hash_file(whole / name), name
    assert not list(shared.glob("*partial*"))
