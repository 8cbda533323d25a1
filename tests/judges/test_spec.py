"""One spec of a judge: the same words for builders and training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from veridical.judges import spec as module
from veridical.judges.kinds import SHAPES, check_kind
from veridical.judges.named import JudgeRuntime, Judging, open_comparison
from veridical.judges.spec import JudgeSpec
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError

SPEC = JudgeSpec("local:embedded", 3, 0.0, 0.7, 256, False, 0)


@pytest.mark.parametrize(
    ("judge", "kinds", "listed"),
    [
        ("reward:x", ("exact", "local", "endpoint"), "exact, local:MODEL, endpoint:MODEL"),
        ("local:", tuple(SHAPES), "exact, chair, reward:FOLDER, local:MODEL, endpoint:MODEL"),
        ("exact:x", ("exact", "reward"), "exact, reward:FOLDER"),
        ("gpt", ("local", "endpoint"), "local:MODEL, endpoint:MODEL"),
    ],
)
def test_a_judge_that_is_none_is_told_which_there_are(
    judge: str, kinds: Sequence[str], listed: str
) -> None:
    with pytest.raises(UserError, match=f"--judge {judge} is none of {listed}"):
        check_kind(judge, kinds)


def test_kind_and_model_are_told_apart_at_the_first_colon() -> None:
    spec = dataclasses.replace(SPEC, judge="endpoint:org/model:8b")
    assert (spec.kind, spec.model, spec.is_local) == ("endpoint", "org/model:8b", False)
    spec.check(("endpoint",))


def test_training_opens_its_judge_where_builders_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def load(name: str, *rest: Any, **more: Any) -> Policy:
        opened.append(name)
        return load_policy(name)

    monkeypatch.setattr(module, "load_placed", load)
    told: list[Policy] = []
    place = JudgeRuntime(tmp_path, on_model=told.append)
    open_comparison(Judging(judge="local:embedded"), place)
    assert opened == ["embedded"] and [policy.name for policy in told] == ["embedded"]
