"""What may differ when a run is resumed, option by option, keys of dictionaries included."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from veridical.errors import UserError
from veridical.files import hash_path
from veridical.judges.endpoint import EndpointSettings
from veridical.judges.named import Judging
from veridical.train.online import Sampling
from veridical.train.options import Training
from veridical.train.resume import FREE, FREE_KEYS, changed_options, check_folder
from veridical.train.trainer_keys import HONOURED

FIXED = {
    "tuning", "lora_rank", "lora_alpha", "init_adapter", "train_projector", "train_vision",
    "model_dropout", "projector_learning_rate", "learning_rate", "epochs", "max_steps",
    "batch_size", "accumulation", "max_length", "max_response_tokens", "held_out", "evaluations",
    "share_prefix", "template", "judge_template",
    "dry_run", "dtype", "seed", "judge", "objects", "vocabulary", "criteria",
    "judge_facts", "attempts", "judge_tokens", "temperature", "max_new_tokens", "rollout_steps",
}  # fmt: skip


def test_every_shared_option_is_free_or_fixed_or_goes_by_key() -> None:
    shared = {
        field.name for kind in (Training, Judging, Sampling) for field in dataclasses.fields(kind)
    }
    decided = FREE | FIXED | FREE_KEYS.keys()
    assert shared <= decided, shared - decided
    assert not FREE & FIXED
    assert not FREE_KEYS.keys() & (FREE | FIXED)
    # What an endpoint is asked stands in other options.
    assert FREE_KEYS["endpoint"] == {field.name for field in dataclasses.fields(EndpointSettings)}
    assert FREE_KEYS["trainer"] <= HONOURED["trainer"]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"endpoint": {"max_tokens": 10}}, {"endpoint": {"max_tokens": 99}}, []),
        ({"endpoint": {"url": "http://a/v1"}}, {"endpoint": None}, []),
        ({"trainer": None}, {"trainer": {"logging_steps": 5, "save_total_limit": 1}}, []),
        ({"rollout_batch": 64}, {"rollout_batch": 8}, []),
        (
            {"trainer": {"optim": "sgd", "logging_steps": 1}},
            {"trainer": {"logging_steps": 2}},
            ["--trainer.optim sgd, not (not set)"],
        ),
        (
            {"engine": {"url": "http://a", "max_staleness": 0}},
            {"engine": {"url": "http://b", "max_staleness": 2}},
            ["--engine.max_staleness 0, not 2"],
        ),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, ["--learning-rate 0.1, not 0.2"]),
    ],
)
def test_what_is_told_apart(old: dict[str, Any], new: dict[str, Any], changed: list[str]) -> None:
    assert changed_options(old, new) == changed


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ("one", "other", True),
        ("one", "copy", False),
        ("one", "embedded", True),
        ("embedded", "one", True),
        ("embedded", "org/model", True),
        ("embedded", "embedded", False),
    ],
)
def test_a_run_goes_on_with_the_model_that_it_began_with(
    before: str, now: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("one", "1"), ("copy", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    out = tmp_path / "out"
    (out / "checkpoints" / "checkpoint-2").mkdir(parents=True)

    def inputs(model: str) -> dict[str, Path]:
        return {"model": Path(model)} if Path(model).is_dir() else {}

    record = {
        "command": "train dpo",
        "configuration": {"model": before},
        "inputs": {
            name: {"path": str(path), "sha256": hash_path(path)}
            for name, path in inputs(before).items()
        },
    }
    (out / "run.json").write_text(json.dumps(record))
    resumed = {"model": now, "resume": True}
    if refused:
        with pytest.raises(UserError, match="model"):
            check_folder(out, "train dpo", resumed, inputs(now))
    else:
        check_folder(out, "train dpo", resumed, inputs(now))
