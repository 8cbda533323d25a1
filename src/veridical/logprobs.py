"""Log-probabilities of responses: the two-row path and the shared-prefix path, one function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veridical._positions import special_layers, window
from veridical.batching import (
    Batch,
    RowBatch,
    SharedBatch,
    response_lengths,
    row_batch,
    shared_batch,
)
from veridical.heads import head_logps, logits_are_the_heads, stock_logits
from veridical.losses import token_logps
from veridical.models import Policy, unwrap
from veridical.rendering import Group


@dataclass(frozen=True)
class ResponseLogps:
    """What a policy thinks of each response.

    Attributes:
        sums: log-probability summed over the response's tokens. Shape: (groups, k).
        counts: response lengths in tokens. Shape: (groups, k).
    """

    sums: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Sharing:
    """Whether a model may share prefixes, and why not if it may not."""

    allowed: bool
    reason: str


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
    inputs = {**batch.inputs, "attention_mask": _added_mask(core, batch.inputs["attention_mask"])}
    hidden = core.model(**inputs).last_hidden_state[batch.rows, batch.sources]
    per_token = head_logps(core.get_output_embeddings(), hidden, batch.targets)
    flat = per_token.new_zeros(batch.groups * batch.responses)
    sums = flat.index_add(0, batch.owners, per_token).view(batch.groups, batch.responses)
    return ResponseLogps(sums, response_lengths(batch))


def _added_mask(core: Any, mask: Any) -> Any:
    """What SDPA makes of a boolean mask, made once.

    Each layer would make its own and keep it for its backward pass: a number for every pair of
    tokens, in every layer.
    """
    if isinstance(mask, dict):
        return {kind: _added_mask(core, one) for kind, one in mask.items()}
    zero = torch.zeros((), dtype=core.get_input_embeddings().weight.dtype, device=mask.device)
    return torch.where(mask, zero, -torch.inf)


def sharing(policy: Policy, groups: Sequence[Group]) -> Sharing:
    """Decide by experiment whether this model computes the same with a shared prefix.

    The attention must be SDPA (others take no boolean mask, or take it wrongly), layers that look
    through a window must be listed, none may recur, and on a real row the responses must not see
    each other and must get the log-probs of the two-row path.

    Args:
        policy: the model as it will be trained.
        groups: a few real rows with at least two responses.
    """
    attention = policy.core.config.get_text_config()._attn_implementation
    if attention != "sdpa":
        return Sharing(False, f"its attention is {attention!r}; only 'sdpa' takes a boolean mask")
    layers = special_layers(policy.core)
    if layers is not None and window(policy.core) is None:
        return Sharing(False, f"it has layers that need a mask of their own ({layers})")
    if not logits_are_the_heads(policy.core, groups[0].response_ids[0].to(policy.device)):
        return Sharing(False, "its logits are more than its head's output")
    return _probe(policy, groups)


@torch.no_grad()
def _probe(policy: Policy, groups: Sequence[Group]) -> Sharing:
    group = next((g for g in groups if g.images), groups[0])
    two_row = response_logps(policy.model, row_batch(policy, [group])).sums
    batch = shared_batch(policy, [group])
    try:
        shared = response_logps(policy.model, batch).sums
    except (AttributeError, TypeError) as error:
        if window(policy.core) is None:
            raise
        return Sharing(False, f"its forward takes no mask for each kind of layer ({error})")
    difference = float((shared - two_row).abs().max())
    limit = 64 * rounding(two_row, policy.model.dtype, max(map(len, group.response_ids)))
    if difference > limit:
        return Sharing(False, f"shared and two-row log-probs differ by {difference:.2g}")
    if group.response_ids[0].equal(group.response_ids[-1]):
        return Sharing(True, "equal to the two-row path on a probe row")
    perturbed = (group.response_ids[-1], *group.response_ids[1:])
    changed = shared_batch(policy, [_with_ids(group, perturbed)])
    moved = float((response_logps(policy.model, changed).sums - shared)[0, 1:].abs().max())
    if moved > limit:
        return Sharing(False, f"a response's log-probs move by {moved:.2g} with its neighbour's")
    return Sharing(True, "equal to the two-row path on a probe row")


USUAL_LOGIT = 16.0
"""How large logits are in trained models, as a power of two."""


def rounding(logps: Tensor, dtype: torch.dtype, tokens: int) -> float:
    """How much rounding alone may move the largest of some summed log-probs, in nats (our choice).

    One unit in the last place of the sum, and of each token's logits, whose errors add up like a
    random walk: what a model said itself is near to 0 nats, and no less rounded for that. In half
    precision, where that would hide everything, a unit of the sum's mean token alone.
    """
    eps, steps = torch.finfo(dtype).eps, math.sqrt(max(tokens, 1))
    largest = float(logps.abs().max().clamp(min=1.0))
    if dtype in (torch.float16, torch.bfloat16):
        return eps * largest / steps
    return eps * max(largest, USUAL_LOGIT * steps)


def _with_ids(group: Group, response_ids: tuple[Tensor, ...]) -> Group:
    texts = (group.response_texts[-1], *group.response_texts[1:])
    learned = (group.learned_of(len(response_ids) - 1), *group.learned[1:]) if group.learned else ()
    counts = (group.tokens_of(len(response_ids) - 1), *group.token_counts[1:])
    return dataclasses.replace(
        group, response_texts=texts, response_ids=response_ids, learned=learned, token_counts=counts
    )
