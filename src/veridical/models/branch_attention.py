"""Attention of rows in which responses share a prompt, without a mask, on kernels that take none.

With any mask, PyTorch leaves its flash kernels: every pair of tokens is computed, those that are
hidden too, and several times as slowly. But such a row is a few plain causal problems: the prompt
with the first response, and each further response behind the prompt. So `sdpa` of Transformers is
replaced by a function that looks at the mask it is given: for one that was laid out here it calls
the flash kernel once for each of them, and for every other it is what it was.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from veridical.models.precision import HALF, unmixed

LEAST_TOKENS = 256
"""Shorter rows keep their mask (our choice: several small kernels cost more than a large one)."""
LARGEST_HEAD = 256
"""The widest head of PyTorch's flash kernels."""
BOUND = 0.02
"""How far the kernels may be from float32 where they are tried: a few roundings to bfloat16."""

Branches = tuple[int, ...]
"""Tokens of a row's prompt, then of each response that shares it."""

_KNOWN: Any = WeakTensorKeyDictionary()
_STOCK: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]


def remember(mask: Tensor, rows: Sequence[Branches] | None) -> None:
    """Know a mask again by what it hides.

    Args:
        mask: of a batch. Another tensor, whatever is in it, is not known.
        rows: what each row of the batch consists of; None where that is not known.
    """
    if rows:
        _KNOWN[mask] = tuple(rows)


def rows_of(mask: Tensor | None) -> tuple[Branches, ...] | None:
    """What each row of a batch consists of, where the mask is known."""
    found: tuple[Branches, ...] | None = None if mask is None else _KNOWN.get(mask)
    return found


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What Transformers calls for `sdpa`; arguments and result are its own."""
    rows = rows_of(attention_mask)
    special = dropout or any(options.get(name) is not None for name in ("position_bias", "softcap"))
    if rows is None or special or not _is_faster(query, key, value):
        result: tuple[Tensor, None] = _STOCK(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            is_causal=is_causal, **options,
        )  # fmt: skip
        return result
    return attend_branches(query, key, value, rows, scaling), None


def attend_branches(
    query: Tensor, key: Tensor, value: Tensor, rows: Sequence[Branches], scaling: float | None
) -> Tensor:
    """Attention of every row, branch by branch; 0 at padding.

    Args:
        query: Shape: (rows, heads, length, head size).
        key: there may be fewer heads, each for several of the query's. Shape: like the query's.
        value: the same.
        rows: what each row consists of.
        scaling: of the scores; the root of the head size divides them if not given.

    Returns:
        Shape: (rows, length, heads, head size).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    if len(set(rows)) == 1:
        return _attend_alike(query, key, value, rows[0], scaling)
    found = [
        _attend_alike(query[i : i + 1], key[i : i + 1], value[i : i + 1], row, scaling)
        for i, row in enumerate(rows)
    ]
    return torch.cat(found)


def _attend_alike(
    query: Tensor, key: Tensor, value: Tensor, row: Branches, scaling: float | None
) -> Tensor:
    """The same for rows that all consist of the same."""
    prompt, first, *others = row
    end = prompt + first
    parts = [
        scaled_dot_product_attention(
            query[:, :, :end], key[:, :, :end], value[:, :, :end], is_causal=True, scale=scaling
        )
    ]
    for tokens in others:
        own = slice(end, end + tokens)
        keys, values = (
            torch.cat([states[:, :, :prompt], states[:, :, own]], 2) for states in (key, value)
        )
        bias = causal_lower_right(tokens, prompt + tokens)
        parts.append(
            scaled_dot_product_attention(
                query[:, :, own], keys, values, attn_mask=bias, scale=scaling
            )
        )
        end += tokens
    if end < query.shape[2]:
        parts.append(torch.zeros_like(query[:, :, end:]))
    return torch.cat([part.transpose(1, 2) for part in parts], 1)


def _is_faster(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if query.device.type != "cuda" or query.dtype not in HALF or key.dtype != query.dtype:
        return False
    size, length = query.shape[-1], query.shape[2]
    if length < LEAST_TOKENS or key.shape[2] != length or size > LARGEST_HEAD or size % 8:
        return False
    return value.shape[-1] == size and works(query.device, query.dtype, size)


@functools.cache
def works(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernels give what a mask gives, and its gradients, tried on a few numbers.

    Args:
        device: where.
        dtype: of the numbers.
        size: of a head.
    """
    rows = ((9, 5, 4), (12, 3, 2))
    with torch.inference_mode(False), torch.enable_grad(), unmixed():
        try:
            found = _tried(rows, device, dtype, size, masked=False)
        except RuntimeError as error:
            print(f"Attention keeps its masks on {device}, as a trial without failed: {error}")
            return False
        wanted = _tried(rows, device, dtype, size, masked=True)
    return all(
        float((one.float() - exact).norm()) <= BOUND * float(exact.norm())
        for one, exact in zip(found, wanted, strict=True)
    )


def _tried(
    rows: Sequence[Branches], device: torch.device, dtype: torch.dtype, size: int, masked: bool
) -> list[Tensor]:
    """Attention of random states and its gradients; with the mask in float32."""
    noise, length = torch.Generator().manual_seed(0), 19
    shape = (len(rows), 2, length, size)
    given = [torch.randn(shape, generator=noise).to(device, dtype) for _ in range(4)]
    given = [states.float() for states in given] if masked else given
    query, key, value = (states.requires_grad_() for states in given[:3])
    if masked:
        mask = _mask(rows, length).to(device)
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    else:
        out = attend_branches(query, key, value, rows, None)
    ends = torch.tensor([sum(row) for row in rows])
    real = torch.arange(length) < ends[:, None]
    out = out * real[:, :, None, None].to(out)
    slopes = torch.autograd.grad((out * given[3].transpose(1, 2)).sum(), (query, key, value))
    return [out.detach(), *slopes]


def _mask(rows: Sequence[Branches], length: int) -> Tensor:
    """The mask that rows stand for, made the obvious way. Shape: (rows, 1, length, length)."""
    allowed = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    for number, (prompt, *branches) in enumerate(rows):
        end = prompt
        for query in range(prompt):
            allowed[number, query, : query + 1] = True
        for tokens in branches:
            for query in range(end, end + tokens):
                allowed[number, query, :prompt] = True
                allowed[number, query, end : query + 1] = True
            end += tokens
    return allowed.unsqueeze(1)


ALL_ATTENTION_FUNCTIONS.register("sdpa", attend)
