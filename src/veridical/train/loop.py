"""The training loop that objectives over groups of responses share: Transformers' Trainer.

An objective turns the log-probs of a batch into a sum of losses; the loop divides by the count of
the whole global batch, so that accumulation and processes leave the result unchanged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from veridical.errors import UserError
from veridical.files import read_jsonl, write_jsonl, writing
from veridical.logprobs import ResponseLogps, collate, response_logps
from veridical.models import Policy, projector_parameters
from veridical.progress import step_bar
from veridical.rendering import Group
from veridical.train.checkpoints import whole_best, write_manifest

WEIGHTS = "trained.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of one batch.

    Attributes:
        loss_sum: summed over the batch's items. Shape: ().
        measures: what is logged, one value a group. Shape of each: (groups,).
    """

    loss_sum: Tensor
    measures: dict[str, Tensor]


Objective = Callable[[ResponseLogps, Tensor], Outcome]
"""Takes the policy's log-probs and the reference's (groups, k); gives the outcome."""


@dataclass(frozen=True)
class Item:
    """One training row: a group, and its reference log-probs where they were computed before."""

    group: Group
    reference_logps: Tensor


class Items(Dataset[Item]):
    """Rows by index, as the data loader wants them."""

    def __init__(self, groups: Sequence[Group], reference_logps: Tensor) -> None:
        self.groups, self.reference_logps = groups, reference_logps

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Item:
        return Item(self.groups[index], self.reference_logps[index])


@dataclass(frozen=True)
class Task:
    """What is optimised.

    Attributes:
        objective: from log-probs to losses.
        count: how many items a batch of groups has: pairs, or tokens.
        in_step_reference: computes the reference log-probs in the step; None where they come
            with the items.
        share_prefix: the layout.
    """

    objective: Objective
    count: Callable[[Sequence[Group]], int]
    share_prefix: bool
    in_step_reference: Callable[[Any], Tensor] | None = None


class GroupTrainer(Trainer):
    """Transformers' Trainer over groups of responses."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        arguments: TrainingArguments,
        train: Items,
        held_out: Items | None,
        callbacks: list[TrainerCallback],
        projector_learning_rate: float | None,
    ) -> None:
        self.policy, self.task = policy, task
        self.projector_learning_rate = projector_learning_rate
        self._measures: dict[str, dict[str, list[Tensor]]] = {"train": {}, "eval": {}}
        super().__init__(
            model=policy.model,
            args=arguments,
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=self.collate_items,
            processing_class=policy.processor,
            callbacks=callbacks,
        )
        self.loss_is_scaled_for_ga = True
        # Its printed dictionaries would bury what the command says; `log.jsonl` has them.
        self.remove_callback(PrinterCallback)

    def collate_items(self, items: Sequence[Item]) -> dict[str, Any]:
        """Lay a batch out; everything the objective needs is in it."""
        groups = [item.group for item in items]
        return {
            "batch": collate(self.policy, groups, self.task.share_prefix),
            "reference_logps": torch.stack([item.reference_logps for item in items]),
            "count": torch.tensor(self.task.count(groups)),
        }

    def outcome(self, model: Any, inputs: dict[str, Any]) -> Outcome:
        """The objective on one batch."""
        reference = inputs["reference_logps"]
        if self.task.in_step_reference is not None:
            # First, while nothing is kept for the policy's backward pass.
            reference = self.task.in_step_reference(inputs["batch"])
        logps = response_logps(model, inputs["batch"])
        return self.task.objective(logps, reference.to(logps.sums))

    def compute_loss(  # noqa: D102
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outcome = self.outcome(model, inputs)
        self._keep("train" if model.training else "eval", outcome, inputs["count"])
        if num_items_in_batch is None:
            num_items_in_batch = inputs["count"].to(outcome.loss_sum.device)
        loss = outcome.loss_sum / num_items_in_batch
        # Data-parallel training averages gradients over processes; the sum is wanted.
        loss = loss * self.accelerator.num_processes if model.training else loss
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor:
        count = torch.stack([sample["count"] for sample in batch_samples]).sum().to(device)
        total: Tensor = self.accelerator.gather(count).sum()
        return total

    def prediction_step(  # noqa: D102
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            outcome = self.outcome(model, inputs)
        self._keep("eval", outcome, inputs["count"])
        return (outcome.loss_sum / inputs["count"]).detach(), None, None

    def _keep(self, split: str, outcome: Outcome, count: Tensor) -> None:
        kept = self._measures[split]
        kept.setdefault("_loss_sum", []).append(outcome.loss_sum.detach().reshape(1).cpu())
        kept.setdefault("_count", []).append(count.reshape(1).cpu())
        for name, values in outcome.measures.items():
            kept.setdefault(name, []).append(values.detach().cpu())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every measure since the last line of the same split."""
        split = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        if split == "eval" or "loss" in logs:
            logs = {**logs, **self._means(split)}
        super().log(logs, start_time)

    def _means(self, split: str) -> dict[str, float]:
        kept = {name: torch.cat(values) for name, values in self._measures[split].items()}
        self._measures[split] = {}
        if not kept:
            return {}
        means = {n: float(v.double().mean()) for n, v in kept.items() if not n.startswith("_")}
        means["mean_loss"] = float(kept["_loss_sum"].double().sum() / kept["_count"].sum())
        return means

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Keep the trained weights under the names that they have in memory.

        Transformers' own way renames some families' weights (LLaVA's) on saving, and does not
        find them again when it resumes or takes the best checkpoint: it warns, and goes on with
        what it has.
        """
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(trained_weights(self.policy.model), folder / WEIGHTS)
            torch.save(self.args, folder / "training_args.bin")

    def _run_epoch(self, **arguments: Any) -> None:
        """Take no step more when a run is resumed that had taken all of them."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**arguments)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained_weights(self.policy.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        # By its name: the folder may have been moved since the checkpoint was written.
        name = Path(str(self.state.best_model_checkpoint)).name
        best = whole_best(Path(str(self.args.output_dir)) / name)
        self.state.best_model_checkpoint = str(best) if best else None
        if best is not None:
            load_trained_weights(self.policy.model, best)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing(Path(str(self.args.output_dir)), "Make room, and go on with --resume true."):
            super()._save_checkpoint(model, trial)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give a trained projector its own learning rate, if one was asked for."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.projector_learning_rate is not None:
            split_projector(optimizer, self.policy, self.projector_learning_rate)
        return optimizer


def trained_weights(model: Any) -> dict[str, Tensor]:
    """Every weight that is trained, by its name in memory."""
    return {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}


def load_trained_weights(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        UserError: the checkpoint is of other weights than those trained here.
    """
    found = load_file(checkpoint / WEIGHTS)
    wanted = trained_weights(model)
    odd = sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    )
    if odd:
        raise UserError(
            f"{checkpoint} was made with other trained weights ({odd[0]} and {len(odd) - 1} more). "
            "Resume with the options that the run was started with, or choose another --out."
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])


def split_projector(optimizer: torch.optim.Optimizer, policy: Policy, learning_rate: float) -> None:
    """Move the projector's parameters to groups of their own, with their own learning rate.

    Raises:
        UserError: no projector is trained.
    """
    wanted = {id(parameter) for parameter in projector_parameters(policy)}
    if not wanted:
        raise UserError(
            "--projector-learning-rate was given, but the projector is frozen. "
            "Set --train-projector true as well."
        )
    for group in list(optimizer.param_groups):
        inside = [p for p in group["params"] if id(p) in wanted]
        if inside:
            group["params"] = [p for p in group["params"] if id(p) not in wanted]
            optimizer.add_param_group({**group, "params": inside, "lr": learning_rate})


class RunLog(TrainerCallback):
    """Writes `log.jsonl`, a row for each line that the Trainer logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After an interruption, keep only what the resumed checkpoint has seen."""
        if state.global_step and self.path.is_file():
            self.rows = [r for r in read_jsonl(self.path) if r["step"] <= state.global_step]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append the line, with plain names."""
        row = log_row(logs or {}, state.global_step, state.epoch)
        if row is not None:
            self.rows.append(row)
            write_jsonl(self.path, self.rows)


def log_row(logs: dict[str, Any], step: int, epoch: float | None) -> dict[str, Any] | None:
    """One row of `log.jsonl`; None for lines that hold no loss.

    Raises:
        UserError: the loss is no longer a number, so going on would only cost time.
    """
    if "mean_loss" not in logs:
        return None
    split = "eval" if any(name.startswith("eval_") for name in logs) else "train"
    if not math.isfinite(logs["mean_loss"]):
        raise UserError(
            f"The {split} loss at step {step} is {logs['mean_loss']}. Lower --learning-rate, or "
            "set --dtype float32 if the model runs in float16."
        )
    skipped = ("loss", "mean_loss", "epoch", "grad_norm", "learning_rate", "total_flos")
    row: dict[str, Any] = {"step": step, "epoch": epoch, "split": split, "loss": logs["mean_loss"]}
    for name, value in logs.items():
        if name not in skipped and not name.startswith(("eval_", "train_")):
            row[name] = value
    if split == "train":
        row["learning_rate"] = logs.get("learning_rate")
        row["gradient_norm"] = logs.get("grad_norm")
    result: dict[str, Any] = json.loads(json.dumps(row, default=float))
    return result


class Steps(TrainerCallback):
    """One line with the steps done, the time left and the loss."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the line."""
        self.bar = step_bar(state.max_steps, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One step more."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest loss."""
        if self.bar is not None and logs and "mean_loss" in logs:
            self.bar.set_postfix(loss=f"{logs['mean_loss']:.4f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the line."""
        self.bar.close()


class Manifests(TrainerCallback):
    """Seals each checkpoint with a manifest once it is whole."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Hash every file of the newest checkpoint."""
        write_manifest(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def dry_run(trainer: GroupTrainer, train: Items, held_out: Items | None) -> None:
    """Two batches forward and backward, and one of the held-out rows, before the first step.

    A model that runs out of memory or gives no finite loss fails here, in seconds. The longest
    rows are taken; weights are not changed.

    Raises:
        UserError: a loss or gradient is not finite, or nothing receives a gradient.
    """
    size = trainer.args.per_device_train_batch_size
    order = sorted(range(len(train)), key=lambda i: -_length(train.groups[i]))
    model = trainer.policy.model.train()
    for start in (0, min(size, max(len(train) - size, 0))):
        items = [train[i] for i in order[start : start + size]]
        inputs = trainer.collate_items(items)
        loss = trainer.outcome(model, inputs).loss_sum / inputs["count"]
        loss.backward()
        norm = _gradient_norm(model)
        model.zero_grad(set_to_none=True)
        if not math.isfinite(float(loss.detach())) or not math.isfinite(norm):
            raise UserError(
                f"In the trial batch the loss is {float(loss.detach())}, its gradient norm {norm}. "
                "Set --dtype float32 or bfloat16, and check the pairs for empty answers."
            )
        if norm == 0:
            raise UserError("In the trial batch no trained weight receives a gradient.")
    model.eval()
    if held_out is not None:
        with torch.no_grad():
            items = [held_out[i] for i in range(min(size, len(held_out)))]
            trainer.outcome(model, trainer.collate_items(items))


def _length(group: Group) -> int:
    return sum(len(ids) for ids in group.response_ids)


def _gradient_norm(model: Any) -> float:
    grads = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(grads).norm()) if grads else 0.0
