"""What preference training reads, and what it optimizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from veridical.data.record_kinds import Kind
from veridical.models.policy import Policy
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.preference import Preference
from veridical.train.loop.following import Following, MoveReference
from veridical.train.loop.mismatched import with_mismatched
from veridical.train.loop.outcomes import preference_outcome, require_used, weighed
from veridical.train.loop.reference import Reference
from veridical.train.loop.reward_shift import RunningMean
from veridical.train.loop.rows import TrainingRows, longest_row, read_training_rows
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.step_divergence import StepDivergence
from veridical.train.loop.task import Task
from veridical.train.options import Training


def read_preferences(
    policy: Policy, data: Path, kind: Kind, objective: AveragedPreference, training: Training
) -> TrainingRows:
    """Read the rows of a file as the objective needs them.

    Args:
        policy: whose template, tokenizer and processor are used.
        data: the file.
        kind: of its rows.
        objective: says which answers, images and weights it reads.
        training: the run's options.

    Raises:
        UserError: the file can't be read, or has what the objective would ignore.
    """
    more = objective.first_rejected_weight < 1
    read = read_training_rows(
        policy, data, kind, ("chosen", "rejected"), training, more, objective.views
    )
    require_used(objective, read.groups)
    read = read.changed(partial(weighed, objective.loss))
    if objective.mismatched:
        option = objective.option_of(lambda loss: loss.mismatched)
        read = with_mismatched(read, longest_row(policy, training), option)
    return read


def preference_task(
    policy: Policy,
    reference: Reference,
    second: Policy | None,
    objective: Preference,
    share_prefix: bool,
    training: Training,
    following: Following | None = None,
) -> Task:
    """The policy and its reference, and from their log-probabilities to the loss.

    Args:
        policy: the model that is trained.
        reference: what it is compared with.
        second: that model, where it runs in the step beside the policy.
        objective: what is minimized.
        share_prefix: the layout.
        training: the run's options.
        following: how the reference follows the policy; None where it stays.
    """
    dropout, squares = training.model_dropout, objective.needs_squares
    scorer = Scorer(policy, second, model_dropout=dropout, squares=squares)
    follow = RunningMean() if objective.follows_rewards else None
    divergence = StepDivergence() if objective.mismatched else None
    return Task(
        scorer,
        preference_outcome(objective, follow, divergence),
        len,
        share_prefix,
        reference.in_step,
        reference.is_start,
        follow,
        divergence,
        "" if following is None else str(following),
        [] if following is None else [MoveReference(scorer, following)],
    )
