"""Which held-out figure decides: over the best checkpoint, and over when to stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted, say
from veridical.scoring.object_scores import COUNTED
from veridical.train.loop.trainer_keys import REINFORCED

CHECKED = {
    f"{name}/{metric.name}": metric.better == "higher"
    for name, (description, formulas) in COUNTED.items()
    for metric in description.metrics
    if metric.better is not None and metric.name in formulas
}
"""Figures of `--check-images` that may decide, and whether higher values are better."""

OF_ROWS = ("loss", "rewards_accuracy", "rewards_margin")
"""Figures of held-out rows, for the commands that learn answers of rows; the first by default."""

OF_RESPONSES = ("reward", "exact_score")
"""Figures of the responses to held-out prompts, the first by default."""

HIGHER_IS_BETTER = {
    "loss": False, "rewards_accuracy": True, "rewards_margin": True,
    "reward": True, "exact_score": True,
    **CHECKED,
}  # fmt: skip
"""Figures that may decide: those of `OF_ROWS` or `OF_RESPONSES`, and of `CHECKED`."""


def benchmark_of(figure: str) -> str:
    """The benchmark that a figure of `CHECKED` is of."""
    return figure.partition("/")[0]


def check_selection(
    select_by: str,
    patience: int | None,
    held_out: float,
    checked: Sequence[str] = (),
    own: Sequence[str] = OF_ROWS,
) -> None:
    """Refuse what can't decide.

    Args:
        select_by: the figure.
        patience: evaluations.
        held_out: share of rows.
        checked: benchmarks that evaluations ask for, such as `chair`.
        own: figures of what this command holds out; the first by default.

    Raises:
        UserError: a figure that this command does not have, a patience below 1, no held-out rows to
            be patient with, or a figure of images that are not asked about.
    """
    # What a `Training` of Python has unless it says more decides nothing where nothing is held out.
    idle = select_by == OF_ROWS[0] and patience is None and not held_out
    if select_by not in (*own, *CHECKED) and not idle:
        raise UserError(
            f"--select-by {select_by} is none of {', '.join((*own, *CHECKED))}, which are "
            f"what evaluations of this command give.{_meant(select_by)}"
        )
    if patience is not None and patience < 1:
        raise UserError(f"--patience is {patience}; give 1 or more evaluations.")
    if select_by in CHECKED:
        needed = benchmark_of(select_by)
        if needed not in checked:
            missing = f"--check-by {' '.join([*checked, needed])}"
            raise UserError(
                f"--select-by {select_by} is counted on images with known objects. Give "
                + (missing if checked else "--check-images and --check-objects")
                + "."
            )
        return
    asked = "--patience" if patience is not None else "--select-by"
    if (patience is not None or select_by not in (own[0], OF_ROWS[0])) and not held_out:
        raise UserError(
            f"{asked} goes by {asked_of(select_by)}, and none are held out. Set --held-out above 0 "
            "with a command that has it, or leave it out."
        )


def figures_of(command: str) -> tuple[str, ...]:
    """The figures of what a command holds out, the one that decides by default first.

    Args:
        command: its words, such as "train dpo".
    """
    if command in REINFORCED:
        return OF_RESPONSES
    return OF_ROWS[:1] if command in ("train sft", "train steerlm") else OF_ROWS


def _meant(given: str) -> str:
    """A hint at the figure of `CHECKED` whose benchmark was not named."""
    meant = [name for name in CHECKED if name.partition("/")[2] == given]
    return f" Set --select-by {meant[0]}." if meant else ""


def asked_of(name: str) -> str:
    """What a figure that decides is measured on, in words."""
    if name in CHECKED:
        return "checked images"
    return "held-out prompts" if name in OF_RESPONSES else "held-out rows"


def in_words(name: str) -> str:
    """A figure that decides, as messages and cards call it."""
    return f"held-out {name}" if name in ("loss", *OF_RESPONSES) else name


def improves(value: float, before: float, name: str) -> bool:
    """Whether a figure is better than another one."""
    return value > before if HIGHER_IS_BETTER[name] else value < before


def worst(name: str) -> float:
    """What a figure counts as where there was nothing to count."""
    return -math.inf if HIGHER_IS_BETTER[name] else math.inf


def evaluations_since_best(values: Sequence[float], higher: bool) -> int:
    """How many evaluations came after the best one; the first of equals counts.

    Args:
        values: at each evaluation, that of step 0 included.
        higher: whether higher values are better.
    """
    best = (max if higher else min)(values)
    return len(values) - 1 - list(values).index(best)


class StopEarly(TrainerCallback):
    """Ends training when a held-out figure was not improved on for some evaluations.

    It has no state but the evaluations that a checkpoint keeps, so that a resumed run stops where
    the run itself would have.
    """

    def __init__(self, select_by: str, patience: int) -> None:
        self.name, self.patience = select_by, patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """A run that had stopped has nothing to go on with."""
        self._look(state, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Stop where patience is at its end."""
        self._look(state, control)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        key = f"eval_{self.name}"
        values = [row[key] for row in state.log_history if row.get(key) is not None]
        if not values:
            return
        since = evaluations_since_best(values, HIGHER_IS_BETTER[self.name])
        if since < self.patience or state.global_step >= state.max_steps:
            return
        control.should_training_stop = True
        tell_stop(state.global_step, state.max_steps, self.name, since)


def tell_stop(step: int, steps: int, name: str, since: int) -> None:
    """Say that patience is at its end; the first process does.

    Args:
        step: that the run stops at.
        steps: that it would have had.
        name: of the figure that decides.
        since: evaluations since its best.
    """
    if processes.is_first():
        say(
            f"Stopped at step {step} of {steps}: {name} on the {asked_of(name)} was not improved "
            f"on for {counted(since, 'evaluations')}. "
            "--extend true with a larger --patience goes on."
        )
