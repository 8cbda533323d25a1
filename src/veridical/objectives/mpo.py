"""Mixed preference optimization (MPO): which answer is better, how good each is, and to say it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from veridical.objectives.base import Part
from veridical.objectives.bco import BCO
from veridical.objectives.dpo import DPO
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.weighted_sum import WeightedSum
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import ABOVE_ZERO, ANY, WEIGHT


@dataclass(frozen=True)
class MPO(WeightedSum):
    """Mixed preference optimization (MPO).

    0.8 DPO + 0.2 BCO + 1 likelihood (Wang et al. 2024, "Enhancing the reasoning ability of
    multimodal large language models via mixed preference optimization"). The likelihood is a mean
    over the tokens of each answer; in InternVL's code over all tokens of a batch.

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        preference_weight: weight of DPO's loss.
        quality_weight: weight of BCO's loss; 0 leaves it out.
        generation_weight: weight of the chosen answer's negative log-likelihood, per token; 0
            leaves it out.
        reward_shift: the reward between good and bad answers: a number (TRL has 0), or `running`,
            the mean reward of all steps before (as in BCO's paper and InternVL).
    """

    name: ClassVar[str] = "mpo"
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    preference_weight: Annotated[float, ABOVE_ZERO] = 0.8
    quality_weight: Annotated[float, WEIGHT] = 0.2
    generation_weight: Annotated[float, WEIGHT] = 1.0
    reward_shift: Annotated[float | Literal["running"], ANY] = "running"

    @property
    def parts(self) -> tuple[Part, ...]:
        """Preference, quality and likelihood."""
        all_three = (
            Part(self.preference_weight, DPO(self.beta)),
            Part(self.quality_weight, BCO(self.beta, self.reward_shift)),
            Part(self.generation_weight, Likelihood(1.0)),
        )
        return tuple(part for part in all_three if part.weight)

    def with_known_start(self) -> Self:
        """Without the likelihood."""
        return dataclasses.replace(self, generation_weight=0.0)

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UserError: names the option.
        """
        super().check()
        if not self.quality_weight and self.reward_shift != "running":
            raise UserError(
                "--reward-shift is a part of MPO's quality loss, which --quality-weight 0 leaves "
                "out. Leave --reward-shift out, or set --quality-weight above 0."
            )
