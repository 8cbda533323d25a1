"""Samples: k responses a prompt, the same whatever the batch size or an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.builders import _parts, _samples, sample
from veridical.builders._samples import SampleSettings, sample_responses
from veridical.builders.sample import check_sample_settings
from veridical.cli.dispatch import main
from veridical.data.messages import assistant_message, text_of, user_message
from veridical.data.prompts import Prompt
from veridical.data.records import read_records
from veridical.data.responses import Response
from veridical.data.steering import REQUEST
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_jsonl
from veridical.sampling import Decoding


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Five drawn scenes."""
    assert main(["world", "make", str(tmp_path / "scenes"), "--count", "5", "--seed", "1"]) == 0
    return tmp_path / "scenes"


def run(data: Path, out: Path, *more: str) -> int:
    common = ["--max-new-tokens", "96", "--temperature", "1.2"]
    if "--k" not in more:
        common += ["--k", "3"]
    return main(["build", "sample", "embedded", "--data", str(data), "--out", str(out), *common,
                 *more])  # fmt: skip


def responses(out: Path) -> list[list[str]]:
    rows = read_records(out / "samples.parquet", "sample").rows.remove_columns(["images"])
    return [[text_of(answer) for answer in row["responses"]] for row in rows]


def test_batch_size_and_interruption_change_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(_parts, "CHUNK", 2)
    data = scenes / "conversations.jsonl"
    assert run(data, tmp_path / "one", "--batch-size", "2") == 0
    assert run(data, tmp_path / "many") == 0
    found = responses(tmp_path / "one")
    assert found == responses(tmp_path / "many")
    assert [len(row) for row in found] == [3] * 5
    assert len({text for row in found for text in row}) > 5

    calls = 0
    honest = sample_responses

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(sample, "sample_responses", dies)
    assert run(data, tmp_path / "cut") == 130
    assert run(data, tmp_path / "cut", "--seed", "1") == 2
    assert "unfinished build with other settings" in capsys.readouterr().err
    assert run(data, tmp_path / "cut") == 0
    assert calls == 4  # one before, the one that died, and the two that were left
    assert responses(tmp_path / "cut") == found
    assert not (tmp_path / "cut" / "parts").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_change_no_response_in_any_dtype(
    dtype: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parts, "CHUNK", 2)
    data = scenes / "conversations.jsonl"
    assert run(data, tmp_path / "one", "--dtype", dtype) == 0
    for shard in ("2/2", "1/2"):
        assert run(data, tmp_path / "shared", "--dtype", dtype, "--shard", shard) == 0
    assert responses(tmp_path / "shared") == responses(tmp_path / "one")


def test_what_is_written(scenes: Path, tmp_path: Path) -> None:
    assert run(scenes / "conversations.jsonl", tmp_path / "out", "--limit", "2") == 0
    rows = read_records(tmp_path / "out" / "samples.parquet", "sample").rows
    (truth, _) = read_jsonl(scenes / "conversations.jsonl")[:2]
    assert rows[0]["id"] == truth["id"]
    assert rows[0]["prompt"] == truth["messages"][:1]
    assert rows[0]["images"][0].tobytes() == Image.open(scenes / truth["images"][0]).tobytes()
    source = json.loads(rows[0]["source"])
    assert source["settings"] == {
        "model": "embedded", "k": 3, "temperature": 1.2, "max_new_tokens": 96, "seed": 0,
        "steer": None, "top_p": 1.0, "top_k": 0, "min_new_tokens": 0,
    }  # fmt: skip
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["records"], summary["prompts"], summary["responses"]) == (2, 2, 6)
    assert read_json(tmp_path / "out" / "run.json")["status"] == "finished"


class Says:
    """Stands in for the model: says what it is told to, and keeps what it was asked."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.asked: list[Any] = []

    def __call__(self, policy: Any, requests: Any, decoding: Any, k: int) -> list[list[Response]]:
        self.asked += requests
        said = iter([Response(text, (), (), "end") for text in self.texts])
        return [[next(said) for _ in range(k)] for _ in requests]


def test_repeats_and_empty_responses_are_counted(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["A dog.", "A dog.", "", "A cat.", "A dog.", "A dog.", "", "", " "]
    monkeypatch.setattr(_samples, "roll_out", Says(texts))
    assert run(scenes / "conversations.jsonl", tmp_path / "out", "--limit", "3") == 0
    assert responses(tmp_path / "out") == [["A dog.", "A dog."], ["A cat.", "A dog.", "A dog."]]
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["duplicates"] == 2
    assert summary["prompts_with_one_response"] == 1
    assert (summary["empty"], summary["responses"], summary["skipped"]) == (4, 5, 1)
    (skipped,) = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert skipped["reason"] == "every response is empty"


def test_responses_that_were_cut_off_are_no_samples(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What is trained on ends with an end token, which a cut text does not have."""
    said = [("A dog.", "end"), ("A cat and", "length"), ("", "end"), *[("A b", "length")] * 3]

    def roll_out(policy: Any, requests: Any, decoding: Any, k: int) -> list[list[Response]]:
        rollouts = iter([Response(text, (), (), reason) for text, reason in said])  # type: ignore[arg-type]
        return [[next(rollouts) for _ in range(k)] for _ in requests]

    monkeypatch.setattr(_samples, "roll_out", roll_out)
    assert run(scenes / "conversations.jsonl", tmp_path / "out", "--limit", "2") == 0
    assert responses(tmp_path / "out") == [["A dog."]]
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["cut_off"], summary["empty"], summary["responses"]) == (4, 1, 1)
    assert "4 of 5 responses were cut off at --max-new-tokens" in capsys.readouterr().out
    (skipped,) = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert skipped["reason"] == "3 of 3 responses were cut off at --max-new-tokens"


def test_preference_and_prompt_rows_and_llavas_file_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Says(["A dog."])
    monkeypatch.setattr(_samples, "roll_out", asked)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"id": "a", "images": ["a.png"], "prompt": "What is this?"}
    turns = [("human", "<image>\nHello?"), ("gpt", "Yes."), ("human", "And?"), ("gpt", "No.")]
    files: dict[str, dict[str, Any]] = {
        "prompt": row | {"facts": ["It is black."]},
        "preference": row | {"chosen": "Black.", "rejected": "A dog."},
        "conversation": {
            "id": "a", "image": "a.png",
            "conversations": [{"from": who, "value": text} for who, text in turns],
        },
    }  # fmt: skip
    for kind, content in files.items():
        write_jsonl(tmp_path / f"{kind}.jsonl", [content])
        assert run(tmp_path / f"{kind}.jsonl", tmp_path / kind, "--kind", kind, "--k", "1") == 0
    assert [text_of(request.prompt.messages) for request in asked.asked] == [
        "What is this?", "What is this?", "Hello?\nYes.\nAnd?",
    ]  # fmt: skip
    (kept,) = read_records(tmp_path / "prompt" / "samples.parquet", "sample").rows
    assert kept["facts"] == ["It is black."]


def test_steering_is_asked_for_and_not_written_into_the_prompt(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Says(["A dog."] * 3)
    monkeypatch.setattr(_samples, "roll_out", asked)
    more = ("--limit", "1", "--steer", "all-4,Verbosity:1")
    assert run(scenes / "conversations.jsonl", tmp_path / "out", *more) == 0
    assert f"\n{REQUEST}\nHelpfulness: four" in text_of(asked.asked[0].prompt.messages)
    (row,) = read_records(tmp_path / "out" / "samples.parquet", "sample").rows
    assert text_of(row["prompt"]) == "Describe the image."
    assert json.loads(row["source"])["settings"]["steer"] == "all-4,Verbosity:1"


def test_a_prompt_that_cannot_be_rendered_is_listed(policy: Policy) -> None:
    good = Prompt("good", (), [user_message("Is there a dog?", 0)])
    bad = Prompt("bad", (), [user_message("What does </s> mean?", 0)])
    settings = SampleSettings(2, Decoding(4, 1.0, batch_size=4))
    found = sample_responses(policy, [bad, good], settings)
    assert [one.id for one in found] == ["bad", "good"]
    assert "</s>" in found[0].refused and len(found[1].responses) == 2
    assert assistant_message(found[1].responses[0])["role"] == "assistant"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SampleSettings(0, Decoding(8, 0.7)), "--k is 0"),
        (SampleSettings(4, Decoding(8, 0.0)), "same response 4 times"),
        (SampleSettings(4, Decoding(8, -1.0)), "--temperature is -1"),
        (SampleSettings(4, Decoding(0, 0.7)), "--max-new-tokens is 0"),
        (SampleSettings(4, Decoding(8, 0.7), "all-9"), "--steer can't take 'all-9'"),
    ],
)
def test_settings_that_make_no_sense(settings: SampleSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_sample_settings(settings)
    check_sample_settings(SampleSettings(1, Decoding(8, 0.0), "all-4"))
