"""What may differ when a run is resumed, option by option, keys of dictionaries included."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from veridical.judges.endpoint import EndpointSettings
from veridical.judges.named import Judging
from veridical.train.online import Sampling
from veridical.train.options import Training
from veridical.train.resume import FREE, FREE_KEYS, changed_options
from veridical.train.trainer_keys import HONOURED

FIXED = {
    "tuning", "lora_rank", "lora_alpha", "init_adapter", "train_projector", "train_vision",
    "model_dropout", "projector_learning_rate", "learning_rate", "epochs", "max_steps",
    "batch_size", "accumulation", "max_length", "max_response_tokens", "held_out", "evaluations",
    "share_prefix", "template",
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
