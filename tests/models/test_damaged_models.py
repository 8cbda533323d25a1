"""A model whose numbers are none, in every command that lets one answer or score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.cli.dispatch import main
from veridical.models.policy import Policy
from veridical.runtime.files import write_json, write_jsonl


@pytest.fixture
def damaged(policy: Policy, tmp_path: Path) -> Path:
    """A folder with the model (one number of its head is none), and data to ask it about."""
    policy.model.to(torch.float32)
    policy.model.get_output_embeddings().weight.data[7, 0] = float("nan")
    policy.model.save_pretrained(tmp_path / "model")
    policy.processor.save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "1.png")
    write_json(tmp_path / "objects.json", {"1": ["dog"]})
    asked = {"question_id": 1, "image": "1.png", "text": "Is there a dog?", "label": "yes"}
    write_jsonl(tmp_path / "questions.jsonl", [asked])
    row = {"id": "1", "images": ["images/1.png"], "prompt": "Describe it."}
    messages = [
        {"role": "user", "content": "Describe it."},
        {"role": "assistant", "content": "A dog. It sits."},
    ]
    write_jsonl(tmp_path / "prompts.jsonl", [row])
    write_jsonl(tmp_path / "samples.jsonl", [row | {"responses": ["A dog.", "A cat."]}])
    talk = {"id": "1", "images": ["images/1.png"], "messages": messages}
    write_jsonl(tmp_path / "conversations.jsonl", [talk])
    return tmp_path


LETTERS = "---\nform: choice\nnames: [red, blue]\n---\nWhich is better?\n"
COMMANDS: dict[str, list[str]] = {
    "ask": ["ask", "M/model", "M/images/1.png", "What is it?"],
    "chair": ["eval", "chair", "M/model", "--images", "M/images", "--objects", "M/objects.json"],
    "pope": ["eval", "pope", "M/model", "--images", "M/images", "--questions", "M/questions.jsonl"],
    "pope and margins": [
        "eval", "pope", "M/model", "--images", "M/images", "--questions", "M/questions.jsonl",
        "--auc",
    ],
    "sample": ["build", "sample", "M/model", "--data", "M/conversations.jsonl", "--k", "2"],
    "bdhs": [
        "build", "bdhs", "M/model", "--data", "M/conversations.jsonl", "--similarity", "edit",
    ],
    "rank": ["build", "rank", "M/samples.jsonl", "--judge", "local:M/model"],
    "rank by odds": [
        "build", "rank", "M/samples.jsonl", "--judge", "local:M/model", "--by", "logprob",
        "--criteria", "M/own.md",
    ],
    "annotate": ["build", "annotate", "M/samples.jsonl", "--judge", "local:M/model"],
    "train": ["train", "sft", "M/model", "--data", "M/conversations.jsonl", "--held-out", "0"],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_damaged_model_is_never_a_result(
    damaged: Path, words: list[str], dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "own.md").write_text(LETTERS)
    given: list[Any] = [word.replace("M/", f"{damaged}/") for word in words]
    out = damaged / "out"
    given += ["--dtype", dtype] + (["--out", str(out)] if words[0] != "ask" else [])
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "NaN or infinite" in said and "lm_head.weight" in said
    assert not list(out.glob("scores.json")) and not list(out.glob("*.parquet"))
