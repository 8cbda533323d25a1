"""Leaving out unlikely tokens, and ends that come too early, before a token is chosen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from veridical.runtime.errors import UserError
from veridical.sampling.requests import Decoding


def check_truncation(decoding: Decoding) -> None:
    """Refuse what makes no sense.

    Raises:
        UserError: names the option.
    """
    if not 0 < decoding.top_p <= 1:
        raise UserError(f"--top-p is {decoding.top_p:g}; give a share above 0, up to 1.")
    if decoding.top_k < 0:
        raise UserError(f"--top-k is {decoding.top_k}; give a number of tokens, or 0 for all.")
    if not 0 <= decoding.min_new_tokens <= decoding.max_new_tokens:
        raise UserError(
            f"--min-new-tokens is {decoding.min_new_tokens}; give 0 to --max-new-tokens "
            f"{decoding.max_new_tokens}."
        )
    if decoding.truncates and decoding.temperature == 0:
        raise UserError("--top-p and --top-k change nothing at --temperature 0. Leave them out.")


def hold_ends(logits: Tensor, steps: Tensor, ends: Iterable[int], least: int) -> Tensor:
    """Logits in which no answer ends before its least number of tokens.

    Args:
        logits: Shape: (rows, vocabulary).
        steps: tokens that each row has. Shape: (rows,).
        ends: tokens that end an answer.
        least: tokens before an end, which is not counted.
    """
    if not least:
        return logits
    held = logits.clone()
    numbers = torch.tensor(sorted(ends), dtype=torch.long, device=logits.device)
    early = (steps < least).unsqueeze(-1)
    held[:, numbers] = held[:, numbers].masked_fill(early, -torch.inf)
    return held


def truncate(logits: Tensor, decoding: Decoding, banned: Tensor) -> Tensor:
    """Logits of the likeliest tokens; the others are at minus infinity.

    First the `top_k` largest stay, then the fewest of these that hold `top_p` of the probability
    at the temperature. Equals of the last one stay too.

    Args:
        logits: Shape: (rows, vocabulary).
        decoding: temperature, above 0, `top_k` and `top_p`.
        banned: tokens that are never chosen, and so are not among the likeliest.

    Returns:
        A new tensor in at least float32, of the same shape.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    wide = wide.index_fill(-1, banned, -torch.inf)
    if decoding.top_k:
        least = wide.topk(min(decoding.top_k, wide.shape[-1])).values[:, -1:]
        wide.masked_fill_(wide < least, -torch.inf)
    if decoding.top_p < 1:
        ordered = wide.sort(descending=True).values
        shares = (ordered / decoding.temperature).softmax(-1)
        before = shares.cumsum(-1) - shares
        kept = (before < decoding.top_p).sum(-1, keepdim=True)
        least = ordered.gather(-1, (kept - 1).clamp(min=0))
        wide.masked_fill_(wide < least, -torch.inf)
    return wide


def untruncated_logps(logits: Tensor, tokens: Tensor, temperature: float, banned: Tensor) -> Tensor:
    """Log-probabilities of chosen tokens in the whole distribution at the temperature.

    Args:
        logits: as before `truncate`. Shape: (rows, vocabulary).
        tokens: Shape: (rows,).
        temperature: of sampling, above 0.
        banned: tokens that are never chosen.

    Returns:
        In nats. Shape: (rows,).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    wide = wide.index_fill(-1, banned, -torch.inf)
    return wide.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1) - wide.logsumexp(-1)
