"""The next token of every row, from noise that is keyed by what it is for.

Everything runs where the logits are, and nothing waits for it: the caller decides when to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from veridical.models.policy import Policy, end_token_ids, image_token_id, placeholder_token_ids
from veridical.runtime.float64 import widest
from veridical.runtime.randomness import generator

BLOCK = 512
"""Tokens whose probabilities are summed together (our choice: near the square root of a large
vocabulary, so that the block and the token in it are found in about as many steps)."""

NO_NUMBER = -1
"""Stands for a token where the logits were NaN or infinite."""


class ChosenTokens(NamedTuple):
    """One token a row.

    Attributes:
        tokens: `NO_NUMBER` where logits were NaN or infinite. Shape: (rows,).
        logps: log-probability of each at the temperature (at 1 where it is 0), among the tokens
            that may be chosen; None unless asked for. In nats. Shape: (rows,).
    """

    tokens: Tensor
    logps: Tensor | None


def never_sampled(policy: Policy) -> list[int]:
    """Image, video, padding and begin tokens: a sampled one would break the next forward pass."""
    tokenizer, config = policy.processor.tokenizer, policy.core.config
    special = [image_token_id(policy), tokenizer.pad_token_id, tokenizer.bos_token_id]
    special += placeholder_token_ids(config)
    size, ends = config.get_text_config().vocab_size, end_token_ids(policy)
    return sorted({i for i in special if isinstance(i, int) and 0 <= i < size and i not in ends})


def token_noise(seed: int, keys: Sequence[str], tokens: int, device: torch.device) -> Tensor:
    """One uniform number in [0, 1) for each row and position.

    They come from Philox, a counter-based generator, keyed by the seed and the row's key and
    counted by the position: the same on every device, in every batch and process.

    Args:
        seed: of sampling.
        keys: of the rows.
        tokens: how many positions.
        device: where they are needed.

    Returns:
        Float64 where the device has it. Shape: (rows, tokens).
    """
    rows = [generator(seed, "tokens", key).random(tokens) for key in keys]
    noise = torch.from_numpy(np.stack(rows))
    return noise.to(device, widest(device))


def choose(
    logits: Tensor, noise: Tensor, temperature: float, banned: Tensor, with_logps: bool = False
) -> ChosenTokens:
    """The next token of every row, by the inverse of the cumulative distribution.

    Probabilities are made in at least float32 and added up in two levels, blocks and then the
    tokens of one block, in float64 where the device has it: the sum over a large vocabulary in
    float32 would round away rare tokens.

    Args:
        logits: destroyed, as they are worked on where they are. Shape: (rows, vocabulary).
        noise: one number a row, from `token_noise`; not read where the temperature is 0.
            Shape: (rows,).
        temperature: 0 takes the most likely token, the first of equals.
        banned: tokens that are never chosen; the others share what they had. Shape: (banned,).
        with_logps: compute log-probabilities too.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    logits.index_fill_(-1, banned, -torch.inf)
    largest = torch.cat([part.amax(-1) for part in _blocks(logits)], -1)
    most = largest.amax(-1, keepdim=True)
    if temperature == 0:
        block = largest.argmax(-1)
        numbers, values = _block(logits, block, -torch.inf)
        chosen = numbers.gather(-1, values.argmax(-1, keepdim=True)).squeeze(-1)
    weights = logits.sub_(most)
    if temperature not in (0, 1):
        weights = weights.div_(temperature)
    if temperature != 0 or with_logps:
        weights = weights.exp_()
        sums = torch.cat([part.sum(-1) for part in _blocks(weights)], -1)
        sums = sums.to(widest(logits.device))
    if temperature != 0:
        cumulative = sums.cumsum(-1)
        block = _where(cumulative, noise * cumulative[:, -1])
        rest = noise * cumulative[:, -1] - (cumulative - sums).gather(-1, block[:, None])[:, 0]
        numbers, values = _block(weights, block, 0.0)
        inside = values.to(sums.dtype).cumsum(-1)
        # A block's sum and the sum of its tokens differ by rounding: the target moves with it.
        share = (rest / sums.gather(-1, block[:, None])[:, 0]).clamp(min=0)
        chosen = numbers.gather(-1, _where(inside, share * inside[:, -1])[:, None]).squeeze(-1)
    tokens = torch.where(most.squeeze(-1).isfinite(), chosen, NO_NUMBER)
    if not with_logps:
        return ChosenTokens(tokens, None)
    weight = weights.gather(-1, chosen[:, None]).squeeze(-1).to(sums.dtype)
    return ChosenTokens(tokens, weight.log() - sums.sum(-1).log())


def _blocks(values: Tensor) -> Iterator[Tensor]:
    """The values in blocks, the last of them shorter. Shape of each: (rows, blocks, tokens)."""
    whole = values.shape[-1] // BLOCK * BLOCK
    if whole:
        yield values[:, :whole].unflatten(-1, (-1, BLOCK))
    if whole < values.shape[-1]:
        yield values[:, whole:].unsqueeze(1)


def _block(values: Tensor, block: Tensor, filler: float) -> tuple[Tensor, Tensor]:
    """One block of every row: the tokens' numbers and values. Shape of each: (rows, BLOCK)."""
    numbers = block[:, None] * BLOCK + torch.arange(BLOCK, device=values.device)
    beyond = numbers >= values.shape[-1]
    numbers = numbers.clamp(max=values.shape[-1] - 1)
    return numbers, values.gather(-1, numbers).masked_fill(beyond, filler)


def _where(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first place whose cumulative sum is above the target; never one of weight 0."""
    below = cumulative[:, -1] * (1 - torch.finfo(cumulative.dtype).eps)
    target = torch.minimum(target, below)[:, None]
    found = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return found.clamp(max=cumulative.shape[-1] - 1)
