"""The training loop that objectives over groups of responses share: Transformers' Trainer.

An objective turns the log-probs of a batch into a sum of losses; the loop divides by the count of
the whole global batch, so that accumulation and processes leave the result unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from veridical.models.logprobs import ResponseLogps, logps_of
from veridical.models.placeholders import blank_vision
from veridical.models.policy import Policy
from veridical.models.precision import unmixed
from veridical.models.tuning import all_take_part, split_projector, trains_vision
from veridical.runtime.errors import UserError
from veridical.train.loop.checking import Check, show_figures
from veridical.train.loop.collator import Collator, StepInputs, have_images
from veridical.train.loop.items import Items
from veridical.train.loop.loading_trainer import LoadingTrainer
from veridical.train.loop.order import Batches
from veridical.train.loop.outcomes import pair_logps
from veridical.train.loop.row_means import RowMeans, Unlogged
from veridical.train.loop.schedule import schedule_for
from veridical.train.loop.stopping import HIGHER_IS_BETTER, worst
from veridical.train.loop.task import Outcome, Task


class GroupTrainer(LoadingTrainer):
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
        self.policy, self.task, self.scorer = policy, task, task.scorer
        self.projector_learning_rate = projector_learning_rate
        self._means = {"train": RowMeans(), "eval": RowMeans()}
        self.left_out, self.stand_in = train.left_out, train.stand_in
        rows = [*train.groups, *(held_out.groups if held_out else [])]
        # Processes have to run the same modules, and a trained projector has to get a gradient of
        # zero from rows without images, whatever is beside them: Adam moves on for a zero, but
        # waits where there is none.
        needed = arguments.world_size > 1 or trains_vision(policy)
        blank = blank_vision(policy) if needed and have_images(rows) else None
        if arguments.ddp_find_unused_parameters is None:
            # To look for them, DDP walks the graph of every step.
            arguments.ddp_find_unused_parameters = not all_take_part(policy)
        self._of_threads: dict[str, Collator] = {}
        self.collate_items = Collator(policy, task.share_prefix, task.count, train, blank)
        super().__init__(
            model=task.scorer,
            args=arguments,
            train_dataset=train,
            # Transformers asks for one where `--check-images` alone is evaluated.
            eval_dataset=Items((), torch.zeros(0, 1)) if held_out is None else held_out,
            data_collator=self.collate_items,
            processing_class=policy.processor,
            callbacks=callbacks,
        )
        policy.core.config.use_cache = arguments.use_cache
        self.loss_is_scaled_for_ga = True
        backward = self.accelerator.backward

        def follow(loss: Tensor, **options: object) -> None:
            with unmixed():
                backward(loss, **options)

        self.accelerator.backward = follow
        # Its printed dictionaries would bury what the command says; `log.jsonl` has them.
        self.remove_callback(PrinterCallback)
        self.nothing_counts = False
        self.check: Check | None = None
        self.add_callback(StayWhereNothingCounts(self))
        self._unlogged = Unlogged(self._means["train"])
        self.add_callback(self._unlogged)

    def outcome(self, model: PreTrainedModel, inputs: StepInputs) -> Outcome:
        """The objective on one batch; nothing of it counts where the batch only keeps step."""
        logps, reference = self._scored(model, inputs)
        if self.task.divergence is not None:
            counts = bool(inputs["count"] > 0)
            self.task.divergence.see(pair_logps(logps, reference), counts)
        outcome = self.task.objective(logps, reference)
        noisy = self.task.scorer.model_dropout and torch.is_grad_enabled()
        if self.task.held_to_start and self.state.global_step == 0 and not noisy:
            # What differs is rounding, in half precision too much for a bound on the margin.
            known = {"rewards_accuracy": 0.5, "rewards_margin": 0.0}
            known |= {"rewards_chosen": 0.0, "rewards_rejected": 0.0}
            for name, value in known.items():
                outcome.measures[name] = torch.full_like(outcome.measures[name], value)
        return outcome if inputs["count"] > 0 else Outcome(0.0 * outcome.loss_sum, {})

    def _scored(self, model: PreTrainedModel, inputs: StepInputs) -> tuple[ResponseLogps, Tensor]:
        """A batch's log-probs, and the reference's. Shape of these: (groups, k)."""
        batch, blank = inputs["batch"].on(self.policy), inputs["blank"]
        reference = inputs["reference_logps"]
        if self.policy.device.type == "cuda":
            # Now: behind the forward pass the host would wait for it.
            reference = reference.to(self.policy.device, non_blocking=True)
        if self.task.reference_in_step:
            # First, while nothing is kept for the policy's backward pass.
            reference = model(batch, blank, reference=True).sums
        scores = model(batch, blank)
        logps = logps_of(batch, scores.sums, scores.counts, scores.squares)
        return logps, reference.to(scores.sums)

    def _look_ahead(self, batches: Iterable[StepInputs], count: int) -> None:
        """Estimate what the objective reads of some batches together, where there are several."""
        divergence = self.task.divergence
        if divergence is None:
            return
        divergence.forget()
        if count == 1:
            return
        # Without noise, and not the wrapped model, as where rows are held out.
        self.model.eval()
        with torch.no_grad():
            divergence.look_ahead(
                (pair_logps(*self._scored(self.model, inputs)), bool(inputs["count"] > 0))
                for inputs in batches
            )

    def compute_loss(  # noqa: D102
        self,
        model: PreTrainedModel,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outcome = self.outcome(model, inputs)
        self._means["train"].add(outcome, inputs["count"])
        if self.task.follow is not None and outcome.log_ratios is not None:
            self.task.follow.see(outcome.log_ratios)
        if num_items_in_batch is None:
            num_items_in_batch = inputs["count"].to(outcome.loss_sum.device)
        # Data-parallel training averages gradients over processes; the sum is wanted.
        loss = outcome.loss_sum / num_items_in_batch * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(
        self, batch_samples: list[StepInputs], device: torch.device
    ) -> Tensor:
        self._look_ahead(batch_samples, len(batch_samples))
        count = torch.stack([sample["count"] for sample in batch_samples]).sum()
        found = torch.tensor(len(self.left_out.found) if self.left_out is not None else 0)
        own = torch.stack([count, found])
        if self.accelerator.num_processes > 1:
            own = self.accelerator.gather(own.to(device))
        total: Tensor
        total, refused = own.view(-1, 2).sum(0)
        if self.left_out is not None and refused > 0:
            self.left_out.share()
        self.nothing_counts = not bool(total > 0)
        # Of fresh pairs a whole step's may be ties.
        return total.clamp(min=1)

    def evaluation_loop(  # noqa: D102
        self,
        dataloader: Batches,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        means = self._evaluated(dataloader)
        metrics = {}
        if means.get("mean_loss") is not None:
            metrics[f"{metric_key_prefix}_loss"] = means["mean_loss"]
        figures = self.check.measure() if self.check is not None else {}
        if figures:
            show_figures(self.state.global_step, figures)
        means = {"mean_loss": None, **means, **figures}
        metrics |= means
        selected = str(self.args.metric_for_best_model or "").removeprefix("eval_")
        if selected and selected != "loss":
            metrics[f"{metric_key_prefix}_{selected}"] = self._deciding(selected, means)
        return EvalLoopOutput(None, None, metrics, len(self.eval_dataset))

    def _deciding(self, selected: str, means: Mapping[str, Any]) -> float:
        """The figure that chooses the checkpoint; the worst where there is nothing to count."""
        if selected not in means:
            there = ", ".join(name for name in HIGHER_IS_BETTER if name in means)
            raise UserError(
                f"--select-by {selected}: this command's held-out rows have no such figure. "
                f"There is: loss{there and ', '}{there}."
            )
        return worst(selected) if means[selected] is None else float(means[selected])

    def _evaluated(self, dataloader: Batches) -> dict[str, float | None]:
        """Means over the held-out rows; empty where none are held out."""
        # Not the wrapped model: a rank's gradients are no business of the others here. Under
        # FSDP2 the Trainer's model is the sharded one itself.
        self.model.eval()
        if not len(self.eval_dataset):
            return {}
        # Where an objective reads rows together, all of them: a mean over a few, which is not let
        # below 0, would be larger and would depend on the batch size.
        self._look_ahead(dataloader, len(dataloader))
        with torch.no_grad():
            for inputs in dataloader:
                self._means["eval"].add(self.outcome(self.model, inputs), inputs["count"])
        if self.left_out is not None:
            self.left_out.share()
            groups = self.eval_dataset.groups
            if all(group in self.left_out for group in groups):
                selected = str(self.args.metric_for_best_model or "").removeprefix("eval_")
                self.left_out.require_held_out(len(groups), selected)
        return self._means["eval"].take()

    def log(self, logs: Mapping[str, float | None], start_time: float | None = None) -> None:
        """Add the mean of every measure since the last line; evaluations bring theirs."""
        if "loss" in logs:
            logs = {**logs, **self._means["train"].take(), **self.train_dataset.told()}
        super().log(logs, start_time)

    def _save_checkpoint(self, model: PreTrainedModel, trial: object) -> None:
        self._unlogged.keep()
        super()._save_checkpoint(model, trial)

    def _run_epoch(self, **arguments: object) -> None:
        """Take no step more when a run is resumed that had taken all of them, or had stopped."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**arguments)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> object:
        """The schedule of `schedule_for`."""
        if self.lr_scheduler is None:
            found = schedule_for(optimizer or self.optimizer, self.args, num_training_steps)
            self.lr_scheduler: object = found
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """Give a trained projector its own learning rate, if one was asked for."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.projector_learning_rate is not None:
            split_projector(optimizer, self.policy, self.projector_learning_rate)
        return optimizer


class StayWhereNothingCounts(TrainerCallback):
    """Keeps an optimizer from moving on, by its momentum, after a step without a pair."""

    def __init__(self, trainer: GroupTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        """Take the gradients away: weights without one stay as they are."""
        if self.trainer.nothing_counts:
            self.trainer.model.zero_grad(set_to_none=True)
