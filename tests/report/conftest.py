"""A demo folder as the commands write it, with made-up figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from veridical.runtime.descriptions import BenchmarkDescription
from veridical.scoring.object_scores import CHAIR, POPE

KINDS = ["cup", "ball", "tree", "bench", "kite", "dog"]
IMAGES = 40


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_record(command: str, minute: int, **configuration: Any) -> dict[str, Any]:
    return {
        "command": command,
        "status": "finished",
        "started_utc": f"2030-01-02T03:{minute:02d}:00+00:00",
        "wall_time_seconds": 63.2,
        "configuration": configuration,
        "seeds": {"seed": 0},
        "inputs": {},
        "versions": {"veridical": "0.1.0", "torch": "2"},
        "git_hash": "0123abc",
        "git_dirty": False,
        "hardware": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.0, "gpus": []},
    }


def write_training(folder: Path, name: str, minute: int = 2, steps: int = 80) -> None:
    random = np.random.default_rng(5)
    rows = []
    for step in range(1, steps + 1):
        t = step / steps
        chosen, rejected = -0.4 * t + random.normal(0, 0.1), -2.5 * t + random.normal(0, 0.2)
        for split in ["train"] + (["eval"] if step % 16 == 0 else []):
            rows.append(
                {
                    "step": step,
                    "epoch": t * 2,
                    "split": split,
                    "loss": math.log1p(math.exp(rejected - chosen)),
                    "rewards_chosen": chosen,
                    "rewards_rejected": rejected,
                    "rewards_margin": chosen - rejected,
                    "rewards_accuracy": 0.5 + 0.4 * t,
                    "logps_chosen": -12 + chosen * 10,
                    "logps_rejected": -15 + rejected * 10,
                    "chosen_tokens": 41.0,
                    "rejected_tokens": 40.0,
                }
            )
    if name == "sft":
        rows = [{key: row[key] for key in ("step", "epoch", "split", "loss")} for row in rows]
    write_jsonl(folder / "log.jsonl", rows)
    proofs = [("start", 2e-7, 1e-5), ("image_matters", 4.1, 1e-4), ("placeholders", 0, 0)]
    write_json(
        folder / "proofs.json",
        [
            {
                "name": proof,
                "passed": True,
                "applicable": True,
                "value": value,
                "limit": limit,
                "unit": "nats",
                "detail": "4 rows",
            }
            for proof, value, limit in proofs
        ],
    )
    command = "train sft" if name == "sft" else "train dpo"
    record = run_record(command, minute, model="embedded", beta=0.1, learning_rate=3e-4, seed=0)
    write_json(folder / "run.json", record)


def describe(names: list[str], truth: list[str]) -> tuple[str, list[dict[str, Any]]]:
    text, mentions = "this is a park .", []
    for name in names:
        text += " there is a red "
        start = len(text)
        text += name
        mentions.append(
            {
                "start": start,
                "end": len(text),
                "text": name,
                "name": name,
                "hallucinated": name not in truth,
            }
        )
        text += " at the top left ."
    return text, mentions


def write_chair(demo: Path, arm: str, extra_every: int, minute: int) -> dict[str, Any]:
    """An evaluation in which every `extra_every`-th image gets an object that is not there."""
    folder = demo / "eval" / arm / "chair"
    answers, details = [], []
    for index in range(IMAGES):
        truth = [KINDS[index % 3], KINDS[(index + 1) % 3]]
        names = truth + (["dog"] if index % extra_every == 0 else [])
        text, mentions = describe(names, truth)
        image_id = f"scene_{index:03d}"
        answers.append(
            {
                "image_id": image_id,
                "image": f"data/eval_scenes/images/{image_id}.png",
                "prompt": "Describe the image.",
                "answer": text,
                "decoding": {"temperature": 0.0},
            }
        )
        details.append(
            {"image_id": image_id, "answer": text, "objects": truth, "mentions": mentions}
        )
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "details.jsonl", details)
    rate = 1 / extra_every
    value = rate / (2 + rate)
    scores = {
        "chair_i": score(value, 0.02),
        "chair_s": score(rate, 0.03),
        "recall": score(0.827, 0.01),
        "mean_length": score(27.0 + 9 * rate, 0.4),
    }
    write_json(folder / "scores.json", scored(CHAIR, scores))
    write_json(folder / "run.json", run_record("eval chair", minute, model=arm))
    return scores


def scored(benchmark: BenchmarkDescription, scores: dict[str, Any]) -> dict[str, Any]:
    """What `scores.json` holds."""
    return {"benchmark": benchmark.as_json(), "scores": scores, "about": {}}


def score(value: float, half: float) -> dict[str, Any]:
    low, high = value - half, value + half
    return {"value": value, "low": low, "high": high, "n": 100, "clusters": IMAGES}


def write_pairs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(9):
        sentence = "there is a red cup at the top left ."
        source = {
            "builder": "bdhs",
            "iteration": 1 + index % 3,
            "similarity": 0.71,
            "share_masked": 0.99,
            "cuts": [
                {"sentence": "this is a park .", "kept": "this is", "completion": "a park ."},
                {
                    "sentence": sentence,
                    "kept": "there is a",
                    "completion": "blue dog on the right .",
                },
            ],
        }
        picture = Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8))
        path = folder / f"{index}.png"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        image = {"bytes": path.read_bytes(), "path": None}
        path.unlink()
        rejected = "this is a park . there is a blue dog on the right ."
        rows.append(
            {
                "id": f"pair_{index}",
                "images": [image],
                "prompt": [message("user", "Describe the image.")],
                "chosen": [message("assistant", f"this is a park . {sentence}")],
                "rejected": [message("assistant", rejected)],
                "source": json.dumps(source),
            }
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    skipped = [{"id": "x", "field": "rejected", "reason": "too similar to the chosen answer"}]
    write_jsonl(folder / "skipped.jsonl", skipped)
    write_json(folder / "run.json", run_record("build bdhs", 1, model="embedded", seed=0))


def message(role: str, text: str) -> dict[str, Any]:
    blocks = [{"type": "image", "text": None}] if role == "user" else []
    return {"role": role, "content": [*blocks, {"type": "text", "text": text}]}


def write_demo(demo: Path, change: tuple[float, float, float] = (-0.06, -0.08, -0.04)) -> Path:
    """A whole demo; `change` is the value and interval of BDHS's difference in chair_i."""
    images = demo / "data" / "eval_scenes" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(IMAGES):
        pixels = np.full((48, 48, 3), 200, dtype=np.uint8)
        pixels[8:24, 8:24] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(images / f"scene_{index:03d}.png")
    write_pairs(demo / "pairs")
    write_training(demo / "train" / "bdhs", "bdhs", 2)
    write_training(demo / "train" / "sft", "sft", 3)
    arms = []
    for minute, (arm, every) in enumerate([("base", 2), ("sft", 3), ("bdhs", 5)], start=10):
        metrics = write_chair(demo, arm, every, minute)
        pope = {"accuracy": score(0.81, 0.02), "random/accuracy": score(0.9, 0.02)}
        write_json(demo / "eval" / arm / "pope" / "scores.json", scored(POPE, pope))
        arms.append({"name": arm, "scores": {"chair": metrics, "pope": pope}})
    differences = [
        difference("chair_i", "bdhs", *change),
        difference("chair_i", "sft", -0.003, -0.01, 0.004),
        difference("chair_i", "bdhs", -0.052, -0.07, -0.03, baseline="sft"),
        difference("recall", "bdhs", 0.004, -0.006, 0.014),
        difference("mean_length", "bdhs", -0.4, -0.8, 0.1),
        difference("accuracy", "bdhs", 0.001, -0.01, 0.012, benchmark="pope"),
    ]
    benchmarks = [CHAIR.as_json(), replace(POPE, place=1).as_json()]
    summary = {"benchmarks": benchmarks, "arms": arms, "differences": differences}
    write_json(demo / "summary.json", summary)
    write_json(demo / "run.json", run_record("demo", 0, out="runs/demo", seed=0))
    return demo


def difference(
    metric: str, arm: str, value: float, low: float, high: float, baseline: str = "base",
    benchmark: str = "chair",
) -> dict[str, Any]:  # fmt: skip
    return {
        "benchmark": benchmark,
        "metric": metric,
        "arm": arm,
        "baseline": baseline,
        "value": value,
        "low": low,
        "high": high,
        "p": 0.0002 if low * high > 0 else 0.4,
        "seed": 0,
    }


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return write_demo(tmp_path / "demo")
