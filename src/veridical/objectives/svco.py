"""S-VCO: every answer for the picture that shows it, and against the one that does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import CHOSEN_ELSEWHERE, PairLogps, PairLoss, View
from veridical.runtime.ranges import ABOVE_ZERO, WEIGHT


@dataclass(frozen=True)
class SVCO(PairLoss):
    """Symmetrical visual contrastive optimization (S-VCO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        rejected_weight: weight of the same terms for the rejected answer, which is the right one to
            `contrast_images`; 0 leaves the second direction out.
    """

    name: ClassVar[str] = "svco"
    same_pictures: ClassVar[bool] = True
    views: ClassVar[tuple[View, ...]] = (
        CHOSEN_ELSEWHERE,
        View("rejected", "contrast_images", is_right=True),
        View("chosen", "none"),
        View("rejected", "none"),
    )
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    rejected_weight: Annotated[float, WEIGHT] = 1.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return 2 * (1 + self.rejected_weight) * math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * (1 + self.rejected_weight)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss of each pair. Shape: (pairs, 1)."""
        other = logps.contrast
        assert other is not None  # asked for by `views`
        ratios = logps.policy - logps.reference
        others = other.policy - other.reference
        elsewhere, unseen = others[:, :2], others[:, 2:4]
        chosen = attention_loss(ratios[:, :1], unseen[:, :1], elsewhere[:, :1], self.beta)
        rejected = attention_loss(elsewhere[:, 1:], unseen[:, 1:], ratios[:, 1:2], self.beta)
        return chosen + self.rejected_weight * rejected


def attention_loss(matching: Tensor, unseen: Tensor, other: Tensor, beta: float) -> Tensor:
    """An answer's own picture above none, and none above another one (Wu et al. 2025, S-VCO).

    Args:
        matching: log-ratio of an answer under the picture that shows it. Shape: (batch, 1).
        unseen: without a picture. Shape: (batch, 1).
        other: under the other picture. Shape: (batch, 1).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        2 ln 2 where policy and reference agree. Shape: (batch, 1).
    """
    return -F.logsigmoid(beta * (matching - unseen)) - F.logsigmoid(beta * (unseen - other))
