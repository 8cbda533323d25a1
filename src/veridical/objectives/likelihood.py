"""The likelihood of an answer: a loss of its own (SFT), or a term beside another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from veridical.objectives.base import PairLogps, Term
from veridical.runtime.ranges import WEIGHT


@dataclass(frozen=True)
class Likelihood(Term):
    """The chosen answer's likelihood.

    Attributes:
        nll_weight: weight of the chosen answer's negative log-likelihood, per token; 0 leaves it
            out.
    """

    name: ClassVar[str] = "nll"
    needs_reference: ClassVar[bool] = False
    nll_weight: Annotated[float, WEIGHT] = 0.0

    @property
    def weight(self) -> float:
        """What it is multiplied by."""
        return self.nll_weight

    def __call__(self, logps: PairLogps) -> Tensor:
        """The chosen answers' negative log-likelihood per token. Shape: (pairs, 1)."""
        return mean_token_nll(logps.policy[:, :1], logps.lengths[:, :1])


def sequence_nll(logps: Tensor) -> Tensor:
    """Negative log-likelihood of each response: supervised fine-tuning's loss. Shape as given."""
    return -logps


def mean_token_nll(logps: Tensor, token_counts: Tensor) -> Tensor:
    """Negative log-likelihood of each response, averaged over its tokens.

    Args:
        logps: summed log-probabilities. Shape: (batch,).
        token_counts: response lengths in tokens, at least 1. Shape: (batch,).

    Returns:
        Shape: (batch,).
    """
    return -logps / token_counts
