"""Answers that go on without their image, from file to file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from veridical.builders import dropout
from veridical.cli import main
from veridical.data.messages import count_images
from veridical.data.records import read_records, text_of
from veridical.data.responses import Response
from veridical.models.policy import Policy
from veridical.runtime.files import read_json, read_jsonl, write_jsonl
from veridical.sampling import Decoding, Request
from veridical.world.dataset import write_scenes


def run(*words: object) -> int:
    return main(["build", "dropout", "embedded", *map(str, words)])


def content(folder: Path) -> dict[str, bytes]:
    return {
        n: (folder / n).read_bytes() for n in ("pairs.parquet", "skipped.jsonl", "summary.json")
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, int]]:
    """Continuations by rule, so that what is asked and what comes of it can be seen.

    A continuation is the rest of the answer of four words, " blue.", or as the id says.
    """
    seen: list[tuple[Request, int]] = []

    def respond(
        policy: Policy, requests: Sequence[Request], decoding: Decoding, label: str
    ) -> list[Response]:
        seen.extend((request, decoding.max_new_tokens) for request in requests)
        return [said(*request.prompt.id.rsplit("/", 1)) for request in requests]

    def said(name: str, attempt: str) -> Response:
        first = attempt == "1"
        if "same" in name and first:
            return Response(" is red.")
        if "empty" in name and first:
            return Response("  ")
        if "long" in name:
            return Response(" and a cup and", stop_reason="length")
        return Response(" is blue. ")

    monkeypatch.setattr(dropout, "respond", respond)
    return seen


def samples(folder: Path, responses: dict[str, list[str]]) -> Path:
    write_scenes(folder / "scenes", count=1)
    image = next((folder / "scenes" / "images").iterdir())
    rows = [
        {"id": name, "images": [str(image.relative_to(folder))], "prompt": "Which cup is it?",
         "responses": texts}
        for name, texts in responses.items()
    ]  # fmt: skip
    rows.append({"id": "blind", "images": [], "prompt": "Which?", "responses": ["A red cup."]})
    write_jsonl(folder / "samples.jsonl", rows)
    return folder / "samples.jsonl"


def test_an_answer_is_cut_at_half_and_goes_on_from_the_text_alone(
    tmp_path: Path, asked: list[tuple[Request, int]]
) -> None:
    """Of 4 words 2 are kept, of 5 words 2, of 2 words 1."""
    data = samples(
        tmp_path,
        {"one": ["The cup is red.", "The cup is red.", "The cup is really red.", "Cup here."],
         "same": ["The cup is red."], "empty": ["The cup is red."], "long": ["The cup is red."],
         "word": ["Red."]},
    )  # fmt: skip
    assert run("--data", data, "--out", tmp_path / "out", "--attempts", 2) == 0
    rows = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows
    found = {row["id"]: (text_of(row["chosen"]), text_of(row["rejected"])) for row in rows}
    assert found == {
        "one/0": ("The cup is red.", "The cup is blue."),
        "one/2": ("The cup is really red.", "The cup is blue."),
        "one/3": ("Cup here.", "Cup is blue."),
        "same/0": ("The cup is red.", "The cup is blue."),
        "empty/0": ("The cup is red.", "The cup is blue."),
    }
    for row in rows:
        assert len(row["images"]) == count_images(row["prompt"]) == 1
        source = json.loads(row["source"])
        assert (source["builder"], source["kept"]) == ("dropout", 0.5)
        assert source["attempt"] == 1 + (row["id"] in ("same/0", "empty/0"))
    assert all(not r.prompt.images and not count_images(r.prompt.messages) for r, _ in asked)
    assert {request.prefix for request, _ in asked} == {"The cup", "Cup"}
    skipped = [(row["id"], row["reason"]) for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")]
    assert skipped == [
        ("one", "an earlier response of the record is the same"),
        ("long", "2 continuations; of the last, it was cut off at --max-new-tokens"),
        ("word", "an answer of one word can't be cut"),
        ("blind", "there is no image to leave out"),
    ]
    # Once by one/0, one/2 and one/3, twice by same, empty and long.
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary == {"answers": 9, "pairs": 5, "skipped": 4, "sampled": 3 + 3 * 2}


def test_the_share_that_is_kept_can_be_set(
    tmp_path: Path, asked: list[tuple[Request, int]]
) -> None:
    data = samples(tmp_path, {"one": ["The cup on it is really red."]})
    assert run("--data", data, "--out", tmp_path / "out", "--kept", 0.25) == 0
    assert [request.prefix for request, _ in asked] == ["The"]  # 0.25 x 7 = 1.75 words


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--kept", 1], "--kept is 1"),
        (["--temperature", 0], "--temperature 0 repeats the same continuation"),
        (["--attempts", 0], "--attempts is 0"),
        (["--kind", "prompt"], "--kind"),
    ],
)
def test_what_makes_no_sense_ends_in_a_line(
    more: list[object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = samples(tmp_path, {"one": ["A cup."]})
    assert run("--data", data, "--out", tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_model_gives_the_same_bytes_in_shards_batches_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "scenes", count=70)
    words: tuple[Any, ...] = (
        "--data", tmp_path / "scenes" / "conversations.jsonl", "--kind", "conversation",
    )  # fmt: skip
    assert run(*words, "--out", tmp_path / "whole") == 0
    expected = content(tmp_path / "whole")
    rows = read_records(tmp_path / "whole" / "pairs.parquet", "preference").rows
    assert len(rows) > 60
    for row in rows:
        beginning = json.loads(row["source"])["beginning"]
        assert text_of(row["chosen"]).startswith(beginning)
        assert text_of(row["rejected"]).startswith(beginning)
        assert row["answer_prefix"] == beginning
    for shard in ("2/2", "1/2"):
        assert run(*words, "--out", tmp_path / "shards", "--shard", shard, "--batch-size", 7) == 0
    assert content(tmp_path / "shards") == expected
    whole, calls = dropout.continue_answers, 0

    def killed(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(dropout, "continue_answers", killed)
    assert run(*words, "--out", tmp_path / "killed") == 130
    assert run(*words, "--out", tmp_path / "killed") == 0
    assert (content(tmp_path / "killed"), calls) == (expected, 3)
