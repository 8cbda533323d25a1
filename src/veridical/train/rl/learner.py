"""The optimizer of reinforcement learning, its checkpoints, and gradients summed over processes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import enable_full_determinism

from veridical.models.tuning import split_projector
from veridical.runtime import interruptions, processes
from veridical.runtime.files import read_json, write_json, writing
from veridical.runtime.randomness import generator
from veridical.train.loop.checkpoints import steps_of, write_manifest
from veridical.train.loop.modes import checkpoint_activations, checkpointing_asked_for
from veridical.train.loop.reporting import Trackers
from veridical.train.loop.resume import require_steps_left, tell_extension, tell_resumption
from veridical.train.loop.run import checkpoint_to_resume
from veridical.train.loop.schedule import resume_schedule, schedule_for
from veridical.train.loop.trained import (
    load_trained_weights,
    require_same_start,
    save_trained_weights,
)
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training
from veridical.train.rl.actors import Actors
from veridical.train.rl.log import Log

STATE, OPTIMIZER = "state.json", "optimizer.pt"


class Evaluated(NamedTuple):
    """The figure that chooses a checkpoint, at one evaluation.

    Attributes:
        step: after which.
        value: None where there was nothing to count.
    """

    step: int
    value: float | None


@dataclass(frozen=True)
class LoopState:
    """What the loop needs to go on from a checkpoint, besides weights and optimizer.

    Attributes:
        step: how many were done.
        kl_coefficient: the penalty's weight in the next step.
        evaluations: what has been found so far.
    """

    step: int
    kl_coefficient: float
    evaluations: tuple[Evaluated, ...] = ()


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
                    checkpoint_activations(module, False, checkpointing)
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
        """Begin a step: a SIGTERM waits for its end, and a model's noise depends on nothing before.

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

    def end_step(self) -> float:
        """Move the schedule on; the policy's learning rate of the step that ends."""
        rate = float(self.scheduler.get_last_lr()[0])
        self.scheduler.step()
        return rate

    def resume(self, training: Training, new: LoopState) -> LoopState:
        """Go on from the newest whole checkpoint, if that is asked for and there is one.

        Args:
            training: the run's options.
            new: what a new run begins with.

        Returns:
            What the loop had kept of itself, or `new`.

        Raises:
            UserError: there are checkpoints, and going on was not asked for.
        """
        folder = self.out / "checkpoints"
        found = processes.from_first(lambda: checkpoint_to_resume(folder, training.resume))
        if found is None:
            return new
        require_steps_left(steps_of(found), self.steps, training.extend)
        load_trained_weights(self.trained, found)
        content = torch.load(found / OPTIMIZER, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        resume_schedule(self.scheduler)
        if training.extend and processes.is_first():
            tell_extension(steps_of(found), self.steps, float(self.scheduler.get_last_lr()[0]))
        elif processes.is_first():
            tell_resumption(steps_of(found), self.steps)
        state = read_json(found / STATE)
        evaluations = tuple(Evaluated(*one) for one in state.pop("evaluations"))
        return LoopState(**state, evaluations=evaluations)

    def due(self, step: int) -> bool:
        """Whether the run is evaluated after so many steps, and a checkpoint kept."""
        return step >= self.steps or step % self.every == 0

    def save(self, state: LoopState, best: int | None = None) -> None:
        """Write a checkpoint after a step, where one is due; the newest and the best stay.

        Args:
            state: what the loop needs to go on.
            best: the step of the best checkpoint, which may be this one.

        Raises:
            Terminated: a SIGTERM asked to stop; the checkpoint is written.
        """
        step = state.step
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
                write_json(checkpoint / STATE, dataclasses.asdict(state))
                write_manifest(checkpoint)
                _forget_old(folder, self.arguments.save_total_limit, step, best)
        processes.wait_for_all()
        if interruptions.asked():
            interruptions.stop()


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
    content: list[dict[str, object]] = []
    for parameters, rate in groups:
        for decay in (True, False):
            own = [p for p in parameters if (names[id(p)] in decayed) == decay]
            weight = arguments.weight_decay if decay else 0.0
            if own:
                content.append({"params": own, "lr": rate, "weight_decay": weight})
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer: torch.optim.Optimizer = kind(content, **options)
    return optimizer


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
