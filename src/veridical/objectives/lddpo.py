"""LD-DPO: what the longer answer has beyond the length of the shorter one counts less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from veridical.objectives.dpo import DPO
from veridical.runtime.ranges import Range


@dataclass(frozen=True)
class LDDPO(DPO):
    """Length-desensitized direct preference optimization (LD-DPO).

    Attributes:
        excess_weight: weight of the longer answer's tokens beyond the length of the shorter one;
            the others have weight 1. The paper's alpha.
    """

    name: ClassVar[str] = "lddpo"
    # Its weights come from the lengths of two answers: other weights would replace them, and the
    # chosen answer has other ones beside each rejected answer.
    uses_weights: ClassVar[bool] = False
    two_answers: ClassVar[bool] = True
    excess_weight: Annotated[float, Range(0, 1, below=True)] = 0.5

    def weigh(
        self, chosen: Sequence[int], rejected: Sequence[int]
    ) -> tuple[list[float], list[float]]:
        """The weight of each token of two answers (Liu et al. 2024, eq. 9)."""
        shared = min(len(chosen), len(rejected))
        kept = [1.0] * shared
        more = (len(chosen) - shared, len(rejected) - shared)
        return kept + [self.excess_weight] * more[0], kept + [self.excess_weight] * more[1]
