"""What training optimizes: a scorer, and an objective that turns its scores into a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import TrainerCallback

from veridical.models.logprobs import ResponseLogps
from veridical.models.rendering import Group
from veridical.train.loop.reward_shift import RunningMean
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.step_divergence import StepDivergence


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of one batch.

    Attributes:
        loss_sum: summed over the batch's items. Shape: ().
        measures: what is logged, one value a group. Shape of each: (groups,).
        log_ratios: each group's mean log-ratio, for an objective that follows it. Shape: (groups,).
    """

    loss_sum: Tensor
    measures: dict[str, Tensor]
    log_ratios: Tensor | None = None


Objective = Callable[[ResponseLogps, Tensor], Outcome]
"""Takes the policy's log-probs and the reference's (groups, k); gives the outcome."""


@dataclass(frozen=True)
class Task:
    """What is optimized.

    Attributes:
        scorer: the policy, and the reference where it runs in the step.
        objective: from log-probs to losses.
        count: how many items a batch of groups has: pairs, or tokens.
        share_prefix: the layout.
        reference_in_step: whether the reference runs in the step, or its log-probs come with the
            items.
        held_to_start: whether the reference is what training starts from, so that before the first
            step no answer has more reward than another.
        moves: how the reference follows the policy, if it does; for the proof of the start.
        callbacks: what the task does at steps.
        follow: gets the log-ratios of what is trained on, where the objective reads their mean.
        divergence: is estimated from a step's answers to other prompts, where the objective reads
            it.
    """

    scorer: Scorer
    objective: Objective
    count: Callable[[Sequence[Group]], int]
    share_prefix: bool
    reference_in_step: bool = False
    held_to_start: bool = False
    follow: RunningMean | None = None
    divergence: StepDivergence | None = None
    moves: str = ""
    callbacks: Sequence[TrainerCallback] = ()
