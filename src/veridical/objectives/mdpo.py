"""Multimodal DPO (mDPO): a pair, the same answer under another image, and an anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import CHOSEN_ELSEWHERE, PairLogps, View
from veridical.objectives.dpo import DPO, dpo_loss
from veridical.runtime.ranges import WEIGHT


@dataclass(frozen=True)
class MDPO(DPO):
    """Multimodal direct preference optimization (mDPO).

    Attributes:
        image_weight: weight of the term that prefers the chosen answer under its own image to the
            same answer under the pair's `contrast_images`.
        anchor_weight: weight of the term that keeps the chosen answer's reward above 0.
    """

    name: ClassVar[str] = "mdpo"
    views: ClassVar[tuple[View, ...]] = (CHOSEN_ELSEWHERE,)
    image_weight: Annotated[float, WEIGHT] = 1.0
    anchor_weight: Annotated[float, WEIGHT] = 1.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return (1 + self.image_weight + self.anchor_weight) * math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        # The anchor sees one branch alone.
        return self.beta * (1 + self.image_weight + self.anchor_weight / 2)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        beta, other = logps.scaled(self.beta), logps.contrast
        assert other is not None  # asked for by `views`
        chosen = logps.policy[:, :1], logps.reference[:, :1]
        image = image_loss(*chosen, other.policy[:, :1], other.reference[:, :1], beta)
        terms = self.image_weight * image + self.anchor_weight * anchor_loss(*chosen, beta)
        pair: Tensor = super().__call__(logps)
        return pair + terms


def image_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    policy_contrast_logps: Tensor,
    reference_contrast_logps: Tensor,
    beta: float | Tensor,
) -> Tensor:
    """An answer under its own image against itself under another (Wang et al. 2024, mDPO).

    Policy and reference see the same other image; in the authors' code each draws a crop of its
    own.

    Args:
        policy_logps: summed log-probabilities of the answer. Shape: (batch,).
        reference_logps: under the reference. Shape: (batch,).
        policy_contrast_logps: of the same answer under the other image. Shape: (batch,).
        reference_contrast_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    return dpo_loss(
        policy_logps, policy_contrast_logps, reference_logps, reference_contrast_logps, beta
    )


def anchor_loss(policy_logps: Tensor, reference_logps: Tensor, beta: float | Tensor) -> Tensor:
    """That an answer's reward is above 0: -log sigmoid(beta * log-ratio), as in mDPO.

    Args:
        policy_logps: summed log-probabilities of the answer. Shape: (batch,).
        reference_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    return -F.logsigmoid(beta * (policy_logps - reference_logps))
