"""What a process of `test_processes.py` runs: `python runs_of_processes.py CASES.json`.

Cases are a list of {"command": "dpo", "options": {...}}. Where `accelerate launch` asks for FSDP,
the model is sharded on the CPU, which Accelerate does on GPUs only; VERIDICAL_TEST_FAILS names a
process that has to fail, and with VERIDICAL_TEST_REFUSES the processor refuses pictures whose first
pixel is black.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import CLIPImageProcessorPil
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from veridical import cli
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.train.loop import trainer as loop


def exact_norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Llama's norm without its detour over float32, which hides what these tests look for."""
    mean = hidden.square().mean(-1, keepdim=True)
    normal: torch.Tensor = self.weight * hidden * torch.rsqrt(mean + self.variance_epsilon)
    return normal


def shard_on_the_cpu() -> None:
    """Let Accelerate take gloo for a GPU's backend; all else is as the configuration says."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    gloo = ("gloo", DistributedType.MULTI_XPU)
    PartialState._prepare_backend = lambda *_, **__: gloo


def words(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def fail_in_the_middle() -> None:
    """Let this process alone meet an error at its second step."""
    honest = loop.GroupTrainer.compute_loss
    calls: list[None] = []

    def compute_loss(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise UserError("this process met an error")
        return honest(self, *arguments, **options)

    loop.GroupTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


def refuse_marked_pictures() -> None:
    """Let the processor raise on what a picture shows."""
    stock = CLIPImageProcessorPil.preprocess

    def preprocess(self: Any, images: Any, *rest: Any, **named: Any) -> Any:
        rows = images if isinstance(images[0], list) else [images]
        if any(image.getpixel((0, 0)) == (0, 0, 0) for row in rows for image in row):
            raise ValueError("not this one")
        return stock(self, images, *rest, **named)

    CLIPImageProcessorPil.preprocess = preprocess


def main() -> int:
    """Run every case; the first that fails ends it."""
    torch.set_num_threads(1)
    LlamaRMSNorm.forward = exact_norm
    processes.leave = lambda: None  # the next case meets the same processes
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_cpu()
    if os.environ.get("VERIDICAL_TEST_FAILS") == os.environ["RANK"]:
        fail_in_the_middle()
    if os.environ.get("VERIDICAL_TEST_REFUSES"):
        refuse_marked_pictures()
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        status = cli.main(["train", case["command"], *words(case["options"])])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
