"""What is logged of a pair: implicit rewards, and whether the chosen answer has more."""

from __future__ import annotations

from torch import Tensor


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float) -> Tensor:
    """DPO's implicit reward, beta * log(policy / reference), without gradient. Shape as given."""
    return beta * (policy_logps - reference_logps).detach()


def pair_accuracy(chosen: Tensor, rejected: Tensor, rounding: Tensor | float = 0.0) -> Tensor:
    """1 where the chosen response has more, 0 where it has less, and 1/2 where they are equal.

    Before training all are equal: nothing is known, which is not to be wrong everywhere.

    Args:
        chosen: rewards. Shape: any.
        rejected: rewards. Shape: the same.
        rounding: up to which difference they count as equal. Shape: the same, or a number.
    """
    margin = chosen - rejected
    return (margin > rounding).double() + (margin.abs() <= rounding).double() / 2
