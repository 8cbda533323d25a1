"""Mixed preference optimization (MPO): which answer is better, and how good each of them is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.objectives.bco import bco_loss
from veridical.objectives.dpo import dpo_loss
from veridical.runtime.ranges import ABOVE_ZERO, ANY, WEIGHT


@dataclass(frozen=True)
class MPO(PairLoss):
    """Mixed preference optimization (MPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        preference_weight: weight of DPO's loss.
        quality_weight: weight of BCO's loss. The third part is `--nll-weight 1`.
        reward_shift: the reward between good and bad answers; TRL has 0, InternVL a running
            mean.
    """

    name: ClassVar[str] = "mpo"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    preference_weight: Annotated[float, WEIGHT] = 0.8
    quality_weight: Annotated[float, WEIGHT] = 0.2
    reward_shift: Annotated[float, ANY] = 0.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        quality = math.log(2 + 2 * math.cosh(self.reward_shift))
        return self.preference_weight * math.log(2) + self.quality_weight * quality

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta * (self.preference_weight + 2 * self.quality_weight)

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected).

        0.8 DPO + 0.2 BCO (Wang et al. 2024, "Enhancing the reasoning ability of multimodal large
        language models via mixed preference optimization").
        """
        preference = self.preference_weight * dpo_loss(*logps.branches, self.beta)
        quality = bco_loss(*logps.branches, self.beta, self.reward_shift)
        return preference + self.quality_weight * quality
