"""From a batch's log-probs to its loss and what is logged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from veridical.models.logprobs import ResponseLogps
from veridical.models.rendering import Group
from veridical.objectives.base import PairLogps, PairLoss
from veridical.objectives.preference import Preference
from veridical.objectives.wpo import policy_weights
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.train.loop.reward_shift import RunningMean
from veridical.train.loop.step_divergence import StepDivergence
from veridical.train.loop.task import Objective, Outcome


def preference_outcome(
    objective: Preference,
    follow: RunningMean | None = None,
    divergence: StepDivergence | None = None,
) -> Objective:
    """Response 0 is chosen, the others are rejected; logged is the first rejected one.

    Args:
        objective: what is minimized.
        follow: knows the mean log-ratio of the steps before, for objectives that ask for it.
        divergence: knows that of the whole step, for objectives that ask for it.
    """

    def compute(policy: ResponseLogps, reference: Tensor) -> Outcome:
        logps = pair_logps(policy, reference)
        if divergence is not None:
            logps = dataclasses.replace(logps, divergence=divergence.value)
        if follow is None:
            return Outcome(objective(logps).sum(), objective.measures(logps))
        logps = dataclasses.replace(logps, mean_log_ratio=follow.mean)
        ratios = (logps.policy - logps.reference)[:, :2].detach().mean(-1)
        shift = {"mean_log_ratio": torch.full_like(ratios, follow.mean)}
        return Outcome(objective(logps).sum(), objective.measures(logps) | shift, ratios)

    return compute


def pair_logps(policy: ResponseLogps, reference: Tensor) -> PairLogps:
    """What an objective gets of a batch of pairs; the reference's of shape (pairs, k)."""
    factors, lengths = policy.beta_factors, policy.lengths
    if factors is not None:
        factors = factors.to(policy.sums)
    if lengths is not None:
        lengths = lengths.to(policy.sums)
    weights = None
    if policy.log_squares is not None:
        weights = policy_weights(policy.sums, policy.log_squares, policy.counts)
    split = policy.sums.shape[1] - policy.contrasts

    def part(columns: slice, contrast: PairLogps | None = None) -> PairLogps:
        own = None if lengths is None else lengths[:, columns]
        return PairLogps(
            policy.sums[:, columns], reference[:, columns], policy.counts[:, columns], factors,
            own, contrast, labels=policy.labels,
            policy_weights=None if weights is None else weights[:, columns],
        )  # fmt: skip

    return part(slice(split), part(slice(split, None)) if policy.contrasts else None)


def weighed(loss: PairLoss, group: Group) -> Group:
    """A pair with the weights that the loss makes of its answers; weights of its own stay.

    Of several rejected answers the first one says which part of the chosen answer is changed.
    """
    if group.weights:
        return group
    answers = len(group.response_ids) - (group.contrasts or 0)
    chosen, *rejected = (ids.tolist() for ids in group.response_ids[:answers])
    found = [loss.weigh(chosen, one) for one in rejected]
    made = [one for one in found if one is not None]
    if not made:
        return group
    weights = [made[0][0], *(own for _, own in made)]
    weights += weights[: group.contrasts or 0]
    if all(weight == 1 for own in weights for weight in own):
        return group
    as_tensors = tuple(torch.tensor(own, dtype=torch.float64) for own in weights)
    return dataclasses.replace(group, weights=as_tensors)


def require_whole_batch(objective: Preference, batch_size: int, accumulation: int) -> None:
    """Refuse a loss of whole batches where a step's rows are in several, or a single pair is one.

    Raises:
        UserError: batches are accumulated, other processes have some of the rows, a batch is one
            pair, or a step of a loss of whole steps is one row.
    """
    if objective.mismatched and batch_size * accumulation * processes.world_size() == 1:
        option = objective.option_of(lambda loss: loss.mismatched)
        raise UserError(
            f"{option} estimates a divergence from all rows of a step; with --batch-size 1 that is "
            "one row. Set a larger --batch-size or --accumulation."
        )
    if not objective.over_batch:
        return
    option = objective.option_of(lambda loss: loss.over_batch)
    loss = next(one for one in objective.pair_losses if one.over_batch)
    if batch_size == 1:
        raise UserError(f"{option} {loss.reads_batch}; with --batch-size 1 {loss.batch_of_one}")
    if accumulation == 1 and processes.world_size() == 1:
        return
    raise UserError(
        f"{option} {loss.reads_batch}, so all rows of a step have to be in one. Set "
        "--accumulation 1 with a larger --batch-size, in a single process."
    )


TAKERS = {
    "beta_factor": "dpo, ddpo, lddpo, fdpo, mdpo or chip",
    "span_weights": "dpo, ddpo, fdpo, mdpo or chip",
}
"""The losses that take a column."""


def require_used(objective: Preference, groups: Iterable[Group]) -> None:
    """Refuse rows that say what the loss has no use for.

    Raises:
        UserError: a row has a factor on beta, weights, further answers or other pictures for the
            rejected one, and the loss takes none.
    """
    for group in groups:
        if group.beta_factor != 1 and not objective.uses_beta_factors:
            refused = objective.option_of(lambda loss: not loss.uses_beta_factors)
            has = f"the beta_factor {group.beta_factor:g}"
            _refuse_column(group.id, "beta_factor", has, refused)
        if group.weights and not objective.uses_weights:
            refused = objective.option_of(lambda loss: not loss.uses_weights)
            _refuse_column(group.id, "span_weights", "span_weights", refused)
        if group.response_images and group.response_images[1] is not None:
            _refuse_other_pictures(objective, group.id)
        answers = len(group.response_ids) - (group.contrasts or 0)
        if answers > 2 and any(map(_compares_two, objective.pair_losses)):
            raise UserError(
                f"Row {group.id} has more_rejected, and {objective.option_of(_compares_two)} "
                "compares two answers. Set --first-rejected-weight 1, which leaves further ones "
                "out."
            )


def _compares_two(loss: PairLoss) -> bool:
    """Whether it has no use for further rejected answers."""
    return len(loss.views) > 1 or loss.over_batch or loss.two_answers


def _refuse_other_pictures(objective: Preference, id: str) -> None:
    """Refuse a row whose rejected answer has pictures of its own, where a loss takes none."""
    if any(loss.same_pictures for loss in objective.pair_losses):
        option = objective.option_of(lambda loss: loss.same_pictures)
        raise UserError(
            f"Row {id} has rejected_images or rejected_masked, and {option} reads both "
            "answers with images. Leave these columns out, or set --loss dpo, mdpo or symmpo."
        )


def _refuse_column(id: str, column: str, has: str, option: str) -> None:
    raise UserError(
        f"Row {id} has {has}, and {option} takes none. Set --loss {TAKERS[column]}, or "
        "leave the column out."
    )
