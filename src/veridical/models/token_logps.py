"""Log-probabilities token by token, which other weights can sum up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.models.batching import collate
from veridical.models.logprobs import batch_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group


@dataclass(frozen=True)
class TokenLogps:
    """Log-probabilities of one group, token by token, so that other weights can sum them up.

    Attributes:
        sums: of each response, by the weights that it had. Shape: (k,), float64.
        tokens: of each token that counts, by response. Shape: (tokens,).
    """

    sums: Tensor
    tokens: Tensor


@torch.no_grad()
def compute_token_logps(
    policy: Policy, groups: Sequence[Group], share_prefix: bool
) -> list[TokenLogps]:
    """The same as `compute_logps`, token by token; the groups are one batch."""
    training = policy.model.training
    policy.model.eval()
    batch = collate(policy, groups, share_prefix)
    logps = batch_logps(policy.model, batch)
    policy.model.train(training)
    sums = batch.sum_by_response(logps).cpu().double()
    tokens = logps.cpu().split(batch.token_counts.sum(-1).tolist())
    return [TokenLogps(*pair) for pair in zip(sums, tokens, strict=True)]


def sum_tokens(group: Group, logps: Tensor) -> Tensor:
    """Sum a group's token log-probs by its weights. Shape: (tokens,) to (k,), float64.

    Raises:
        ValueError: they are of another number of tokens.
    """
    masks = [group.learned_of(i) for i in range(len(group.response_ids))]
    weights = [group.weights_of(i)[mask] for i, mask in enumerate(masks)]
    counts = torch.tensor([len(own) for own in weights])
    if int(counts.sum()) != len(logps):
        raise ValueError(f"{len(logps)} log-probs for {int(counts.sum())} tokens")
    owners = torch.repeat_interleave(torch.arange(len(masks)), counts)
    sums = torch.zeros(len(masks), dtype=torch.float64)
    return sums.index_add(0, owners, torch.cat(weights) * logps.double())
