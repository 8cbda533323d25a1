"""What preference training minimizes: a loss of each pair, and terms that are added to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from veridical.objectives.base import Described, PairLogps
from veridical.objectives.dpo import DPO
from veridical.objectives.table import AnyPairLoss, AnyTerm
from veridical.runtime.errors import UserError
from veridical.runtime.options import options_of
from veridical.runtime.ranges import SHARE

ROUNDING = 1e-6
"""Part of the log-probs up to which two rewards are the same number."""


@dataclass(frozen=True)
class Preference(Described):
    """What is minimized.

    Attributes:
        loss: which loss of a pair; each has options of its own.
        terms: what is added to it.
        per_token: divide log-probs by their answer's length first (usual for `ipo`).
    """

    loss: AnyPairLoss = DPO()
    terms: tuple[AnyTerm, ...] = ()
    per_token: bool = False

    def __call__(self, logps: PairLogps) -> Tensor:
        """One loss a pair. Shape: (pairs,)."""
        losses = self._average(self.loss(logps.per_token() if self.per_token else logps))
        for term in self.terms:
            losses = losses + term.weight * self._average(term(logps))
        return losses

    def _average(self, losses: Tensor) -> Tensor:
        """Over a pair's rejected answers: there is one."""
        return losses.squeeze(-1)

    @property
    def title(self) -> str:
        """The loss's full name."""
        return self.loss.title

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities are used."""
        return any(part.needs_reference for part in (self.loss, *self.terms))

    @property
    def contrasts(self) -> int:
        """How many of a pair's answers are needed under other images too."""
        return max(part.contrasts for part in (self.loss, *self.terms))

    @property
    def at_start(self) -> float | None:
        """The loss where policy and reference agree; None where it depends on the rows."""
        total: float | None = self.loss.at_start
        for term in self.terms:
            own = term.at_start
            total = None if total is None or own is None else total + term.weight * own
        return total

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        terms = sum(term.weight * term.slope_at_start for term in self.terms)
        return self.loss.slope_at_start + terms

    def with_known_start(self) -> Preference:
        """Without the terms whose value at the start depends on the rows."""
        known = tuple(term for term in self.terms if term.at_start is not None)
        return dataclasses.replace(self, terms=known)

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UserError: names the option.
        """
        super().check()
        for part in (self.loss, *self.terms):
            part.check()
        if self.per_token and self.loss.averages_tokens:
            raise UserError(
                f"--loss {self.loss.name} divides log-probs by their answer's length itself, and "
                "--per-token true would divide them twice. Leave --per-token out."
            )

    def measures(self, logps: PairLogps) -> dict[str, Tensor]:
        """What is logged of each pair, by name; of several rejected answers the first counts.

        Shape of each: (pairs,).
        """
        rewards = self.loss.rewards(logps)
        read = self.loss.as_read(logps)
        sizes = torch.maximum(read.policy.abs(), read.reference.abs())[:, :2].amax(-1).detach()
        beta = logps.scaled(self.loss.beta)
        rounding = (beta.squeeze(-1) if isinstance(beta, Tensor) else beta) * ROUNDING * sizes
        return {
            "rewards_chosen": rewards[:, 0],
            "rewards_rejected": rewards[:, 1],
            "rewards_margin": rewards[:, 0] - rewards[:, 1],
            "rewards_accuracy": pair_accuracy(rewards[:, 0], rewards[:, 1], rounding),
            "logps_chosen": logps.policy[:, 0],
            "logps_rejected": logps.policy[:, 1],
            "chosen_tokens": logps.token_counts[:, 0],
            "rejected_tokens": logps.token_counts[:, 1],
        }

    def describe(self) -> dict[str, Any]:
        """What `run.json`, `start.json`, the model card and the report say of it."""
        return {
            "name": self.loss.name,
            "title": self.title,
            "options": options_of(self),
            "at_start": self.with_known_start().at_start,
            "needs_reference": self.needs_reference,
        }


@dataclass(frozen=True)
class AveragedPreference(Preference):
    """What is minimized.

    Attributes:
        loss: which loss of a pair; each has options of its own.
        terms: what is added to it.
        per_token: divide log-probs by their answer's length first (usual for `ipo`).
        first_rejected_weight: weight of the loss against `rejected` where a pair has
            `more_rejected` answers too, which share the rest; 1 leaves them out.
    """

    first_rejected_weight: Annotated[float, SHARE] = 0.5

    def _average(self, losses: Tensor) -> Tensor:
        return averaged_loss(losses, self.first_rejected_weight)


def averaged_loss(losses: Tensor, first_rejected_weight: float) -> Tensor:
    """Several rejected answers to one chosen one (Amirloo et al. 2024, eq. 5).

    w * loss(chosen, first rejected) + (1 - w) * loss(chosen, second); with more than two, those
    after the first share 1 - w equally (our choice).

    Args:
        losses: the loss against each rejected answer. Shape: (batch, rejected).
        first_rejected_weight: the paper's gamma, in [0, 1]; with a single answer it has all.

    Returns:
        Shape: (batch,).
    """
    if losses.shape[-1] == 1:
        return losses.squeeze(-1)
    rest = (1 - first_rejected_weight) * losses[:, 1:].mean(-1)
    return first_rejected_weight * losses[:, 0] + rest


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
