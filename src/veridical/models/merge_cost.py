"""What rounding costs where an adapter is merged into weights of half precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOO_MUCH = 0.1
"""Share of a change in scores from which on rounding is too much (our choice)."""
TOO_MUCH_ESTIMATED = TOO_MUCH / 4
"""The same for `MergeCost.lost`, which was up to 3.9 times too low on tiny trained models."""


@dataclass(frozen=True)
class RoundedWeight:
    """One weight tensor that an adapter was merged into.

    Attributes:
        numbers: how many it has.
        changed: how many of them are others than before.
        update: norm of what the adapter adds.
        noise: norm of what rounding adds to that.
        reach: share of the directions of its inputs that the adapter can change: rank / width.
    """

    numbers: int
    changed: int
    update: float
    noise: float
    reach: float = 1.0


@dataclass(frozen=True)
class MergeCost:
    """What rounding did to an adapter.

    Attributes:
        adapter: its folder.
        dtype: of the merged weights.
        changed: share of the numbers in these that are others than before.
        noise: root mean square of the rounding errors, as a multiple of that of the update.
        lost: what is left of that noise in what a model says, as a share of what the adapter
            changes there. Rounding errors are independent, so along any direction they have the
            size of a single one. An update of rank r in a layer of d inputs holds about sqrt(r / d)
            of its norm along the direction that changes an answer most. Tiny trained models lost
            0.3 to 3.9 times this share. Adapters of random numbers, which change answers far less
            for their size, lost 20 to 100 times it. Trainings measure it on their rows.
    """

    adapter: str
    dtype: str
    changed: float
    noise: float
    lost: float

    @property
    def is_too_much(self) -> bool:
        """Whether more is lost than should be without a word."""
        return not self.lost <= TOO_MUCH_ESTIMATED


def rounded_weight(
    before: Tensor, wide: Tensor, after: Tensor, rank: int | None = None
) -> RoundedWeight:
    """Compare a weight tensor before merging, after it, and after rounding; all of one shape.

    Args:
        before: its numbers before.
        wide: merged.
        after: merged and rounded.
        rank: of the update; None for that of the tensor.
    """
    update, noise = wide - before.to(wide), after.to(wide) - wide
    return RoundedWeight(
        numbers=wide.numel(),
        changed=int((after != before).count_nonzero()),
        update=float(torch.linalg.vector_norm(update)),
        noise=float(torch.linalg.vector_norm(noise)),
        reach=1.0 if rank is None else min(1.0, rank / wide.shape[-1]),
    )


def merge_cost(
    adapter: str, dtype: torch.dtype, weights: Sequence[RoundedWeight]
) -> MergeCost | None:
    """What rounding did to all weight tensors of an adapter; None where it changes none."""
    touched = [weight for weight in weights if weight.update]
    if not touched:
        return None
    numbers = sum(weight.numbers for weight in touched)
    update = math.hypot(*(weight.update for weight in touched))
    noise = math.hypot(*(weight.noise for weight in touched))
    single = math.hypot(*(w.noise / math.sqrt(w.numbers * w.reach) for w in touched))
    return MergeCost(
        adapter,
        str(dtype).removeprefix("torch."),
        changed=sum(weight.changed for weight in touched) / numbers,
        noise=noise / update,
        lost=single / update,
    )


def describe_merge(cost: MergeCost) -> str:
    """What rounding cost, in a line, with what to set where that is too much."""
    line = (
        f"{cost.adapter} is merged and rounded to {cost.dtype}. In a single weight, the noise of "
        f"rounding is {cost.noise:.2g} times the update (root mean square). In answers most of it "
        f"cancels out: by estimate it is {cost.lost:.1%} of what a trained adapter changes there "
        "(docs/training.md, Adapters merged at load)."
    )
    if not cost.is_too_much:
        return line
    sure = "is" if cost.lost > TOO_MUCH else "may in truth be"
    advice = "set --dtype float32 to keep the whole update."
    return f"{line} That {sure} more than {TOO_MUCH:.0%}: {advice}"
