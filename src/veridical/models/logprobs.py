"""From a batch to hidden states, and to the log-probabilities of its responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from veridical.models.batch import Batch
from veridical.models.batching import collate
from veridical.models.branch_attention import remember, rows_of
from veridical.models.heads import head_log_squares, head_logps, log_squares, token_logps
from veridical.models.policy import Policy, unwrap
from veridical.models.precision import mixing
from veridical.models.rendering import Group
from veridical.models.stock_logits import logits_are_the_heads, stock_logits


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probability of each response.

    Attributes:
        sums: log-probability summed over the response's tokens, each times its weight.
            Shape: (groups, k).
        counts: response lengths in tokens. Shape: (groups, k).
        beta_factors: what a loss multiplies its beta by for each group; None where 1 for all.
            Shape: (groups, 1).
        lengths: what a mean over tokens divides by, where weights make it another than `counts`.
            Shape: (groups, k).
        contrasts: how many of the last responses are there for a comparison alone.
        labels: whether answers without a pair are good ones. Shape: (groups, 1), boolean.
        log_squares: log of the sum of squared probabilities at each token, summed as `sums`,
            without gradient; None where it was not asked for. Shape: (groups, k).
    """

    sums: Tensor
    counts: Tensor
    beta_factors: Tensor | None = None
    lengths: Tensor | None = None
    contrasts: int = 0
    labels: Tensor | None = None
    log_squares: Tensor | None = None


def logps_of(
    batch: Batch, sums: Tensor, counts: Tensor | None = None, squares: Tensor | None = None
) -> ResponseLogps:
    """A batch's log-probabilities, with what the batch says of its groups beside them."""
    lengths = None if batch.weights is None else batch.lengths
    counts = batch.token_counts if counts is None else counts
    return ResponseLogps(
        sums, counts, batch.beta_factors, lengths, batch.contrasts, batch.labels, squares
    )


def response_logps(model: PreTrainedModel, batch: Batch, squares: bool = False) -> ResponseLogps:
    """Log-probability of every response of a batch, whichever way it is laid out.

    Args:
        model: Transformers' model, or a PEFT model around it.
        batch: from `collate`.
        squares: compute `log_squares` too, which takes the head's product once more.
    """
    if squares:
        logps, squared = batch_logps_and_squares(model, batch)
        sums = batch.sum_by_response(logps)
        return logps_of(batch, sums, squares=batch.sum_by_response(squared))
    return logps_of(batch, batch.sum_by_response(batch_logps(model, batch)))


def batch_logps(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Log-probability of every response token of a batch. Shape: (tokens,).

    Args:
        model: Transformers' model, or a PEFT model around it.
        batch: from `collate`.
    """
    core = unwrap(model)
    if heads_logits_suffice(core, batch):
        states = predicting_states(model, batch)
        return head_logps(core.get_output_embeddings(), states, batch.targets)
    kept, where = batch.sources.unique(return_inverse=True)
    return token_logps(stock_logits(core, batch.inputs, kept)[batch.rows, where], batch.targets)


def batch_logps_and_squares(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token, and log sum p^2 of all tokens in its place.

    Shape of each: (tokens,); the second has no gradient.
    """
    core = unwrap(model)
    if heads_logits_suffice(core, batch):
        states, head = predicting_states(model, batch), core.get_output_embeddings()
        return head_logps(head, states, batch.targets), head_log_squares(head, states)
    kept, where = batch.sources.unique(return_inverse=True)
    logits = stock_logits(core, batch.inputs, kept)[batch.rows, where]
    return token_logps(logits, batch.targets), log_squares(logits)


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The last hidden states of a batch, in either layout. Shape: (rows, length, hidden).

    Args:
        model: Transformers' model, or a PEFT model around it.
        batch: from `collate`.
    """
    core, inputs = unwrap(model), batch.inputs
    if batch.shares_prefix:
        inputs = {**inputs, "attention_mask": added_mask(core, inputs["attention_mask"])}
    states: Tensor = core.model(**inputs).last_hidden_state
    return states


def predicting_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The hidden state that predicts each response token. Shape: (tokens, hidden)."""
    return hidden_states(model, batch)[batch.rows, batch.sources]


def heads_logits_suffice(core: PreTrainedModel, batch: Batch) -> bool:
    """Whether the head on hidden states gives the model's logits; a prefix is shared only then."""
    return batch.shares_prefix or logits_are_the_heads(core, batch.targets)


@torch.no_grad()
def compute_logps(
    policy: Policy, groups: Sequence[Group], share_prefix: bool, batch_size: int
) -> Tensor:
    """Log-probs of every response, in evaluation mode. Shape: (groups, k), float64 on the CPU."""
    training = policy.model.training
    policy.model.eval()
    sums = []
    for start in range(0, len(groups), batch_size):
        batch = collate(policy, groups[start : start + batch_size], share_prefix)
        sums.append(response_logps(policy.model, batch).sums.cpu().double())
    policy.model.train(training)
    return torch.cat(sums)


def added_mask(core: PreTrainedModel, mask: Any) -> Any:
    """A boolean mask as it is added to the scores, made once; one of blocks stays as it is.

    Each layer would convert its own and keep it for its backward pass: a number for every pair of
    tokens, in every layer.
    """
    if isinstance(mask, dict):
        return {kind: added_mask(core, one) for kind, one in mask.items()}
    if not isinstance(mask, Tensor):
        return mask
    dtype = mixing(mask.device, core) or core.get_input_embeddings().weight.dtype
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    added = torch.where(mask, zero, -torch.inf)
    remember(added, rows_of(mask))
    return added
