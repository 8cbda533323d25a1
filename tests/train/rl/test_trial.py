"""The trial of PPO and RLOO: the longest responses, the optimizer's state, and no trace of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.prompts import Prompt
from veridical.data.records import user_message, write_records
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.prompts import proof_group
from veridical.train.responses import Sampling
from veridical.train.rl import loop, trial
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=1e-2, max_steps=1, batch_size=2, accumulation=1, held_out=0.0, evaluations=1,
    lora_rank=4, lora_alpha=8, prove_first=False,
)  # fmt: skip
LONG = ["row-1", "row-4"]


@pytest.fixture
def prompts(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Two are long, and have fewer characters than the others (each `xqzj...` is one token)."""
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("What" + " ?" * 40 if f"row-{i}" in LONG else "xqzj" * 60)],
        }
        for i in range(6)
    ]
    write_records(rows, tmp_path / "prompts.parquet", "prompt")
    return tmp_path / "prompts.parquet"


def train(name: str, model: str, data: Path, out: Path) -> None:
    common: dict[str, Any] = {
        "judging": Judging(judge="none"), "symbolic": Symbolic(length_penalty=5.0),
        "sampling": Sampling(max_new_tokens=7), "training": TRAINING,
    }  # fmt: skip
    if name == "ppo":
        train_ppo(model, data, out, **common)
    else:
        train_rloo(model, data, out, standardize=False, **common)


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_the_longest_responses_are_tried_and_leave_no_trace(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tried: list[tuple[list[str], set[int], bool, bool]] = []
    honest, actors, learners = trial._forward_and_backward, [], []

    def started(setting: Any, groups: Any, learner: Any) -> None:
        actors.append(setting.actors)
        learners.append(learner)
        trial.try_a_step(setting, groups, learner)
        assert not learner.optimizer.state
        assert all(p.grad is None for p in actors[-1].trained().parameters())

    def watched(setting: Any, groups: Any) -> None:
        parameters = [p for p in actors[-1].trained().parameters() if p.requires_grad]
        tried.append(
            (
                sorted(group.id for group in groups),
                {len(ids) for group in groups for ids in group.response_ids},
                bool(learners[-1].optimizer.state),
                all(p.grad is not None for p in parameters),
            )
        )
        assert {len(group.response_ids) for group in groups} == {setting.k}
        honest(setting, groups)

    monkeypatch.setattr(loop, "try_a_step", started)
    monkeypatch.setattr(trial, "_forward_and_backward", watched)
    train(name, saved, prompts, tmp_path / "with")
    monkeypatch.setattr(loop, "try_a_step", lambda *_: None)
    train(name, saved, prompts, tmp_path / "without")
    assert tried == [
        (LONG, {6, 7}, False, False), (LONG, {6, 7}, True, False), (LONG, {6, 7}, True, True)
    ]  # fmt: skip
    one, other = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("with", "without")
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_too_little_memory_is_said_before_anything_is_sampled(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def sampled(*_: Any) -> None:
        raise AssertionError("sampled before it was tried")

    monkeypatch.setattr(trial, "make_state", full)
    monkeypatch.setattr(loop, "gather_experience", sampled)
    with pytest.raises(UserError, match=r"cpu has not enough memory .* --max-new-tokens"):
        train("rloo", saved, prompts, tmp_path / "out")


def test_proofs_read_no_more_of_an_answer_than_is_sampled(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    asked = Prompt("row", (pictures[0],), [user_message("What is there?")])
    group = proof_group(policy, asked, ("a cup " * 50, "No."), 7)
    assert [len(ids) for ids in group.response_ids] == [7, len(group.response_ids[1])]
    assert group.cut == (True, False)
