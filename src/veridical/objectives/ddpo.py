"""Dense DPO (DDPO): what was corrected in an answer counts more than what was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated, ClassVar

from veridical.objectives.dpo import DPO
from veridical.runtime.ranges import ABOVE_ZERO

SHORTEST_MATCH = 3
"""Tokens that two answers need in a row to count as unchanged, as in RLHF-V's code."""


@dataclass(frozen=True)
class DDPO(DPO):
    """Dense direct preference optimization (DDPO).

    Attributes:
        changed_weight: weight of the tokens in which chosen and rejected differ; all others have
            weight 1. The released run has 1.1 with sums, the paper 5 with `--per-token true`.
    """

    name: ClassVar[str] = "ddpo"
    changed_weight: Annotated[float, ABOVE_ZERO] = 1.1

    def weigh(
        self, chosen: Sequence[int], rejected: Sequence[int]
    ) -> tuple[list[float], list[float]]:
        """The weight of each token of two answers."""
        return change_weights(chosen, rejected, self.changed_weight)


def change_weights(
    chosen: Sequence[int], rejected: Sequence[int], weight: float
) -> tuple[list[float], list[float]]:
    """Weights of the tokens of two answers by where they differ (Yu et al. 2024, RLHF-V, eq. 3).

    A changed part has tokens in both answers; what one of them only adds is not weighed (RLHF-V's
    code). An answer's log-probability is the sum of weight times log-probability of its tokens; the
    paper divides it by the sum of the weights, which is `--per-token true`.

    Args:
        chosen: token ids.
        rejected: token ids.
        weight: of a token in a changed part; the others have 1.

    Returns:
        A weight for each token of chosen and of rejected.
    """
    weights = [1.0] * len(chosen), [1.0] * len(rejected)
    matcher = SequenceMatcher(None, chosen, rejected, autojunk=False)
    at = (0, 0)
    for block in matcher.get_matching_blocks():
        last = block.size == 0
        if block.size < SHORTEST_MATCH and not last:
            continue
        if block.a > at[0] and block.b > at[1]:
            weights[0][at[0] : block.a] = [weight] * (block.a - at[0])
            weights[1][at[1] : block.b] = [weight] * (block.b - at[1])
        at = block.a + block.size, block.b + block.size
    return weights
