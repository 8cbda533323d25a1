"""What `--max-new-tokens` cut off, followed through every builder that learns from samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.builders import _samples
from veridical.cli import main
from veridical.data.messages import text_of
from veridical.data.records import read_records
from veridical.data.responses import Response
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl

CUT = "A dog and a cat, and"
"""By the judge the best of all: it names both objects and invents none."""
SAID = {
    "one": [(CUT, "length"), ("A dog.", "end"), ("A dog and a hat.", "end")],
    "two": [("A dog and a cat.", "end"), (CUT, "length"), ("A hat.", "end")],
    "all": [(CUT, "length")] * 3,
    "but-one": [(CUT, "length"), ("A dog.", "end"), (CUT, "length")],
}


def run(*words: object) -> int:
    return main([str(word) for word in words])


def _sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(SAID)

    def roll_out(policy: Any, requests: Any, decoding: Any, k: int) -> list[list[Response]]:
        rows = [SAID[next(names)] for _ in requests]
        return [[Response(text, (), (), why) for text, why in row] for row in rows]  # type: ignore[arg-type]

    monkeypatch.setattr(_samples, "roll_out", roll_out)
    for name in SAID:
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    rows = [{"id": name, "images": [f"{name}.png"], "prompt": "What is there?"} for name in SAID]
    write_jsonl(folder / "prompts.jsonl", rows)
    write_json(folder / "objects.json", {name: ["dog", "cat"] for name in SAID})
    write_json(folder / "words.json", {"dog": [], "cat": [], "hat": []})
    assert run("build", "sample", "embedded", "--data", folder / "prompts.jsonl", "--k", "3",
               "--kind", "prompt", "--out", folder / "samples") == 0  # fmt: skip


def _rated(folder: Path) -> Path:
    truth = ("--objects", folder / "objects.json", "--vocabulary", folder / "words.json")
    samples = folder / "samples" / "samples.parquet"
    assert run("build", "rate", samples, *truth, "--out", folder / "rated") == 0
    return folder / "rated" / "samples.parquet"


def _best(folder: Path) -> dict[str, list[str]]:
    assert run("build", "best", _rated(folder), "--out", folder / "best") == 0
    found = read_records(folder / "best" / "conversations.parquet", "conversation")
    return {row["id"]: [text_of(row["messages"][-1])] for row in found.rows}


def _pairs(folder: Path) -> dict[str, list[str]]:
    options = ("--rule", "extremes", "--margin", "0", "--aspects", "[exact]")
    assert run("build", "pairs", _rated(folder), *options, "--out", folder / "pairs") == 0
    return _both(folder / "pairs")


def _ranked(folder: Path) -> dict[str, list[str]]:
    truth = ("--objects", folder / "objects.json", "--vocabulary", folder / "words.json")
    samples = folder / "samples" / "samples.parquet"
    assert run("build", "rank", samples, "--judge", "exact", *truth, "--rule", "extremes",
               "--out", folder / "ranked") == 0  # fmt: skip
    return _both(folder / "ranked")


def _both(out: Path) -> dict[str, list[str]]:
    rows = read_records(out / "pairs.parquet", "preference").rows
    return {row["id"]: [text_of(row["chosen"]), text_of(row["rejected"])] for row in rows}


Builder = Callable[[Path], dict[str, list[str]]]
TWO = {"one": ["A dog.", "A dog and a hat."], "two": ["A dog and a cat.", "A hat."]}
ONE = {"one": ["A dog."], "two": ["A dog and a cat."], "but-one": ["A dog."]}
BUILDERS: list[tuple[Builder, dict[str, list[str]], str]] = [
    (_best, ONE, ""),
    (_pairs, TWO, "pairs"),
    (_ranked, TWO, "ranked"),
]


@pytest.mark.parametrize(("build", "expected", "folder"), BUILDERS)
def test_no_cut_text_is_a_training_target(
    build: Builder,
    expected: dict[str, list[str]],
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _sampled(tmp_path, monkeypatch)
    assert read_json(tmp_path / "samples" / "summary.json")["cut_off"] == 7
    assert build(tmp_path) == expected
    if folder:  # a prompt that is left with one response is listed, not lost
        assert [row["id"] for row in read_jsonl(tmp_path / folder / "skipped.jsonl")] == ["but-one"]


@pytest.mark.parametrize(("build", "expected"), [case[:2] for case in BUILDERS])
def test_the_judge_would_have_taken_the_cut_text(
    build: Builder,
    expected: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That the test above can fail: samples that keep cut texts give targets that have them."""
    kept = property(lambda self: list(self.responses))
    monkeypatch.setattr(_samples.Sampled, "finished", kept)
    _sampled(tmp_path, monkeypatch)
    assert build(tmp_path)["one"][0] == CUT != expected["one"][0]
