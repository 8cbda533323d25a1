"""An evaluation of an adapter's folder says and records what rounding cost it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import eval_pope
from PIL import Image

from veridical.models.load import load_policy
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.files import read_json, write_jsonl


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_merging_cost_is_printed_and_in_the_record(
    dtype: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = prepare_training(load_policy("embedded", "float32", "cpu"), Tuning(rank=2, alpha=2))
    for name, weight in tuned.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-8)
    tuned.model.save_pretrained(str(tmp_path / "adapter"))
    Image.new("RGB", (48, 48), "gray").save(tmp_path / "a.png")
    question = {"question_id": 1, "image": "a.png", "text": "Is there a cup?", "label": "yes"}
    write_jsonl(tmp_path / "questions.jsonl", [question])
    capsys.readouterr()
    eval_pope(
        tmp_path / "out", model=str(tmp_path / "adapter"), images=tmp_path, dtype=dtype,
        questions=[tmp_path / "questions.jsonl"], device="cpu",
    )  # fmt: skip
    said, model = capsys.readouterr().out, read_json(tmp_path / "out" / "run.json")["models"]
    if dtype == "float32":
        assert "rounded" not in said and "merges" not in model["model"]
        return
    (merge,) = model["model"]["merges"]
    assert (merge["adapter"], merge["dtype"]) == (str(tmp_path / "adapter"), dtype)
    assert merge["lost"] > 0.1
    assert said.count(f"merged and rounded to {dtype}") == said.count("set --dtype float32") == 1
