"""KTO: is an answer good or bad, each by itself, against what the policy has moved on the whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.ranges import ABOVE_ZERO


@dataclass(frozen=True)
class KTO(PairLoss):
    """Kahneman-Tversky optimization (KTO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        desirable_weight: weight of good answers; times their number it should be 1 to 4/3 times the
            same of bad ones (the paper's eq. 8).
        undesirable_weight: weight of bad answers.
    """

    name: ClassVar[str] = "kto"
    two_answers: ClassVar[bool] = True
    mismatched: ClassVar[bool] = True
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    desirable_weight: Annotated[float, ABOVE_ZERO] = 1.0
    undesirable_weight: Annotated[float, ABOVE_ZERO] = 1.0

    @property
    def at_start(self) -> float | None:
        """The loss where policy and reference agree; with two weights it depends on the rows."""
        same = self.desirable_weight == self.undesirable_weight
        return self.desirable_weight / 2 if same else None

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return max(self.desirable_weight, self.undesirable_weight) * self.beta / 4

    def with_known_start(self) -> Self:
        """With both weights 1: else the first loss depends on how many rows are good ones."""
        return dataclasses.replace(self, desirable_weight=1.0, undesirable_weight=1.0)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss of each row; of a pair the mean of its two answers. Shape: (rows, 1)."""
        shift, ratios = estimated_kl(logps), logps.policy - logps.reference
        good = self.desirable_weight * kto_loss(ratios[:, :1] - shift, self.beta)
        bad = self.undesirable_weight * kto_loss(shift - ratios[:, -1:], self.beta)
        return (good + bad) / 2 if logps.labels is None else torch.where(logps.labels, good, bad)


def estimated_kl(logps: PairLogps) -> Tensor:
    """How far the policy has moved on answers to other prompts; 0 or more, without gradient.

    The mean log-ratio of a step's mismatched answers (Ethayarajh et al. 2024). As in
    TRL, but that there an answer's other prompt is its neighbor's in the batch, which changes with
    the order of the rows, and here in the data: so the reference's log-probs can be stored.

    Args:
        logps: with mismatched answers as `contrast`.

    Returns:
        In nats. Shape: ().
    """
    if logps.divergence is not None:
        return logps.divergence.of_sums
    return mismatched_ratios(logps).mean().clamp(min=0)


def mismatched_ratios(logps: PairLogps) -> Tensor:
    """Log-ratios of answers to other prompts, without gradient. Shape: (rows, answers)."""
    other = logps.contrast
    assert other is not None  # asked for by `mismatched`
    return (other.policy - other.reference).detach()


def kto_loss(gains: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta * gain) (Ethayarajh et al. 2024, eq. 7).

    Args:
        gains: of a good answer its log-ratio less the divergence, of a bad one the reverse. Shape:
            any.
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        1/2 where policy and reference agree. Shape: as `gains`.
    """
    return (-beta * gains).sigmoid()
