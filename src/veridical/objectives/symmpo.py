"""SymMPO: two similar pictures, each with its right answer, compared in both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import CHOSEN_ELSEWHERE, PairLogps, PairLoss, View
from veridical.objectives.mdpo import anchor_loss
from veridical.runtime.ranges import ABOVE_ZERO, WEIGHT


@dataclass(frozen=True)
class SymMPO(PairLoss):
    """Symmetric multimodal preference optimization (SymMPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        symmetric_weight: weight of both answers' preference for their own picture.
        anchor_weight: weight of the terms that keep both right answers' rewards above 0.
        consistency_weight: weight of the squared difference of the two preferences, in nats.
    """

    name: ClassVar[str] = "symmpo"
    views: ClassVar[tuple[View, ...]] = (
        CHOSEN_ELSEWHERE,
        View("contrast_chosen", "contrast_images"),
        View("contrast_chosen", "images"),
    )
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    symmetric_weight: Annotated[float, WEIGHT] = 0.5
    anchor_weight: Annotated[float, WEIGHT] = 1.0
    consistency_weight: Annotated[float, WEIGHT] = 1e-4

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return (1 + 2 * self.symmetric_weight + 2 * self.anchor_weight) * math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * (1 + 2 * self.symmetric_weight + self.anchor_weight)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        other, beta = logps.contrast, self.beta
        assert other is not None  # asked for by `views`
        ratios = logps.policy - logps.reference
        chosen, rejected = ratios[:, :1], ratios[:, 1:]
        others = other.policy - other.reference
        elsewhere, second, second_here = others[:, :1], others[:, 1:2], others[:, 2:3]
        first_margin, second_margin = chosen - second_here, second - elsewhere
        symmetric = -F.logsigmoid(beta * first_margin) - F.logsigmoid(beta * second_margin)
        anchors = anchor_loss(chosen, 0 * chosen, beta) + anchor_loss(second, 0 * second, beta)
        return (
            -F.logsigmoid(beta * (chosen - rejected))
            + self.symmetric_weight * symmetric
            + self.anchor_weight * anchors
            + self.consistency_weight * (first_margin - second_margin) ** 2
        )
