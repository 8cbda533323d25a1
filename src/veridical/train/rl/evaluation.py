"""Evaluations of reinforcement learning: the best checkpoint and an early stop follow from them.

At step 0, about `--evaluations` times and at the end the policy answers the held-out prompts, each
once and always with the same noise, so that the same weights give the same figures; and it is asked
about the checked images. What came out is kept in the checkpoints, so that a run that is resumed
stops and chooses as it would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.runtime import interruptions, processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import say
from veridical.runtime.run_files import LogRow
from veridical.train.loop.checking import open_check, show_figures, write_descriptions
from veridical.train.loop.checkpoints import whole_best
from veridical.train.loop.run import tell_best
from veridical.train.loop.stopping import (
    CHECKED,
    HIGHER_IS_BETTER,
    evaluations_since_best,
    tell_stop,
    worst,
)
from veridical.train.loop.trained import load_trained_weights
from veridical.train.options import Training
from veridical.train.prompts import TrainingPrompt
from veridical.train.rl.experience import Setting, count_scored, gather_experience
from veridical.train.rl.learner import Evaluated, Learner, LoopState
from veridical.train.rl.log import Log
from veridical.train.rl.measures import measures_of, shown_responses

NOISE = "held-out"
"""Keys the noise of held-out prompts, which is that of no step."""
TOLD = ("reward", "exact_score", "kl_k1", "response_tokens")


@dataclass(frozen=True)
class BestStep:
    """Which weights are the result, as `run.json` says it.

    Attributes:
        best_step: of the best checkpoint; None for the last weights.
        selected_by: the figure that chose; None where none does.
        best_value: of the figure, at the best checkpoint.
        value_at_start: of the figure, before the first step.
    """

    best_step: int | None
    selected_by: str | None
    best_value: float | None
    value_at_start: float | None


class Evaluations:
    """What a run is evaluated on, and what came out so far."""

    def __init__(
        self,
        setting: Setting,
        held_out: Sequence[TrainingPrompt],
        training: Training,
        learner: Learner,
        log: Log,
        state: LoopState,
    ) -> None:
        """Take up what a checkpoint had found; at the start evaluate.

        Args:
            setting: as it is trained in.
            held_out: prompts that are not learned from.
            training: the run's options.
            learner: says when an evaluation is due.
            log: gets a row for each.
            state: what `Learner.resume` gave.

        Raises:
            UserError: as for `look`.
        """
        self.setting, self.training, self.learner, self.log = setting, training, learner, log
        self.prompts = len(setting.prompts)
        # Values are of no use here, and one response to each of more prompts says more.
        self.asked = dataclasses.replace(
            setting, prompts=held_out, k=1, actors=dataclasses.replace(setting.actors, critic=None)
        )
        self.check = open_check(setting.actors.policy, training)
        if self.check is not None:
            write_descriptions(self.check, log.path.parent)
        chooses = bool(held_out) or (self.check is not None and training.select_by in CHECKED)
        self.selected = training.select_by if chooses else None
        self.found, self.done, self.stopped = list(state.evaluations), state.step, False
        if self.done:
            self._stop(self.done)
        else:
            self.look(0)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, until patience is at its end."""
        for step in range(self.done, self.learner.steps):
            if self.stopped:
                break
            self.learner.begin(step)
            yield step
        interruptions.no_longer_defer()

    def look(self, step: int) -> None:
        """Evaluate after so many steps, where it is due; all processes have to take part.

        Raises:
            UserError: more held-out prompts than `--max-bad-fraction` allows can't be used or
                scored, or all that would choose the checkpoint.
        """
        if step and not self.learner.due(step):
            return
        if not self.asked.prompts and self.check is None:
            return
        self.setting.actors.policy.model.eval()
        seen = self.training.rows_seen(step, self.prompts) / self.prompts
        row: LogRow = {"step": step, "split": "eval", "epoch": seen}
        if self.asked.prompts:
            row |= self._answered(step)
        if self.check is not None:
            figures = self.check.measure()
            show_figures(step, figures)
            row |= figures
        self.log.add(row)
        if self.selected is not None:
            self.found.append(Evaluated(step, self._deciding(row, self.selected)))
            self._stop(step)

    def best_step(self) -> int | None:
        """The step of the best checkpoint so far, the first of equals; None where there is none."""
        if self.selected is None:
            return None
        counted = [(step, value) for step, value in self.found if step and value is not None]
        if not counted:
            return None
        sign = 1 if HIGHER_IS_BETTER[self.selected] else -1
        return max(counted, key=lambda one: (sign * one[1], -one[0]))[0]

    def take_best(self) -> BestStep:
        """Load the best checkpoint's weights; where nothing chooses, keep the last."""
        best, values = self.best_step(), dict(self.found)
        is_torn = best is not None and not self._load(best)
        if is_torn:
            best = None
        elif self.selected is not None:
            tell_best(values.get(0), values.get(best or -1), best, self.selected)
        return BestStep(best, self.selected, values.get(best or -1), values.get(0))

    def _load(self, best: int) -> bool:
        path = self.learner.out / "checkpoints" / f"checkpoint-{best}"
        whole = processes.from_first(lambda: whole_best(path))
        if whole is not None:
            load_trained_weights(self.learner.trained, whole)
        return whole is not None

    def _answered(self, step: int) -> dict[str, object]:
        """What the policy earns on the held-out prompts, and how far it has moved on them."""
        count, most = len(self.asked.prompts), self.training.max_bad_fraction
        experience = gather_experience(self.asked, step, range(count), NOISE)
        measured = measures_of(experience)
        if measured["refused"] == count and self.asked.left_out is not None:
            self.asked.left_out.require_held_out(count, self.training.select_by)
        scored = count_scored(experience, step, count, most, held_out=True)
        told = [f"{name} {measured[name]:.3f}" for name in TOLD if measured.get(name) is not None]
        if processes.is_first() and told:
            say(f"  step {step}, held-out prompts: {', '.join(told)}")
        return {**measured, "prompts": scored, "samples": shown_responses(experience)}

    def _deciding(self, row: Mapping[str, Any], selected: str) -> float | None:
        if selected not in row and row.get("prompts"):
            raise UserError(
                f"--select-by {selected}: no held-out prompt has an image with an object list. "
                "Give --objects that have them, or choose by reward."
            )
        value: float | None = row.get(selected)
        return value

    def _stop(self, step: int) -> None:
        """Stop where patience is at its end."""
        patience, selected = self.training.patience, self.selected
        if patience is None or selected is None or not self.found:
            return
        values = [worst(selected) if value is None else value for _, value in self.found]
        since = evaluations_since_best(values, HIGHER_IS_BETTER[selected])
        if since >= patience and step < self.learner.steps:
            self.stopped = True
            tell_stop(step, self.learner.steps, selected, since)
