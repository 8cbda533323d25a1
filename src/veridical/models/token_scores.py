"""What a policy or a value model gives every token of a response: log-probs or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from veridical.models.batch import Batch
from veridical.models.heads import chunk_of, token_logps
from veridical.models.logprobs import heads_logits_suffice, predicting_states
from veridical.models.policy import unwrap
from veridical.models.precision import unmixed
from veridical.models.stock_logits import stock_logits


@dataclass(frozen=True)
class TokenScores:
    """A policy's view of sampled responses, one row each, padded on the right with 0.

    Attributes:
        logps: log-probability of each token. Shape: (responses, tokens).
        entropies: of the distribution that it was drawn from, without gradient, in nats.
            Shape: (responses, tokens).
        mask: True at real tokens. Shape: (responses, tokens).
    """

    logps: Tensor
    entropies: Tensor
    mask: Tensor


def token_scores(
    model: PreTrainedModel, batch: Batch, temperature: float = 1.0, banned: Sequence[int] = ()
) -> TokenScores:
    """Score every token by the distribution that it was sampled from.

    Args:
        model: Transformers' model, or a PEFT model around it.
        batch: from `collate`.
        temperature: of sampling, above 0.
        banned: tokens that are never sampled, see `sampling.never_sampled`.
    """
    core, targets = unwrap(model), batch.targets
    left_out = torch.tensor(list(banned), dtype=torch.long, device=targets.device)

    def scored(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        logits = (logits / temperature).index_fill(-1, left_out, -torch.inf)
        with torch.no_grad():
            entropies = torch.special.entr(logits.softmax(-1)).sum(-1)
        return token_logps(logits, wanted), entropies

    if heads_logits_suffice(core, batch):
        states = predicting_states(model, batch)
        logps, entropies = _by_chunks(core.get_output_embeddings(), scored, states, targets)
    else:
        kept, where = batch.sources.unique(return_inverse=True)
        logits = stock_logits(core, batch.inputs, kept)[batch.rows, where]
        logps, entropies = scored(logits, targets)
    return TokenScores(
        _by_response(logps, batch),
        _by_response(entropies, batch),
        _by_response(torch.ones_like(batch.owners, dtype=torch.bool), batch),
    )


def token_values(model: PreTrainedModel, head: nn.Linear, batch: Batch) -> Tensor:
    """What is still expected before every token: the head on the state that foretells it.

    Args:
        model: Transformers' model, or a PEFT model around it.
        head: hidden size to 1.
        batch: from `collate`.

    Returns:
        Shape: (responses, tokens); 0 at padding.
    """
    states = predicting_states(model, batch)
    with unmixed():
        values = head(states.to(head.weight.dtype))
    return _by_response(values.squeeze(-1), batch)


def _by_response(flat: Tensor, batch: Batch) -> Tensor:
    """One row a response, padded on the right with 0."""
    counts = batch.token_counts.flatten().tolist()
    return pad_sequence(list(flat.split(counts)), batch_first=True)


def _by_chunks(head: Any, scored: Any, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A few positions at a time; their logits are made again for the backward pass."""
    chunk = chunk_of(head, hidden.device)

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = scored(head(states), wanted)
        return found

    pairs = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    if torch.is_grad_enabled():
        pieces = [checkpoint(piece, *pair, use_reentrant=False) for pair in pairs]
    else:
        pieces = [piece(*pair) for pair in pairs]
    return torch.cat([one for one, _ in pieces]), torch.cat([other for _, other in pieces])
