"""From hidden states to log-probabilities, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from veridical.models.chunked_head import HeadLogps
from veridical.models.precision import mixing

CHUNK_LOGITS = 10_000_000
"""Logits that exist at once (our choice: 40 MB in float32, 65 positions of a 152k vocabulary; glibc
gives blocks back that are above 32 MiB)."""
ON_A_GPU = 6
"""So many times as many there (our choice: 240 MB, some 400 positions of a 152k vocabulary; below
that, reading the head's weights for each chunk takes longer than multiplying by them)."""


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token, in at least float32.

    Args:
        logits: Shape: (..., vocabulary).
        targets: token ids. Shape: (...,).
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked - torch.logsumexp(logits, dim=-1)


def head_logps(head: Any, hidden: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Log-probabilities of targets, a few positions at a time, in both directions.

    Args:
        head: the output embedding.
        hidden: last hidden states. Shape: (tokens, hidden).
        targets: Shape: (tokens,).
        chunk: positions at a time; as many as `CHUNK_LOGITS` allows if not given.

    Returns:
        In at least float32. Shape: (tokens,).
    """
    if chunk is None:
        chunk = chunk_of(head, hidden.device)
    if not torch.is_grad_enabled():
        pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        return torch.cat([token_logps(head(states), wanted) for states, wanted in pieces])
    if type(head) is nn.Linear and type(head.weight) is nn.Parameter and head.bias is None:
        states = hidden.to(mixing(hidden.device) or hidden.dtype)
        logps: Tensor = HeadLogps.apply(states, head.weight, targets, chunk)
        return logps

    def piece(states: Tensor, wanted: Tensor) -> Tensor:
        return token_logps(head(states), wanted)

    # Quantized, adapted or sharded heads: only they know how to multiply.
    pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(piece, *pair, use_reentrant=False) for pair in pieces])


@torch.no_grad()
def head_log_squares(head: Any, hidden: Tensor, chunk: int | None = None) -> Tensor:
    """Log of the sum of squared probabilities at each position, a few positions at a time.

    Args:
        head: the output embedding.
        hidden: last hidden states. Shape: (tokens, hidden).
        chunk: as for `head_logps`.

    Returns:
        In at least float32. Shape: (tokens,).
    """
    pieces = hidden.split(chunk or chunk_of(head, hidden.device))
    return torch.cat([log_squares(head(states)) for states in pieces])


@torch.no_grad()
def log_squares(logits: Tensor) -> Tensor:
    """Log sum p^2 of the softmax, in at least float32. Shape: (..., vocabulary) to (...,)."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    logits = logits - logits.amax(-1, keepdim=True)  # or far logits leave few digits
    return (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)


def chunk_of(head: Any, device: torch.device) -> int:
    """Positions whose logits are made at once."""
    vocabulary = int(getattr(head, "out_features", 0) or head.weight.shape[0])
    logits = CHUNK_LOGITS * (ON_A_GPU if device.type == "cuda" else 1)
    return max(1, logits // vocabulary)
