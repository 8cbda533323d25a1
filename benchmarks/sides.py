"""One side of the comparison, in a process of its own.

    python benchmarks/sides.py SETTINGS.json

Trains for a few steps, by `veridical train dpo` or by TRL's DPOTrainer, and writes what it
measured as `result.json` beside the settings. The same stopwatch sits in both trainers.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers.trainer
from cases import LEARNING_RATE
from transformers import TrainerCallback

BETA = 0.1
LORA_RANK, LORA_ALPHA = 16, 32
FEW_STEPS = 10
"""As many and more are logged by tens, fewer one by one."""


@dataclass(frozen=True)
class Settings:
    """What is to be run.

    Attributes:
        side: `veridical` or `trl`.
        model: a folder, or `embedded`.
        data: the pairs.
        tuning: `full` or `lora`.
        reference: `precomputed` or `in_step`.
        steps: optimizer steps of `batch` pairs, the first of which is warm-up.
        batch: pairs.
        threads: of PyTorch.
        without: a technique that is switched off, see `switches.py`.
    """

    side: str
    model: str
    data: str
    tuning: str
    reference: str
    steps: int
    batch: int = 2
    threads: int = 2
    without: str = ""


def resident(field: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Takes the time and the memory at the end of every step, and what is logged."""

    def __init__(self) -> None:
        self.loaded = 0
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.peak = 0
        self.logs: list[dict[str, float]] = []

    def start(self, model: torch.nn.Module) -> None:
        """The model is loaded: touch its weights, and let the high-water mark start from here."""
        for tensor in model.state_dict().values():
            tensor.double().sum()
        self.loaded = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def _look(self) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first step starts here."""
        self._look()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step, from its data to its update."""
        self._look()
        self.peak = resident("VmHWM")

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Losses and log-probs, by Veridical's names."""
        found = logs or {}
        if "loss" in found:
            self.logs.append(
                {
                    "loss": found.get("mean_loss", found["loss"]),
                    "logps_chosen": found.get("logps_chosen", found.get("logps/chosen", 0.0)),
                    "logps_rejected": found.get("logps_rejected", found.get("logps/rejected", 0.0)),
                }
            )

    def result(self) -> dict[str, Any]:
        """What `result.json` holds; times in seconds, memory in bytes above the loaded model."""
        return {
            "seconds": [b - a for a, b in pairwise(self.ends)],
            "cpu_seconds": [b - a for a, b in pairwise(self.cpu)],
            "peak_bytes": self.peak - self.loaded,
            "loaded_bytes": self.loaded,
            "logs": self.logs,
        }


def logging_steps(settings: Settings) -> int:
    """The same on both sides."""
    return FEW_STEPS if settings.steps >= FEW_STEPS else 1


def train_with_veridical(settings: Settings, folder: Path, watch: Stopwatch) -> None:
    """`veridical train dpo`, as anybody runs it."""
    from switches import patch, switch_off

    from veridical.models import logprobs
    from veridical.objectives.averaged import AveragedPreference
    from veridical.objectives.dpo import DPO
    from veridical.train import dpo
    from veridical.train.loop import scorer, start
    from veridical.train.options import Training

    def load_and_start(*arguments: Any, **named: Any) -> Any:
        policy = load(*arguments, **named)
        watch.start(policy.model)
        return policy

    load = patch(start, "load_policy", load_and_start)
    switch_off(settings.without)
    patch(scorer, "response_logps", logprobs.response_logps)
    full = settings.tuning == "full"
    dpo.train_dpo(
        settings.model,
        Path(settings.data),
        folder / "run",
        AveragedPreference(DPO(BETA)),
        reference="in_step" if settings.reference == "in_step" else "precomputed",
        training=Training(
            tuning="full" if full else "lora",
            lora_rank=Training.lora_rank if full else LORA_RANK,
            lora_alpha=Training.lora_alpha if full else LORA_ALPHA,
            learning_rate=LEARNING_RATE,
            max_steps=settings.steps,
            batch_size=settings.batch,
            accumulation=1,
            held_out=0.0,
            evaluations=1,
            share_prefix=settings.without != "prefix sharing",
            save_merged=False,
            cache="none",
            dtype="float32",
            device="cpu",
            trainer={
                "logging_steps": logging_steps(settings),
                "logging_first_step": True,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
            },
        ),
    )


def train_with_trl(settings: Settings, folder: Path, watch: Stopwatch) -> None:
    """TRL's DPOTrainer; its weights, optimizer, order of pairs and logging are Veridical's."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from veridical.data.records import read_records
    from veridical.models.load import load_policy

    policy = load_policy(settings.model, "float32", "cpu")
    model = policy.model
    model.requires_grad_(False)
    adapters = None
    if settings.tuning == "full":
        model.get_decoder().requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
    else:
        inside = {id(module) for module in model.get_decoder().modules()}
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and id(module) in inside
        ]
        adapters = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=names)
    begin_with_bos(policy.processor)
    watch.start(model)
    rows = read_records(Path(settings.data), "preference").rows
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(folder / "run"),
            beta=BETA,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=logging_steps(settings),
            logging_first_step=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            weight_decay=0.0,
            seed=0,
        ),
        train_dataset=rows.select_columns(["images", "prompt", "chosen", "rejected"]),
        processing_class=policy.processor,
        peft_config=adapters,
    )
    trainer.train()


def begin_with_bos(processor: Any) -> None:
    """TRL adds no special tokens beside the template's: write what the tokenizer would add."""
    tokenizer = processor.tokenizer
    if tokenizer("")["input_ids"] != [tokenizer.bos_token_id]:
        return
    stock = tokenizer("USER:")["input_ids"]
    for start in (tokenizer.bos_token, tokenizer.bos_token + " "):
        if tokenizer(start + "USER:", add_special_tokens=False)["input_ids"] == stock:
            processor.chat_template = f"{{{{ '{start}' }}}}" + processor.chat_template
            return
    raise ValueError("no text gives the tokens that the stock processor gives")


def main(path: Path) -> None:
    """Run what the settings say."""
    settings = Settings(**json.loads(path.read_text(encoding="utf-8")))
    torch.set_num_threads(settings.threads)
    watch = Stopwatch()
    transformers.trainer.DEFAULT_CALLBACKS.append(watch)
    train = train_with_trl if settings.side == "trl" else train_with_veridical
    began = time.perf_counter()
    train(settings, path.parent, watch)
    result = watch.result() | {"seconds_before_first_step": watch.ends[0] - began}
    (path.parent / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
