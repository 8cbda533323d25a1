"""DPO steps at the shapes of 7B models: ours beside TRL's, and what `--dry-run` says of memory.

Adapters of rank 128 on every linear layer of the language model, frozen bfloat16 weights, both
sides on one model in memory. The first step of each configuration does not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import flops
import torch
from measuring import (
    Figures,
    Settings,
    free_memory,
    installed,
    peak_bytes,
    run_part,
    start_peak,
    synchronize,
)
from shapes import Shape, build, image_tokens_of, missing, random_rows, shapes_of
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from veridical.checks.prefix_sharing import sharing
from veridical.checks.proving import prove
from veridical.models.batching import collate
from veridical.models.lengths import check_lengths
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_group
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.dpo import DPO
from veridical.objectives.preference import Preference
from veridical.train.loop.items import Items
from veridical.train.loop.memory import measure_memory
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.task import Task
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training

BETA, LEARNING_RATE = 0.1, 1e-5
STEPS = 3
ASSUMED_UTILISATION = 0.25
"""Of the matrix rate, when the time of a configuration is foretold (our guess)."""
SETUP = {"veridical": 1.0, "trl": 4.0}
"""Seconds before the first step; TRL makes its adapters anew each time (our guess)."""


@dataclass(frozen=True)
class Load:
    """What a step does.

    Attributes:
        batch: pairs.
        checkpointing: whether activations are computed again for the backward pass.
        in_step: whether the reference runs in the step; TRL can't precompute it for images.
    """

    batch: int
    checkpointing: bool
    in_step: bool


@dataclass(frozen=True)
class Block:
    """Configurations that share one model in memory."""

    side: str
    shape: Shape
    image_tokens: int
    rank: int
    prompt_tokens: int
    response_tokens: int


def measure_dpo(settings: Settings, figures: Figures) -> None:
    """All blocks, each with an equal part of what time is left."""
    blocks = blocks_of(settings)
    if not installed("trl"):
        figures.note("TRL's side is left out: trl is not installed")
        blocks = [block for block in blocks if block.side != "trl"]
    for shape in {block.shape.name: block.shape for block in blocks}.values():
        reason = missing(shape)
        if reason:
            figures.note(reason)
            blocks = [block for block in blocks if block.shape is not shape]
    for number, block in enumerate(blocks):
        end = time.monotonic() + figures.left() / (len(blocks) - number)
        label = {"side": block.side, "shape": block.shape.name, "image_tokens": block.image_tokens}
        measure = measure_trl if block.side == "trl" else measure_ours

        def whole(measure: Any = measure, block: Block = block, end: float = end) -> dict[str, Any]:
            measure(settings, figures, block, end)
            return {"measured": True}

        try:
            whole()
        except Exception as error:
            failure = error
            figures.attempt({**label, "what": "block"}, 0.0, partial(_raise, failure))
        free_memory()


def blocks_of(settings: Settings) -> list[Block]:
    """Both sides in turn, the common image size before the large one."""
    sizes = (4, 10, 6) if settings.tiny else (128, 60, 119)
    return [
        Block(side, shape, tokens, *sizes)
        for tokens in image_tokens_of(settings)
        for shape in shapes_of(settings)
        for side in ("veridical", "trl")
    ]


def loads_of(block: Block, tiny: bool) -> list[Load]:
    """In the order of their worth; what does not fit into the time is left out."""
    if tiny:
        plain = [(2, True), (2, False)]
    elif block.image_tokens < 1000:
        plain = [(8, True), (2, False), (2, True), (16, True), (4, False), (8, False), (4, True),
                 (16, False)]  # fmt: skip
    else:
        plain = [(2, True), (8, True), (2, False), (4, True), (4, False), (16, True), (8, False)]
    if block.side == "trl":
        return [Load(*one, True) for one in plain]
    loads = [Load(*one, False) for one in plain]
    loads.insert(1, Load(*plain[0], True))
    loads.insert(3, Load(*plain[1], True))
    return loads


def needed_seconds(settings: Settings, block: Block, load: Load, each: float | None) -> float:
    """About how long a configuration takes.

    Args:
        settings: with the measured matrix rate.
        block: its model.
        load: its step.
        each: seconds for each operation, as found in this block; None before that.
    """
    if settings.tiny:
        return 0.5
    each = each or 1 / (ASSUMED_UTILISATION * (settings.rate or 4e14))
    return STEPS * load.batch * work_of(block, load) * each + SETUP[block.side]


def work_of(block: Block, load: Load) -> float:
    """Operations that a pair takes, those that checkpointing repeats included."""
    rows = layout(block)
    done = operations(block, load)
    if load.checkpointing:
        weights = flops.language_weights(block.shape) + flops.adapter_weights(
            block.shape, block.rank
        )
        done += flops.language_forward(block.shape, rows, weights)
    return done


def layout(block: Block) -> list[flops.Row]:
    """The rows that a pair becomes on this side."""
    prompt = block.image_tokens + block.prompt_tokens
    rows = flops.two_rows if block.side == "trl" else flops.shared_row
    return rows(prompt, block.response_tokens + 1)


def operations(block: Block, load: Load) -> int:
    """What a pair has to take in this layout."""
    rows = layout(block)
    return flops.dpo_step(block.shape, rows, block.image_tokens, block.rank, int(load.in_step))


def measure_ours(settings: Settings, figures: Figures, block: Block, end: float) -> None:
    """Veridical's side: what a run proves of itself, the steps, and the dry run's estimate."""
    start = build(block.shape, block.image_tokens, settings.device, settings.dtype)
    groups = groups_of(start, block, rows_needed(settings))
    label = label_of(block)
    shares = sharing(start, groups)
    prove_on_card(settings, figures, start, groups, label, shares.allowed)
    reference = compute_logps(start, groups, shares.allowed, 4)
    policy = prepare_training(start, Tuning(rank=block.rank, alpha=2 * block.rank))

    def run(load: Load, folder: Path) -> Watch:
        task, training, items = _task(settings, block, load, policy, groups, reference, shares)
        arguments = trainer_arguments(training, folder, len(items), False, settings.device == "cpu")
        arguments.save_strategy = SaveStrategy.NO
        watch = Watch(settings.device)
        trainer = GroupTrainer(policy, task, arguments, items, None, [watch], None)
        try:
            trainer.train()
        finally:
            _reset(policy)
        return watch

    measured = _measure_loads(settings, figures, block, end, run)
    for load, row in measured:
        if load.in_step or load.batch > 2:
            continue

        def foretold(load: Load = load, row: dict[str, Any] = row) -> dict[str, Any]:
            task, training, items = _task(settings, block, load, policy, groups, reference, shares)
            try:
                found = measure_memory(policy, task, training, items, None)
            finally:
                _reset(policy)
            total = max(parts["total"] for parts in found.values())
            return {"foretold_bytes": total, "peak_bytes": row["peak_bytes"]}

        needs = 4 * needed_seconds(settings, block, load, None)
        if settings.tiny or time.monotonic() + needs < end + 10:
            named = {**label, "what": "dry run", "batch": load.batch}
            figures.attempt({**named, "checkpointing": load.checkpointing}, needs, foretold)


def prove_on_card(
    settings: Settings, figures: Figures, start: Policy, groups: list[Group],
    label: dict[str, Any], shared: bool,
) -> None:  # fmt: skip
    """What a run would find out first, at this size."""

    def proofs() -> dict[str, Any]:
        found = prove(start, groups[:2], lambda one, rows: collate(one, rows, shared))
        return {
            "prefix_sharing": shared,
            **{
                proof.name: f"{'holds' if proof.passed else 'FAILS'} "
                f"{proof.value:.3g} / {proof.limit:.3g}"
                for proof in found
            },
        }

    figures.attempt({**label, "what": "proofs"}, 0.1 if settings.tiny else 3.0, proofs)


def measure_trl(settings: Settings, figures: Figures, block: Block, end: float) -> None:
    """TRL's DPOTrainer with its own defaults: mixed precision, the reference in the step."""
    from peft import LoraConfig
    from sides import begin_with_bos
    from trl import DPOConfig, DPOTrainer

    from veridical.data.records import read_records, write_records

    start = build(block.shape, block.image_tokens, settings.device, settings.dtype)
    begin_with_bos(start.processor)
    inside = {id(module) for module in start.model.get_decoder().modules()}
    names = [
        name
        for name, module in start.model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) in inside
    ]
    adapters = LoraConfig(r=block.rank, lora_alpha=2 * block.rank, target_modules=names)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "pairs.parquet"
        write_records(rows_of(block, rows_needed(settings)), data, "preference")
        rows = read_records(data, "preference").rows
        columns = rows.select_columns(["images", "prompt", "chosen", "rejected"])

        def run(load: Load, folder: Path) -> Watch:
            watch = Watch(settings.device)
            arguments = DPOConfig(
                output_dir=str(folder),
                beta=BETA,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_steps=STEPS,
                per_device_train_batch_size=load.batch,
                max_length=None,
                gradient_checkpointing=load.checkpointing,
                use_cpu=settings.device == "cpu",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                weight_decay=0.0,
                seed=0,
            )
            trainer = DPOTrainer(
                model=start.model, args=arguments, train_dataset=columns,
                processing_class=start.processor, peft_config=adapters, callbacks=[watch],
            )  # fmt: skip
            try:
                trainer.train()
            finally:
                trainer.model.base_model.unload()
                start.model.gradient_checkpointing_disable()
                start.model.requires_grad_(False)
            return watch

        _measure_loads(settings, figures, block, end, run)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Takes the time and the memory of steps."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.peak = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first step starts here."""
        synchronize()
        start_peak(self.device)
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step, from its data to its update."""
        synchronize()
        self.ends.append(time.perf_counter())
        self.peak = peak_bytes(self.device)

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """The loss of each step; of the first it is ln 2 where all is well."""
        if logs and "loss" in logs:
            self.losses.append(float(logs.get("mean_loss", logs["loss"])))

    def seconds(self) -> float:
        """Of a step, without the first."""
        return statistics.median(b - a for a, b in list(pairwise(self.ends))[1:])


def groups_of(policy: Policy, block: Block, count: int) -> list[Group]:
    """Pairs, rendered and tokenized, with the lengths that the dry run orders them by."""
    groups = [
        render_group(
            policy, row["id"], row["images"], row["prompt"], [row["chosen"], row["rejected"]]
        )
        for row in rows_of(block, count)
    ]
    return check_lengths(policy, groups, None).fit


def rows_needed(settings: Settings) -> int:
    """Enough for all steps of the largest batch in one epoch, as in runs of thousands of rows."""
    return 4 if settings.tiny else STEPS * 16


def rows_of(block: Block, count: int) -> list[dict[str, Any]]:
    """The same pairs for both sides."""
    return random_rows(
        block.shape, block.image_tokens, count, block.prompt_tokens, block.response_tokens
    )


def label_of(block: Block) -> dict[str, Any]:
    """What all rows of a block have."""
    return {"side": block.side, "shape": block.shape.name, "image_tokens": block.image_tokens}


def _measure_loads(
    settings: Settings,
    figures: Figures,
    block: Block,
    end: float,
    run: Callable[[Load, Path], Watch],
) -> list[tuple[Load, dict[str, Any]]]:
    measured = []
    each: float | None = None
    for load in loads_of(block, settings.tiny):
        label = {
            **label_of(block), "what": "steps", "batch": load.batch,
            "checkpointing": load.checkpointing,
            "reference": "in step" if load.in_step else "precomputed",
        }  # fmt: skip

        def steps(load: Load = load) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                watch = run(load, Path(folder))
            seconds = watch.seconds()
            done = operations(block, load) * load.batch / seconds
            return {
                "seconds_a_step": seconds,
                "pairs_per_second": load.batch / seconds,
                "peak_bytes": watch.peak,
                "model_flops_per_second": done,
                "utilization": done / settings.rate if settings.rate else None,
                "first_loss": watch.losses[0] if watch.losses else None,
            }

        needs = needed_seconds(settings, block, load, each)
        here = end - time.monotonic()
        if needs > here and not settings.tiny:
            figures.skip(label, needs, here)
            continue
        row = figures.attempt(label, needs, steps)
        if row is not None:
            measured.append((load, row))
            each = row["seconds_a_step"] / (load.batch * work_of(block, load))
    return measured


def _task(
    settings: Settings, block: Block, load: Load, policy: Policy, groups: list[Group],
    reference: torch.Tensor, shares: Any,
) -> tuple[Task, Training, Items]:  # fmt: skip
    training = Training(
        learning_rate=LEARNING_RATE,
        max_steps=STEPS,
        batch_size=load.batch,
        accumulation=1,
        held_out=0.0,
        evaluations=1,
        lora_rank=block.rank,
        lora_alpha=2 * block.rank,
        cache="none",
        dtype="bfloat16",
        device=settings.device,
        trainer={
            "gradient_checkpointing": load.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "logging_steps": 1,
        },
    )
    loss = preference_outcome(Preference(DPO(BETA)))
    task = Task(Scorer(policy), loss, len, shares.allowed, load.in_step)
    return task, training, Items(groups, reference)


def _reset(policy: Policy) -> None:
    """Let the next configuration start from the same model."""
    policy.core.gradient_checkpointing_disable()
    policy.model.zero_grad(set_to_none=True)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)


def _raise(error: BaseException) -> dict[str, Any]:
    raise error


if __name__ == "__main__":
    run_part(measure_dpo)
