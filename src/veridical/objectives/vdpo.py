"""Vision-guided DPO (V-DPO): what an answer gains by its image counts more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import (
    CHOSEN_ELSEWHERE,
    REJECTED_ELSEWHERE,
    PairLogps,
    PairLoss,
    View,
)
from veridical.objectives.dpo import dpo_loss
from veridical.objectives.mdpo import image_loss
from veridical.runtime.ranges import ABOVE_ZERO, WEIGHT, Range


@dataclass(frozen=True)
class VDPO(PairLoss):
    """Vision-guided direct preference optimization (V-DPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        guidance: gamma, the weight of an answer's log-probability under its image; gamma - 1 times
            that under `contrast_images`, such as black ones, is subtracted.
        image_weight: weight of the term that prefers the chosen answer under its own image to the
            same answer under `contrast_images`; 0 leaves it out.
    """

    name: ClassVar[str] = "vdpo"
    views: ClassVar[tuple[View, ...]] = (CHOSEN_ELSEWHERE, REJECTED_ELSEWHERE)
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    guidance: Annotated[float, Range(1, above=True)] = 2.0
    image_weight: Annotated[float, WEIGHT] = 0.0

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        other = logps.contrast
        assert other is not None  # asked for by `views`
        chosen, rejected, *reference = logps.branches
        guided = (
            guided_logps(chosen, other.policy[:, :1], self.guidance),
            guided_logps(rejected[:, :1], other.policy[:, 1:2], self.guidance),
        )
        loss = dpo_loss(*guided, reference[0], reference[1][:, :1], self.beta)
        if self.image_weight:
            seen, unseen = other.policy[:, :1], other.reference[:, :1]
            loss = loss + self.image_weight * image_loss(
                chosen, reference[0], seen, unseen, self.beta
            )
        return loss


def guided_logps(logps: Tensor, without_image: Tensor, guidance: float) -> Tensor:
    """Gamma log pi(y | image) - (gamma - 1) log pi(y | no image) (Xie et al. 2024, V-DPO).

    The second part has no gradient. In the authors' script gamma is 0, which leaves that part
    alone: a loss without a gradient, by reading.

    Args:
        logps: summed log-probabilities under the image. Shape: (batch, k).
        without_image: under the other image. Shape: (batch, k).
        guidance: gamma; > 1.
    """
    return guidance * logps - (guidance - 1) * without_image.detach()
