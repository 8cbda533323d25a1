"""Log-probabilities of responses: the two-row path and the shared-prefix path, one function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veridical.models.batching import (
    Batch,
    RowBatch,
    SharedBatch,
    response_lengths,
    row_batch,
    shared_batch,
)
from veridical.models.heads import head_logps, logits_are_the_heads, stock_logits, token_logps
from veridical.models.policy import Policy, unwrap
from veridical.models.precision import HALF, mixing
from veridical.models.rendering import Group


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probability of each response.

    Attributes:
        sums: log-probability summed over the response's tokens. Shape: (groups, k).
        counts: response lengths in tokens. Shape: (groups, k).
    """

    sums: Tensor
    counts: Tensor


def collate(policy: Policy, groups: Sequence[Group], share_prefix: bool) -> Batch:
    """Lay groups out in the way that was decided for this model."""
    return shared_batch(policy, groups) if share_prefix else row_batch(policy, groups)


def response_logps(model: Any, batch: Batch) -> ResponseLogps:
    """Log-probability of every response of a batch, whichever way it is laid out.

    Args:
        model: Transformers' model, or a PEFT model around it.
        batch: from `collate`.
    """
    if isinstance(batch, RowBatch):
        return _row_logps(model, batch)
    return _shared_logps(model, batch)


def _row_logps(model: Any, batch: RowBatch) -> ResponseLogps:
    core = unwrap(model)
    mask = batch.response_mask[:, 1:]
    rows, positions = mask.nonzero(as_tuple=True)
    targets = batch.inputs["input_ids"][:, 1:][rows, positions]
    if logits_are_the_heads(core, targets):
        hidden = core.model(**batch.inputs).last_hidden_state[rows, positions]
        per_token = head_logps(core.get_output_embeddings(), hidden, targets)
    else:
        kept, where = positions.unique(return_inverse=True)
        per_token = token_logps(stock_logits(core, batch.inputs, kept)[rows, where], targets)
    sums = per_token.new_zeros(len(mask)).index_add(0, rows, per_token)
    return ResponseLogps(sums.view(-1, batch.responses), response_lengths(batch))


def _shared_logps(model: Any, batch: SharedBatch) -> ResponseLogps:
    core = unwrap(model)
    inputs = {**batch.inputs, "attention_mask": added_mask(core, batch.inputs["attention_mask"])}
    hidden = core.model(**inputs).last_hidden_state[batch.rows, batch.sources]
    per_token = head_logps(core.get_output_embeddings(), hidden, batch.targets)
    flat = per_token.new_zeros(batch.groups * batch.responses)
    sums = flat.index_add(0, batch.owners, per_token).view(batch.groups, batch.responses)
    return ResponseLogps(sums, response_lengths(batch))


def added_mask(core: Any, mask: Any) -> Any:
    """A boolean mask as SDPA adds it to the scores, made once.

    Each layer would convert its own and keep it for its backward pass: a number for every pair of
    tokens, in every layer.
    """
    if isinstance(mask, dict):
        return {kind: added_mask(core, one) for kind, one in mask.items()}
    dtype = mixing(mask.device, core) or core.get_input_embeddings().weight.dtype
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, zero, -torch.inf)


USUAL_LOGIT = 16.0
"""How large logits are in trained models, as a power of two."""


def rounding(logps: Tensor, dtype: torch.dtype, tokens: int) -> float:
    """How much rounding alone may move the largest of some summed log-probs, in nats (our choice).

    One unit in the last place of the sum, and of each token's logits, whose errors add up like a
    random walk: what a model said itself is near to 0 nats, and no less rounded for that. A limit
    made of half precision's unit would be wider than what most faults do.

    Raises:
        ValueError: of half precision.
    """
    if dtype in HALF:
        raise ValueError(f"no limit follows from the unit of {dtype}; measure it")
    eps, steps = torch.finfo(dtype).eps, math.sqrt(max(tokens, 1))
    return eps * max(float(logps.abs().max()), 1.0, USUAL_LOGIT * steps)
