"""DPO, SFT and PPO from file to folder on a device, with the losses that they have on the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from veridical.data.records import write_records
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.runtime.files import read_json, read_jsonl
from veridical.runtime.options import DtypeName
from veridical.train.dpo import train_dpo
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.sft import train_sft
from veridical.world.dataset import conversation
from veridical.world.drawing import draw_scene
from veridical.world.scenes import sample_scenes

STEPS = 3
CLOSE = {"float32": 1e-4, "bfloat16": 0.05}
"""How far a loss may be from the CPU's in float32, relative to it. After the first step Adam has
followed gradients' signs, so the losses are those of nearly equal weights."""


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene's true description, and that of another scene."""
    scenes = sample_scenes("prior", 9, 0)
    rows = [conversation(scene) for scene in scenes]
    records = [
        {
            "id": scene.id,
            "images": [draw_scene(scene)],
            "prompt": row["messages"][:1],
            "chosen": row["messages"][1:],
            "rejected": other["messages"][1:],
        }
        for scene, row, other in zip(scenes, rows, rows[1:], strict=False)
    ]
    path = tmp_path_factory.mktemp("gpu") / "pairs.parquet"
    write_records(records, path, "preference")
    return path


def options(device: str, dtype: str) -> Training:
    named: DtypeName = "bfloat16" if dtype == "bfloat16" else "float32"
    return Training(
        learning_rate=1e-4, max_steps=STEPS, batch_size=4, accumulation=1, held_out=0.0,
        evaluations=1, lora_rank=4, lora_alpha=8, cache="none", dtype=named, device=device,
        trainer={"logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0},
    )  # fmt: skip


def train(name: str, data: Path, out: Path, training: Training) -> list[dict[str, Any]]:
    if name == "dpo":
        train_dpo("embedded", data, out, training=training)
    elif name == "sft":
        train_sft("embedded", data, out, kind="preference", training=training)
    else:
        train_ppo(
            "embedded", data, out, kind="preference", judging=Judging(judge="none"),
            symbolic=Symbolic(length_penalty=5.0), sampling=Sampling(max_new_tokens=8),
            training=without_logging_steps(training),
        )  # fmt: skip
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    return [row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]


def without_logging_steps(training: Training) -> Training:
    """PPO logs every step and refuses to be told otherwise."""
    left = {key: value for key, value in (training.trainer or {}).items() if key != "logging_steps"}
    return dataclasses.replace(training, trainer=left)


@pytest.mark.parametrize("name", ["dpo", "sft", "ppo"])
def test_a_command_trains_as_on_the_cpu(
    name: str, device: str, dtype: str, pairs: Path, tmp_path: Path
) -> None:
    found = train(name, pairs, tmp_path / "here", options(device, dtype))
    wanted = train(name, pairs, tmp_path / "cpu", options("cpu", "float32"))
    assert [row["step"] for row in found] == [row["step"] for row in wanted] == [1, 2, 3]
    if name == "ppo" and dtype == "bfloat16":
        return  # other rounding samples other responses
    for row, other in zip(found, wanted, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=CLOSE[dtype], abs=CLOSE[dtype] / 10)
