"""How much memory training takes, found by taking two steps and watching every tensor.

No formula knows what an architecture keeps for its backward pass, so the real loop is run on the
longest rows: two steps, since the optimizer's state comes with the first and is there beside the
activations in the second. Every tensor that is made is seen when it is made and when it goes.
What a kernel takes for itself while it runs is not seen; `OVERHEAD` stands for it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from veridical.checks.proving import prove
from veridical.models.batching import collate
from veridical.models.measures import MeasureOf, logps_measure
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.full_memory import memory_errors_alike
from veridical.runtime.runs import Run
from veridical.train.loop.items import Items
from veridical.train.loop.reference import Reference
from veridical.train.loop.task import Task
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.loop.training_set import TrainingSet
from veridical.train.loop.trial import longest_rows, no_room, uneven
from veridical.train.options import Training

STEPS = 2
ENTRY_BYTES = 4096
"""What a pair's reference log-probs take on a disk: a block."""
OVERHEAD = 0.1
"""What kernels take while they run and allocators lose, beside the tensors of a step (our choice:
processes on a CPU grew by 9 to 20 % more than their tensors; tests/train/test_memory.py)."""
PARTS = ("weights", "reference", "optimizer", "gradients", "activations", "logits")


@dataclass
class _Entry:
    device: str
    part: str
    size: int


class LiveTensors(TorchDispatchMode):
    """Counts the bytes that are alive on each device, by what they are for.

    Attributes:
        live: {device: {part: bytes}} now.
        peak: the same, when the device held most.
    """

    def __init__(self, vocabulary: int) -> None:
        """Take tensors whose last dimension is the vocabulary for logits."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary = vocabulary
        self.making = "activations"
        self.live: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(PARTS, 0))
        self.peak: dict[str, dict[str, int]] = {}
        self._entries: Any = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                logits = tensor.dim() > 0 and tensor.shape[-1] == self.vocabulary
                self.see(tensor, "logits" if logits else self.making)
        return result

    def see(self, tensor: Tensor, part: str, move: bool = False) -> None:
        """Count a tensor's storage, once; with `move`, count it for another part than before."""
        storage = tensor.untyped_storage()
        entry = self._entries.get(storage)
        if entry is None:
            entry = _Entry(str(tensor.device), part, storage.nbytes())
            self._entries[storage] = entry
            self._count(entry, entry.size)
            weakref.finalize(storage, self._count, entry, -entry.size).atexit = False
        elif move and entry.part != part:
            self.live[entry.device][entry.part] -= entry.size
            entry.part = part
            self.live[entry.device][part] += entry.size

    def _count(self, entry: _Entry, size: int) -> None:
        live = self.live[entry.device]
        live[entry.part] += size
        peak = self.peak.get(entry.device)
        if peak is None or sum(live.values()) > sum(peak.values()):
            self.peak[entry.device] = dict(live)

    def see_module(self, module: nn.Module, part: str) -> None:
        """Count a module's weights."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.see(tensor, part)


def finish_dry_run(
    run: Run,
    policy: Policy,
    task: Task,
    training: Training,
    rows: TrainingSet,
    reference: Reference | None = None,
    measure: MeasureOf = logps_measure,
) -> None:
    """Measure what a step takes, and the proofs before the first one, say so, and end the run.

    Args:
        run: as started; its folder gets `dry_run.json`.
        policy: as it will be trained.
        task: what will be optimized.
        training: the run's options.
        rows: what would be trained on.
        reference: what the policy is compared with, if anything.
        measure: what the proofs look at.
    """
    second = reference.policy if reference is not None else None
    proofs = None
    if training.prove_first:
        proofs = measure_proofs(policy, rows.few, task.share_prefix, second, measure)
    found = measure_memory(policy, task, training, rows.train, second)
    stored = len(rows.groups) if reference is not None and reference.source == "stored" else 0
    tell_memory(found, stored * ENTRY_BYTES, run.folder, proofs)
    run.finish(dry_run=found)


def measure_proofs(
    policy: Policy,
    few: Sequence[Group],
    share_prefix: bool,
    reference: Policy | None,
    measure: MeasureOf,
) -> dict[str, int]:
    """Make the proofs and tell what they took at the peak: {device: bytes}, overhead included.

    They read other rows than a step, a few together and without sharing a prefix, and in half
    precision beside a float32 copy of the model: either may take more.

    Args:
        policy: as it will be trained.
        few: the rows of the proofs.
        share_prefix: the layout.
        reference: a second model that is in memory, if there is one.
        measure: what the proofs look at.
    """
    live = LiveTensors(policy.core.config.get_text_config().vocab_size)
    live.see_module(policy.model, "weights")
    if reference is not None:
        live.see_module(reference.model, "reference")
    with live:
        prove(policy, few, lambda some, own: collate(some, own, share_prefix), measure)
    return {device: _with_total(parts)["total"] for device, parts in live.peak.items()}


def measure_memory(
    policy: Policy,
    task: Task,
    training: Training,
    train: Items,
    reference: Policy | None,
) -> dict[str, dict[str, int]]:
    """Take two steps on the longest rows and tell what they took; the weights change.

    Args:
        policy: as it will be trained.
        task: what will be optimized.
        training: batch size, accumulation, and Transformers' options.
        train: the rows.
        reference: a second model that stays in memory beside it, if there is one.

    Returns:
        {device: {part: bytes at the peak}}, with `overhead` and their `total`.

    Raises:
        UserError: the device has not enough memory.
    """
    live = LiveTensors(policy.core.config.get_text_config().vocab_size)
    live.see_module(policy.model, "weights")
    if reference is not None:
        live.see_module(reference.model, "reference")
    batch = longest_rows(
        policy, train.groups, task.share_prefix, training.batch_size, train.left_out
    )
    if not batch:
        raise UserError(
            f"The processor of {policy.name} refuses the longest rows, so what a step takes can't "
            "be measured. Leave them out of the data."
        )
    chosen = batch * training.accumulation * STEPS
    groups = uneven([train.groups[i] for i in batch]) * (training.accumulation * STEPS)
    rows = Items(groups, train.reference_logps[chosen], train.left_out, train.stand_in)
    with tempfile.TemporaryDirectory() as scratch:
        # A schedule takes no memory, and some follow held-out rows that are not read here.
        rest = (training.trainer or {}).items()
        trainer_options = {k: v for k, v in rest if not k.startswith("lr_scheduler")}
        two_steps = dataclasses.replace(
            training, max_steps=STEPS, trainer=trainer_options, check_images=None
        )
        on_cpu = policy.device.type == "cpu"
        arguments = trainer_arguments(two_steps, Path(scratch), len(train), False, on_cpu)
        arguments.save_strategy = SaveStrategy.NO
        rate = training.projector_learning_rate
        trainer = GroupTrainer(policy, task, arguments, rows, None, [_Watch(live)], rate)
        try:
            with memory_errors_alike(), live:
                trainer.train()
        except torch.OutOfMemoryError as error:
            used = ", ".join(f"{_total(p) / 1e9:.2f} GB on {d}" for d, p in live.peak.items())
            raise no_room(policy, train.shorter, f": it failed with {used} in use") from error
    return {device: _with_total(parts) for device, parts in live.peak.items()}


class _Watch(TrainerCallback):
    """Tells gradients and the optimizer's state from activations."""

    def __init__(self, live: LiveTensors) -> None:
        self.live = live

    def on_train_begin(self, *_: object, model: PreTrainedModel, **__: object) -> None:
        """Hear of every gradient."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._accumulated)

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.live.see(parameter.grad, "gradients", move=True)

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        """What is made from here on is the optimizer's."""
        self.live.making = "optimizer"

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        """Until here."""
        self.live.making = "activations"


def _total(parts: dict[str, int]) -> int:
    return sum(parts.values())


def _with_total(parts: dict[str, int]) -> dict[str, int]:
    made = _total(parts) - parts["weights"] - parts["reference"]
    overhead = round(OVERHEAD * made)
    return {**parts, "overhead": overhead, "total": _total(parts) + overhead}


def tell_memory(
    found: dict[str, dict[str, int]], cached: int, out: Path, proofs: dict[str, int] | None = None
) -> None:
    """Print a table and write `dry_run.json`.

    Args:
        found: from `measure_memory`.
        cached: bytes of reference log-probs that will be stored on disk.
        out: the run's folder.
        proofs: from `measure_proofs`; None where the run makes none.
    """
    print("Memory of a training step on the longest rows, at its peak, in GB (10^9 bytes):")
    columns = (*PARTS, "overhead", "total")
    print("  device     " + "".join(f"{column:>12}" for column in columns))
    for device, parts in found.items():
        print(f"  {device:10} " + "".join(f"{parts[c] / 1e9:12.3f}" for c in columns))
    if proofs is not None:
        told = ", ".join(f"{size / 1e9:.3f} on {device}" for device, size in proofs.items())
        print(f"  the proofs before the first step, at their peak: {told}")
    print(f"  disk: {cached / 1e9:.3f} for reference log-probs. Nothing was trained.")
    print("To train, give the same command without --dry-run.")
    content = {"memory_bytes": found, "proof_bytes": proofs, "cache_bytes": cached}
    write_json(out / "dry_run.json", content)
