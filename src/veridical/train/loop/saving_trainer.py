"""Transformers' Trainer, with checkpoints of our own: the trained weights alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer

from veridical.runtime import processes
from veridical.runtime.files import writing
from veridical.train.loop.checkpoints import whole_best
from veridical.train.loop.schedule import resume_schedule
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.trained import (
    load_piece,
    load_trained_weights,
    save_piece,
    save_trained_weights,
)

SCHEDULER = "scheduler.pt"


REFERENCE = "reference.safetensors"


def save_reference(scorer: Scorer, folder: Path) -> None:
    """Keep a reference that has followed the policy beside the trained weights."""
    weights = scorer.moved_reference
    if weights is not None and processes.is_first():
        save_file(
            {n: one.detach().cpu().contiguous() for n, one in weights.items()}, folder / REFERENCE
        )


def load_reference(scorer: Scorer, checkpoint: Path) -> None:
    """Find it again; the start is the reference where it had not moved yet."""
    if (checkpoint / REFERENCE).is_file():
        scorer.put_reference(load_file(checkpoint / REFERENCE))


class SavingTrainer(Trainer):
    """Writes checkpoints and finds them again.

    Attributes:
        scorer: whose trained weights they are.
        best_is_torn: whether the best checkpoint was not whole when it was wanted.
    """

    scorer: Scorer
    best_is_torn = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Keep the trained weights under the names that they have in memory.

        Transformers' own way renames some families' weights (LLaVA's) on saving, and does not
        find them again when it resumes or takes the best checkpoint: it warns, and goes on with
        what it has.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        save_trained_weights(self.scorer, folder)
        save_reference(self.scorer, folder)
        if self.args.should_save:
            torch.save(self.args, folder / "training_args.bin")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Transformers would add a second copy of the model, and does not find its way through
        # a model with frozen weights.
        save_piece(self.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            resume_schedule(self.lr_scheduler)
            return
        load_piece(self.optimizer, Path(checkpoint))
        schedule = torch.load(Path(checkpoint) / SCHEDULER, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)
        resume_schedule(self.lr_scheduler)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: PreTrainedModel | None = None
    ) -> None:
        load_trained_weights(self.scorer, Path(resume_from_checkpoint))
        load_reference(self.scorer, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        # By its name: the folder may have been moved since the checkpoint was written.
        path = Path(str(self.args.output_dir)) / Path(str(self.state.best_model_checkpoint)).name
        best = processes.from_first(lambda: whole_best(path))
        self.best_is_torn = best is None
        self.state.best_model_checkpoint = str(best) if best else None
        if best is None:
            return
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_trained_weights(self.scorer, best)

    def _save_checkpoint(self, model: PreTrainedModel, trial: object) -> None:
        with writing(Path(str(self.args.output_dir)), "Make room, and go on with --resume true."):
            super()._save_checkpoint(model, trial)
