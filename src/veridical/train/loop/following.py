"""A reference that follows the policy: TR-DPO's hard and soft updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.models.model_argument import Model
from veridical.objectives.preference import Preference
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.runtime.ranges import COUNT, Range, check_ranges
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.stopping import OF_ROWS
from veridical.train.options import Training


@dataclass(frozen=True)
class Following:
    """How the reference follows the policy (TR-DPO, Gorbatovski et al. 2024).

    Attributes:
        reference_every: optimizer steps after which the reference moves to the policy each time
            (TR-DPO; TRL has 512). It stays as it is if not set.
        reference_mix: the policy's share of the new reference's weights: 1 puts the policy in its
            place (a hard update), less mixes the two (a soft one; TRL has 0.6).
    """

    reference_every: Annotated[int | None, COUNT] = None
    reference_mix: Annotated[float, Range(0, 1, above=True)] = 1.0

    def check(
        self, objective: Preference, reference: str, declared: Model | None, training: Training
    ) -> None:
        """Refuse what can't be done together.

        Args:
            objective: what is minimized.
            reference: when its log-probs are computed.
            declared: another model than the start to begin with.
            training: the run's options.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)
        if self.reference_every is None:
            if self.reference_mix != 1:
                raise UserError(
                    "--reference-mix is how far the reference moves, and it stays where it is. Set "
                    "--reference-every, or leave --reference-mix out."
                )
            return
        if not objective.needs_reference:
            raise UserError(
                f"--reference-every means nothing with {objective.given_as}, which compares with "
                "no reference. Leave it out."
            )
        if reference != "in_step":
            raise UserError(
                "--reference-every changes the reference on the way, so its log-probs can't be "
                "computed before. Set --reference in_step too."
            )
        if declared is not None:
            raise UserError(
                "--reference-every begins with the policy's own start. Leave --reference-model out."
            )
        if training.tuning != "full" and self.reference_mix != 1:
            raise UserError(
                "A mixture of two adapters' products is not an adapter of that rank: "
                "--reference-mix below 1 needs --tuning full. With adapters leave it at 1."
            )
        if processes.shares_out_weights():
            raise UserError(
                "--reference-every copies weights that FSDP and ZeRO-3 share out among processes. "
                "Start the processes without them, or leave --reference-every out."
            )

    def tell_idle(self, steps: int) -> None:
        """Say where the reference would stay as it is in every step.

        That is not an error: the run may be extended, or only tried.

        Args:
            steps: optimizer steps of the whole run.
        """
        if self.reference_every is None or self.reference_every < steps:
            return
        print(
            f"--reference-every {self.reference_every} has no effect in a run of "
            f"{counted(steps, 'steps')}: the reference would move after the last one at the "
            "earliest. Set it lower, or take more steps."
        )

    def tell_selection(self, training: Training) -> None:
        """Say where checkpoints would be chosen by figures that can't be compared.

        Args:
            training: the run's options.
        """
        decides = training.held_out > 0 and training.select_by in OF_ROWS
        if self.reference_every is None or not decides:
            return
        print(
            f"The held-out {training.select_by} of each evaluation is against the reference of "
            "that step, so it says little about which checkpoint is best. Set --select-by to a "
            "figure of --check-images, or --held-out 0 for the last step's weights."
        )

    def __str__(self) -> str:
        """For the proof of the start; nothing where the reference stays."""
        if self.reference_every is None:
            return ""
        how = "becomes the policy"
        if self.reference_mix < 1:
            how = f"takes {self.reference_mix:g} of the policy's weights"
        return f"; after every {counted(self.reference_every, 'steps')} the reference {how}"


class MoveReference(TrainerCallback):
    """Moves the reference at the end of a step, before that step's checkpoint is written."""

    def __init__(self, scorer: Scorer, following: Following) -> None:
        """Take the two in.

        Args:
            scorer: has the policy and the reference.
            following: says when, and how far.
        """
        self.scorer, self.following = scorer, following

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Move it where the step's number asks for it."""
        every = self.following.reference_every
        if every is not None and state.global_step % every == 0:
            self.scorer.move_reference(self.following.reference_mix)
