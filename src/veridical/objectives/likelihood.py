"""The likelihood of an answer, as a loss or as a term of one."""

from __future__ import annotations

from torch import Tensor


def mean_token_nll(logps: Tensor, token_counts: Tensor) -> Tensor:
    """Negative log-likelihood of each response, averaged over its tokens.

    Args:
        logps: summed log-probabilities. Shape: (batch,).
        token_counts: response lengths in tokens, at least 1. Shape: (batch,).

    Returns:
        Shape: (batch,).
    """
    return -logps / token_counts
