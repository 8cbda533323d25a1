"""Several rejected answers to one chosen one: their losses are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from veridical.objectives.preference import Preference
from veridical.runtime.ranges import SHARE


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
