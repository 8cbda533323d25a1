"""CHiP without its segment and token levels: the pair and the image in one margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import CHOSEN_ELSEWHERE, PairLogps, View
from veridical.objectives.dpo import DPO


@dataclass(frozen=True)
class CHiP(DPO):
    """Cross-modal hierarchical preference optimization (CHiP) of whole answers and images.

    Its segment and token levels are left out.
    """

    name: ClassVar[str] = "chip"
    views: ClassVar[tuple[View, ...]] = (CHOSEN_ELSEWHERE,)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return 2 * self.beta  # the chosen answer stands in the margin twice

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        other = logps.contrast
        assert other is not None  # asked for by `views`
        ratios = logps.policy - logps.reference
        contrast = other.policy[:, :1] - other.reference[:, :1]
        return chip_loss(
            ratios[:, :1], ratios[:, 1:], contrast, logps.scaled(self.beta), self.label_smoothing
        )


def chip_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    contrast_logratios: Tensor,
    beta: float | Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """CHiP's response and visual margins in one sigmoid (Fu et al. 2025, as its code adds them).

    -log sigmoid(beta ((h_w - h_l) + (h_w - h_c))), h_c being the log-ratio of the chosen answer
    under another image. The paper's third margin, a KL divergence over the vocabulary at every
    token, is left out. So is its segment level: its code weighs the tokens in which the two answers
    differ as DDPO does, by 4 for LLaVA and 2 for Muffin.

    Args:
        chosen_logratios: log-probability under the policy less that under the reference. Shape:
            (batch,).
        rejected_logratios: of the rejected responses. Shape: (batch,).
        contrast_logratios: of the chosen responses under the other images. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    margin = beta * (2 * chosen_logratios - rejected_logratios - contrast_logratios)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
