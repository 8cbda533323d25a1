"""What reinforcement learning's loops share: optimizer, checkpoints, log, sums over processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import enable_full_determinism

from veridical.runtime import interruptions, processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl, writing
from veridical.runtime.progress import step_bar
from veridical.runtime.randomness import generator
from veridical.train.loop.checkpoints import write_manifest
from veridical.train.loop.modes import checkpoint_activations, checkpointing_asked_for
from veridical.train.loop.reporting import Trackers
from veridical.train.loop.resume import require_steps_left, tell_extension
from veridical.train.loop.run import checkpoint_to_resume, steps_of
from veridical.train.loop.schedule import go_on, schedule_for
from veridical.train.loop.showing import show
from veridical.train.loop.trained import (
    load_trained_weights,
    require_same_start,
    save_trained_weights,
)
from veridical.train.loop.trainer import split_projector
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training
from veridical.train.rl.actors import Actors

STATE, OPTIMIZER = "state.json", "optimizer.pt"
SHOWN = 2
"""Responses of a step that the log shows (our choice)."""


class Learner:
    """An optimizer with what a loop needs around it.

    Gradients are summed over processes here, once for a step, so that the losses of a loop only
    have to be sums of this process's items over the count of all processes'.
    """

    def __init__(
        self,
        actors: Actors,
        groups: Sequence[tuple[list[nn.Parameter], float]],
        training: Training,
        out: Path,
        prompts: int,
    ) -> None:
        """Make optimizer and schedule as Transformers' options ask for.

        Args:
            actors: the models.
            groups: parameters with their learning rates; each group's gradient is clipped by
                itself, so that a value that is far off does not hold the policy back.
            training: the run's options.
            out: the run's folder.
            prompts: how many there are, which with the options gives the number of steps.
        """
        on_cpu = actors.policy.device.type == "cpu"
        arguments = self.arguments = trainer_arguments(
            training, out, prompts, False, on_cpu, "reinforcement"
        )
        if arguments.full_determinism:
            enable_full_determinism(training.seed)
        steps = self.steps = training.steps(prompts)
        trained = self.trained = actors.trained()
        self.out, self.core, self.seed = out, actors.policy.core, training.seed
        self.groups = [(parameters, rate) for parameters, rate in groups if parameters]
        self.optimizer = make_optimizer(trained, self.groups, arguments)
        if training.projector_learning_rate is not None:
            split_projector(self.optimizer, actors.policy, training.projector_learning_rate)
        self.scheduler = schedule_for(self.optimizer, arguments, steps)
        checkpointing = checkpointing_asked_for(arguments)
        if checkpointing is not None:
            for name, module in trained.named_children():
                if name in ("policy", "value"):
                    checkpoint_activations(module, training.model_dropout, checkpointing)
        self.every = max(1, steps // training.evaluations)
        require_same_start(trained)

    def open_log(self, done: int, training: Training) -> Log:
        """The log of the run, with the trackers that were asked for.

        Args:
            done: steps so far.
            training: the run's options.
        """
        trackers = None
        if training.report_to:
            trackers = Trackers(training.report_to, self.out, self.arguments)
        return Log(self.out, done, self.steps, trackers, self.core, training.show_every)

    def begin(self, step: int) -> None:
        """Begin a step: a SIGTERM waits for its end, and its dropout depends on nothing before it.

        Args:
            step: how many were done.
        """
        if processes.world_size() == 1:
            # Several would notice a signal at different steps, and wait for each other.
            interruptions.defer()
        noise = generator(self.seed, "dropout", step, processes.rank())
        torch.manual_seed(int(noise.integers(2**31)))

    def step(self) -> float:
        """Sum the gradients over processes, clip them, and take one step.

        Returns:
            The length of the first group's gradient before it was clipped.
        """
        lengths = []
        for parameters, _ in self.groups:
            flat = processes.total(torch.cat([_gradient(p).flatten() for p in parameters]))
            lengths.append(float(flat.norm()))
            limit = float(self.arguments.max_grad_norm or 0)
            if limit > 0:
                flat = flat * min(1.0, limit / (lengths[-1] + 1e-6))
            pieces = flat.split([p.numel() for p in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter).to(parameter.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return lengths[0]

    def resume(self, training: Training) -> dict[str, Any]:
        """Go on from the newest whole checkpoint, if that is asked for and there is one.

        Returns:
            What the loop had kept of itself; `step` is how many were done.

        Raises:
            UserError: there are checkpoints, and going on was not asked for.
        """
        folder = self.out / "checkpoints"
        found = processes.from_first(lambda: checkpoint_to_resume(folder, training.resume))
        if found is None:
            return {"step": 0}
        require_steps_left(steps_of(found), self.steps, training.extend)
        load_trained_weights(self.trained, found)
        content = torch.load(found / OPTIMIZER, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        go_on(self.scheduler)
        if training.extend and processes.is_first():
            tell_extension(steps_of(found), self.steps, float(self.scheduler.get_last_lr()[0]))
        state: dict[str, Any] = read_json(found / STATE)
        return state

    def due(self, step: int) -> bool:
        """Whether the run is evaluated after so many steps, and a checkpoint kept."""
        return step >= self.steps or step % self.every == 0

    def save(self, step: int, kept: Mapping[str, Any], best: int | None = None) -> None:
        """Write a checkpoint after so many steps, where one is due; the newest and the best stay.

        Args:
            step: how many were done.
            kept: what the loop needs to go on.
            best: the step of the best checkpoint, which may be this one.

        Raises:
            Terminated: a SIGTERM asked to stop; the checkpoint is written.
        """
        if step >= self.steps:
            interruptions.no_longer_defer()
        elif not self.due(step) and not interruptions.asked():
            return
        folder = self.out / "checkpoints"
        checkpoint = folder / f"checkpoint-{step}"
        with writing(folder, "Make room, and go on with --resume true."):
            save_trained_weights(self.trained, checkpoint)
            if processes.is_first():
                content = {
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                }
                torch.save(content, checkpoint / OPTIMIZER)
                write_json(checkpoint / STATE, {"step": step, **kept})
                write_manifest(checkpoint)
                _forget_old(folder, self.arguments.save_total_limit, step, best)
        processes.wait_for_all()
        if interruptions.asked():
            interruptions.stop()


class Log:
    """`log.jsonl` and the line on the screen; written by the first process."""

    def __init__(
        self,
        out: Path,
        done: int,
        steps: int,
        trackers: Trackers | None = None,
        model: Any = None,
        show_every: int | None = None,
    ) -> None:
        """Keep what a checkpoint has seen of an interrupted run's log.

        Args:
            out: the run's folder.
            done: steps so far.
            steps: of the whole run.
            trackers: get the rows too.
            model: Transformers' model, for them.
            show_every: steps between two times that samples are printed.
        """
        self.trackers, self.model, self.show_every = trackers, model, show_every
        if trackers is not None:
            trackers.begin(model, done)
        self.path = out / "log.jsonl"
        known = read_jsonl(self.path) if done and self.path.is_file() else []
        self.rows = [row for row in known if row["step"] <= done]
        self.bar = step_bar(steps, done)

    @property
    def train_rows(self) -> list[dict[str, Any]]:
        """A row for each step; the others are of evaluations."""
        return [row for row in self.rows if row["split"] == "train"]

    def write(self, row: Mapping[str, Any]) -> None:
        """One step more.

        Raises:
            UserError: a figure is no longer a number.
        """
        self.add(row)
        if self.show_every and row["step"] % self.show_every == 0 and processes.is_first():
            show(row["step"], [(one["id"], one["text"]) for one in row["samples"]])
        reward = row["reward"]
        self.bar.set_postfix(reward="-" if reward is None else f"{reward:.3f}", refresh=False)
        self.bar.update(1)

    def add(self, row: Mapping[str, Any]) -> None:
        """A row more, of a step or an evaluation.

        Raises:
            UserError: a figure is no longer a number.
        """
        for name, value in row.items():
            if isinstance(value, float) and not abs(value) < float("inf"):
                raise UserError(
                    f"{name} is {value} at step {row['step']}. Lower --learning-rate, or set "
                    "--dtype float32 if the model runs in float16."
                )
        self.rows.append(dict(row))
        if processes.is_first():
            write_jsonl(self.path, self.rows)
        if self.trackers is not None:
            self.trackers.log(row, self.model)

    def close(self) -> None:
        """End the line on the screen."""
        self.bar.close()
        if self.trackers is not None:
            self.trackers.end(self.model)


def make_optimizer(
    trained: nn.Module,
    groups: Sequence[tuple[list[nn.Parameter], float]],
    arguments: TrainingArguments,
) -> torch.optim.Optimizer:
    """The optimizer that Transformers' options name, over groups with their learning rates.

    Weight decay leaves norms and biases out, as in Transformers' Trainer.
    """
    decayed = set(Trainer.get_decay_parameter_names(None, trained))
    names = {id(parameter): name for name, parameter in trained.named_parameters()}
    content: list[dict[str, Any]] = []
    for parameters, rate in groups:
        for decay in (True, False):
            own = [p for p in parameters if (names[id(p)] in decayed) == decay]
            weight = arguments.weight_decay if decay else 0.0
            if own:
                content.append({"params": own, "lr": rate, "weight_decay": weight})
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer: torch.optim.Optimizer = kind(content, **options)
    return optimizer


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """A few at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def mean_over_all(values: Tensor, mask: Tensor | None = None) -> float | None:
    """The mean over what counts in all processes; None where nothing does."""
    chosen = (values if mask is None else values[mask]).double()
    parts = processes.total(torch.stack([chosen.sum(), chosen.new_tensor(chosen.numel())]))
    return float(parts[0] / parts[1]) if parts[1] > 0 else None


def _gradient(parameter: nn.Parameter) -> Tensor:
    """In at least float32; 0 where this process had nothing for it."""
    if parameter.grad is None:
        return torch.zeros(
            parameter.shape, dtype=torch.promote_types(parameter.dtype, torch.float32),
            device=parameter.device,
        )  # fmt: skip
    return parameter.grad.to(torch.promote_types(parameter.dtype, torch.float32))


def _forget_old(folder: Path, kept: int | None, newest: int, best: int | None = None) -> None:
    """Leave so many: the one just written, the best one, and the newest of the others.

    The best one stays beside the newest even where one alone is asked for. What a run that was
    resumed had written of later steps goes first.
    """
    if kept is None or kept < 1:  # all of them stay, as with Transformers' Trainer
        return

    def worth(path: Path) -> tuple[bool, bool, bool, int]:
        step = steps_of(path)
        return step == newest, step == best, step < newest, step

    found = sorted(folder.glob("checkpoint-*"), key=worth)
    needed = {newest, best} & {steps_of(path) for path in found}
    for old in found[: -max(kept, len(needed))]:
        shutil.rmtree(old)
