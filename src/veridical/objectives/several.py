"""Several rejected answers to one chosen one."""

from __future__ import annotations

from torch import Tensor


def averaged_loss(losses: Tensor, gamma: float) -> Tensor:
    """Several rejected answers to one chosen one (Amirloo et al. 2024, eq. 5).

    gamma * loss(chosen, first rejected) + (1 - gamma) * loss(chosen, second); with more than two,
    those after the first share 1 - gamma equally (our choice).

    Args:
        losses: the loss against each rejected answer. Shape: (batch, rejected).
        gamma: weight of the first, in [0, 1]; with a single one it has all.

    Returns:
        Shape: (batch,).
    """
    if losses.shape[-1] == 1:
        return losses.squeeze(-1)
    return gamma * losses[:, 0] + (1 - gamma) * losses[:, 1:].mean(-1)
