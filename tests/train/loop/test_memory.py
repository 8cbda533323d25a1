"""What a dry run tells, against the memory that a process really takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image as PilImage
from torch import nn

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.load import load_policy
from veridical.runtime.files import read_json
from veridical.train.dpo import train_dpo
from veridical.train.loop.memory import PARTS, LiveTensors
from veridical.train.options import Training
from veridical.train.sft import train_sft

MEGABYTE = 1_000_000

TRAIN = """
import ctypes, gc, sys
from pathlib import Path
import torch
import transformers.trainer
from transformers import TrainerCallback
from veridical.models.policy import Policy
from veridical.data.records import assistant_message, user_message, write_records
from veridical.train.dpo import train_dpo
from veridical.train.options import Training
from veridical.world.model import build_model, build_processor
torch.set_num_threads(1)
out, tuning, width, layers, dry = Path(sys.argv[1]), *sys.argv[2:]
def resident(field):
    text = Path("/proc/self/status").read_text()
    return int(text.split(field + ":")[1].split()[0]) * 1024
class AtEnd(TrainerCallback):
    peak = 0
    def on_step_end(self, *_, **__):
        AtEnd.peak = resident("VmHWM")
transformers.trainer.DEFAULT_CALLBACKS.append(AtEnd)
def load():
    torch.manual_seed(0)
    processor = build_processor()
    model = build_model(processor)
    config = model.config
    config.text_config.hidden_size = int(width)
    config.text_config.intermediate_size = 3 * int(width)
    config.text_config.num_hidden_layers = int(layers)
    model = type(model)(config).eval()
    load.before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return Policy(model, processor, "random")
from PIL import Image
word = "There is a red cup at the top left. "
rows = [{"id": str(i), "images": [Image.new("RGB", (48, 48))],
         "prompt": [user_message("Describe the image.")],
         "chosen": [assistant_message(word * (16 - i % 2))],
         "rejected": [assistant_message(word * 14)]} for i in range(16)]
write_records(rows, out / "pairs.parquet", "preference")
def train(name, dry_run):
    training = Training(
        tuning=tuning, lora_rank=Training.lora_rank if tuning == "full" else 16,
        learning_rate=1e-6, max_steps=2, batch_size=4,
        accumulation=1, held_out=0.0, prove_first=False, dtype="float32", device="cpu",
        cache="none", dry_run=dry_run, save_merged=tuning == "full",
    )
    model = load() if name == "random" else name
    train_dpo(model, out / "pairs.parquet", out / name, reference="in_step", training=training)
if dry == "real":
    train("embedded", False)  # so that code, threads and caches are there when it counts
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
train("random", dry == "dry")
print("measured", AtEnd.peak - load.before)
"""


def run(out: Path, *arguments: str) -> int:
    """Train in a process of its own; returns how much its resident size grew, at most."""
    out.mkdir()
    command = [sys.executable, "-c", TRAIN, str(out), *arguments]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split("measured ")[1].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(("width", "layers"), [("320", "6"), ("384", "8")])
def test_a_dry_run_foretells_the_peak(tmp_path: Path, tuning: str, width: str, layers: str) -> None:
    measured = run(tmp_path / "real", tuning, width, layers, "real")
    run(tmp_path / "dry", tuning, width, layers, "dry")
    found = json.loads((tmp_path / "dry" / "random" / "dry_run.json").read_text())["memory_bytes"]
    parts = found["cpu"]
    foretold = parts["total"] - parts["weights"]
    print(f"{tuning} {width}x{layers}: {foretold / 1e6:.0f} MB foretold, {measured / 1e6:.0f}")
    assert foretold == pytest.approx(measured, rel=0.15)


def test_parts_are_told_apart() -> None:
    """A layer of 1,000 x 1,000 float32 weights is 4 MB; so is each of its activations."""
    layer = nn.Linear(1000, 1000, bias=False)
    live = LiveTensors(vocabulary=7)
    live.see_module(layer, "weights")
    inputs = torch.randn(1000, 1000)
    with live:
        hidden = layer(inputs)
        logits = hidden[:, :7].clone()
        assert live.live["cpu"]["activations"] == 4 * MEGABYTE
        assert live.live["cpu"]["logits"] == 1000 * 7 * 4
        loss = hidden.square().mean() + logits.sum()
        del hidden, logits
        loss.backward()
        assert layer.weight.grad is not None
        live.see(layer.weight.grad, "gradients", move=True)
    assert live.live["cpu"]["weights"] == live.live["cpu"]["gradients"] == 4 * MEGABYTE
    assert live.peak["cpu"]["activations"] >= 8 * MEGABYTE
    del loss
    assert live.live["cpu"]["activations"] < MEGABYTE


def test_views_and_the_same_storage_count_once() -> None:
    live = LiveTensors(vocabulary=7)
    with live:
        tensor = torch.zeros(1000, 250)
        views = [tensor[:10], tensor.T, tensor.view(-1)]
    assert live.live["cpu"]["activations"] == MEGABYTE
    del tensor, views
    assert live.live["cpu"]["activations"] == 0
    assert sum(live.peak["cpu"].values()) == MEGABYTE


def dry_run(
    out: Path, reference: Literal["precomputed", "in_step"] | None = "precomputed", **options: Any
) -> dict[str, int]:
    scenes = [PilImage.new("RGB", (48, 48), (60 * i, 0, 0)) for i in range(4)]
    rows = [
        {
            "id": str(i),
            "images": [scene],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message("There is a red cup at the top left. " * 8)],
            "rejected": [assistant_message("There is a blue dog. " * i)],
        }
        for i, scene in enumerate(scenes, start=1)
    ]
    out.mkdir()
    write_records(rows, out / "pairs.parquet", "preference")
    training = Training(
        learning_rate=1e-6, batch_size=2, accumulation=1, cache="none", dry_run=True, **options
    )
    data = out / "pairs.parquet"
    if reference is None:
        train_sft("embedded", data, out / "run", "preference", training)
    else:
        train_dpo("embedded", data, out / "run", reference=reference, training=training)
    found: dict[str, int] = read_json(out / "run" / "dry_run.json")["memory_bytes"][
        "cuda:0" if training.device == "cuda" else "cpu"
    ]
    assert read_json(out / "run" / "run.json")["status"] == "finished"
    assert not {"model", "adapter", "checkpoints"} & {p.name for p in (out / "run").iterdir()}
    return found


def test_a_dry_run_trains_nothing_and_counts_every_part(tmp_path: Path) -> None:
    found = dry_run(tmp_path / "full", tuning="full", reference="in_step")
    policy = load_policy("embedded")
    weights = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    trained = (policy.core.get_decoder(), policy.core.get_output_embeddings())
    size = sum(p.numel() * p.element_size() for module in trained for p in module.parameters())
    # Adam keeps two numbers for each weight that is trained, and a count.
    assert found["optimizer"] == pytest.approx(2 * size, rel=0.01)
    assert found["reference"] == pytest.approx(weights, rel=0.05)
    assert found["weights"] == pytest.approx(weights, rel=0.05)
    parts = sum(found[part] for part in PARTS)
    assert found["total"] == parts + found["overhead"]


def test_a_dry_run_of_fine_tuning_has_no_reference(tmp_path: Path) -> None:
    found = dry_run(tmp_path / "sft", None, tuning="full")
    assert found["reference"] == 0
    assert min(found[part] for part in ("weights", "optimizer", "gradients", "activations")) > 0
    proofs = read_json(tmp_path / "sft" / "run" / "dry_run.json")["proof_bytes"]
    assert found["weights"] < proofs["cpu"] < found["total"]


def test_checkpointing_shows(tmp_path: Path) -> None:
    kept = dry_run(tmp_path / "kept", lora_rank=4)
    remade = dry_run(tmp_path / "remade", lora_rank=4, trainer={"gradient_checkpointing": True})
    assert remade["activations"] < 0.7 * kept["activations"]
    assert kept["optimizer"] < kept["weights"]


@pytest.mark.gpu
def test_a_dry_run_foretells_the_peak_of_a_gpu(tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    foretold = dry_run(tmp_path / "dry", device="cuda", lora_rank=4)["total"]
    assert foretold == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
