"""A loss that is the sum of others, each times its weight and each logged by itself."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss, Part


@dataclass(frozen=True)
class WeightedSum(PairLoss):
    """A sum of losses and terms."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What it is the sum of; at least one is a loss of a pair."""

    @property
    def lead(self) -> PairLoss:
        """The loss whose rewards are logged: the first one that compares with the reference.

        Where none does, the first one.
        """
        losses = [one for _, one in self.parts if isinstance(one, PairLoss)]
        return next((one for one in losses if one.needs_reference), losses[0])

    @property
    def at_start(self) -> float | None:
        """The loss where policy and reference agree; None where it depends on the rows."""
        return sum_at_start(self.parts)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return sum(weight * one.slope_at_start for weight, one in self.parts)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        total, *others = (weight * one(logps) for weight, one in self.parts)
        for other in others:
            total = total + other
        return total

    def rewards(self, logps: PairLogps) -> Tensor:
        """The first loss's rewards, without gradient. Shape: (pairs, 1 + rejected)."""
        return self.lead.rewards(logps)

    def check(self) -> None:
        """Refuse settings that make no sense, of any part.

        Raises:
            UserError: names the option.
        """
        super().check()
        for _, one in self.parts:
            one.check()


def sum_at_start(parts: tuple[Part, ...]) -> float | None:
    """A sum's value where policy and reference agree; None where a part's depends on the rows."""
    total = 0.0
    for weight, one in parts:
        own = one.at_start
        if own is None:
            return None
        total += weight * own
    return total
