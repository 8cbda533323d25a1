"""Prompts in a key/value cache, continued a token at a time.

A part of `batching`, which alone knows of padding, image tokens and positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from veridical._positions import token_positions
from veridical.batching import PromptBatch
from veridical.heads import stock_logits
from veridical.models import Policy


class Continuation:
    """Prompts that were read once, each with k continuations that share what was read.

    Attributes:
        logits: of the next token. Shape: (rows, vocabulary).
    """

    def __init__(self, policy: Policy, batch: PromptBatch, k: int) -> None:
        """Read the prompts, images included, and open k rows for each.

        Args:
            policy: who continues; its cache has to come apart by rows if k is above 1.
            batch: left-padded prompts.
            k: continuations of each; rows are in the prompts' order.
        """
        self.core = policy.core
        self.cache: Any = DynamicCache(config=self.core.config)
        positions = token_positions(self.core, batch.inputs)
        self.attention = batch.inputs["attention_mask"]
        width = self.attention.shape[1]
        attended = positions.masked_fill(self.attention == 0, 0)
        self.axes = attended.shape[:-2]
        self.next = attended.amax(-1).reshape(-1, len(self.attention)).amax(0) + 1
        last = torch.tensor([width - 1], device=policy.device)
        self.logits = self._forward({**batch.inputs, "position_ids": positions}, last)
        if k > 1:
            self.cache.batch_repeat_interleave(k)
            self.attention = self.attention.repeat_interleave(k, 0)
            self.next = self.next.repeat_interleave(k, 0)
            self.logits = self.logits.repeat_interleave(k, 0)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone; the others cost nothing from here on.

        Args:
            rows: which of the rows that are left. Shape: (kept,).
        """
        self.cache.batch_select_indices(rows)
        self.attention, self.next = self.attention[rows], self.next[rows]

    def feed(self, tokens: Tensor) -> None:
        """Append a token to every row; `logits` are then those of the one after it.

        Args:
            tokens: Shape: (rows,).
        """
        self.attention = torch.nn.functional.pad(self.attention, (0, 1), value=1)
        inputs = {
            "input_ids": tokens.unsqueeze(-1),
            "attention_mask": self.attention,
            "position_ids": self.next.unsqueeze(-1).expand(*self.axes, -1, 1),
        }
        self.logits = self._forward(inputs, torch.zeros(1, dtype=torch.long, device=tokens.device))
        self.next = self.next + 1

    def _forward(self, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
        given: dict[str, Any] = {**inputs, "past_key_values": self.cache, "use_cache": True}
        return stock_logits(self.core, given, position)[:, 0]


def cache_has_rows(policy: Policy) -> bool:
    """Whether what the model keeps of a prompt can be repeated, and left, row by row.

    Layers with a running state (linear attention, convolutions) know no way to do that.
    """
    layers = DynamicCache(config=policy.core.config).layers
    return not any(type(layer).__name__.startswith("LinearAttention") for layer in layers)
