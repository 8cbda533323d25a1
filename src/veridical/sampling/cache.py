"""Prompts in a key/value cache, continued a token at a time, in a batch that changes.

Beside `batching`, the only place that knows of padding and positions. Rows are padded on the left,
so that every row's next token stands in the same column.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from veridical.models.positions import TOKEN_INPUTS, token_positions
from veridical.models.prompt_batches import Branch, PromptBatch
from veridical.models.stock_logits import stock_logits

REPEATED = frozenset({"cross_attention_mask"})
"""What a processor says of every token beside `TOKEN_INPUTS`: the answer's tokens get what the
prompt's last token had (Mllama: which image tiles a token may look at)."""


APART: weakref.WeakSet[object] = weakref.WeakSet()
"""Models of which an experiment has shown that rows can't come into a batch that has begun."""

UNMIXED: weakref.WeakSet[object] = weakref.WeakSet()
"""Models of which an experiment has shown that prompts without pictures are answered otherwise
beside prompts with some (Mllama: their cross-attention is not masked wholly)."""


class CacheRows:
    """Prompts that were read, and what was appended to each of them."""

    def __init__(self, core: PreTrainedModel, batch: PromptBatch) -> None:
        """Read the prompts, images included; what several begin with is read once.

        Args:
            core: Transformers' model.
            batch: left-padded prompts.
        """
        self.core = core
        self.cache: Any = DynamicCache(config=core.config)
        inputs = batch.inputs
        given = "position_ids" in inputs
        positions = inputs["position_ids"] if given else token_positions(core, inputs)
        self.attention = inputs["attention_mask"]
        self.lengths: list[int] = batch.lengths.tolist()
        attended = positions.masked_fill(self.attention == 0, 0)
        self.axes = attended.shape[:-2]
        self.next = attended.amax(-1).reshape(-1, len(self.attention)).amax(0) + 1
        self.text = sorted(TOKEN_INPUTS & inputs.keys() - {"input_ids", "attention_mask",
                                                            "position_ids"})  # fmt: skip
        self.repeated = {name: inputs[name][:, -1:] for name in REPEATED & inputs.keys()}
        last = torch.tensor([self.attention.shape[1] - 1], device=self.attention.device)
        read = {**inputs, "position_ids": positions, **self._cached()}
        self._logits: Tensor | None = stock_logits(core, read, last)[:, 0]
        if batch.branches:
            self._branch(batch.branches)

    def __len__(self) -> int:
        return len(self.lengths)

    def can_be_joined(self) -> bool:
        """Whether other rows can come into this batch later, at other lengths.

        Only for kinds of layers of which it is known where a row and a column stand; what other
        layers keep is read together and left row by row.
        """
        known = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer)
        chunks = getattr(self.core.config.get_text_config(), "attention_chunk_size", None)
        if self.repeated or chunks or self.core in APART:
            return False
        return all(type(layer) in known for layer in self.cache.layers)

    def can_branch(self) -> bool:
        """Whether the cache has a place for every token and layer, so that ends can be cut off."""
        return not self.repeated and all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def fitting(self, columns: int, free: float) -> int:
        """How many rows memory holds at a length.

        Args:
            columns: the length, in tokens.
            free: memory that can be taken beside what the rows have, in bytes.
        """
        states = [
            state
            for layer in self.cache.layers if isinstance(layer, DynamicLayer)
            for state in (layer.keys, layer.values) if state is not None
        ]  # fmt: skip
        width = max((state.shape[-2] for state in states), default=0)
        taken = sum(state.nbytes for state in states)
        if not taken:
            return len(self)
        each = taken / len(self) / width
        return min(len(self), int((free + taken) / (each * max(columns, width))))

    def take_logits(self) -> Tensor:
        """Logits of the next token, once: whoever takes them may destroy them.

        Returns:
            Shape: (rows, vocabulary).
        """
        assert self._logits is not None, "feed a token first"
        logits, self._logits = self._logits, None
        return logits

    def select(self, rows: list[int]) -> None:
        """Go on with these rows, in this order; one may come several times."""
        if rows == list(range(len(self))):
            return
        index = torch.tensor(rows, device=self.attention.device)
        self.cache.reorder_cache(index)
        self.attention, self.next = self.attention[index], self.next[index]
        self._logits = None if self._logits is None else self._logits[index]
        self.repeated = {name: value[index] for name, value in self.repeated.items()}
        self.lengths = [self.lengths[row] for row in rows]

    def join(self, other: CacheRows) -> None:
        """Take in the rows of another batch of the same model, behind one's own."""
        self.trim()
        width = max(self.attention.shape[1], other.attention.shape[1])
        self.attention = torch.cat([_wider(rows.attention, width) for rows in (self, other)])
        self.next = torch.cat([self.next, other.next])
        self._logits = torch.cat([self.take_logits(), other.take_logits()])
        self.lengths = self.lengths + other.lengths
        self.text = sorted({*self.text, *other.text})
        for layer, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            _join_layer(layer, theirs)

    def trim(self) -> None:
        """Drop columns on the left in which every row is padded."""
        empty = self.attention.shape[1] - max(self.lengths)
        if empty <= 0 or not self.can_be_joined():
            return
        self.attention = self.attention[:, empty:]
        for layer in self.cache.layers:
            _trim_layer(layer, empty)

    def feed(self, tokens: Tensor) -> None:
        """Append a token to every row; the logits are then those of the one after it.

        Args:
            tokens: Shape: (rows,).
        """
        self.attention = torch.nn.functional.pad(self.attention, (0, 1), value=1)
        self._read(tokens.unsqueeze(-1), self.next.unsqueeze(-1))
        self.next = self.next + 1
        self.lengths = [length + 1 for length in self.lengths]

    def _branch(self, branches: Sequence[Branch]) -> None:
        """Go on with these in the place of the rows: keep what each shares, read its own tail."""
        device, width = self.attention.device, self.attention.shape[1]
        rows = torch.tensor([branch.row for branch in branches], device=device)
        lengths = torch.tensor(self.lengths, device=device)[rows]
        shared = torch.tensor([branch.shared for branch in branches], device=device)
        kept = max(branch.shared for branch in branches)
        first = (width - lengths)[:, None]
        columns = first + shared[:, None] - kept + torch.arange(kept, device=device)
        attention = self.attention[rows[:, None], columns.clamp(min=0)] * (columns >= first)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)[rows[:, None], :, columns.clamp(min=0)]
                setattr(layer, name, states.transpose(1, 2).contiguous())
        longest = max(len(branch.tail) for branch in branches)
        own = torch.tensor([len(branch.tail) for branch in branches], device=device)[:, None]
        steps = torch.arange(longest, device=device) - longest + own
        ids = [[branch.tail[0]] * (longest - len(branch.tail)) + branch.tail for branch in branches]
        # Columns of no token may stand between the two: nobody looks at them.
        self.attention = torch.cat([attention, (steps >= 0).to(attention)], -1)
        positions = (self.next[rows] - lengths + shared)[:, None] + steps.clamp(min=0)
        self._read(torch.tensor(ids, device=device), positions)
        self.next = positions[:, -1] + 1
        self.lengths = [branch.shared + longest for branch in branches]

    def _read(self, tokens: Tensor, positions: Tensor) -> None:
        """Read text tokens behind what is there. Shape of each: (rows, tokens)."""
        inputs = {
            "input_ids": tokens,
            "attention_mask": self.attention,
            "position_ids": positions.expand(*self.axes, *positions.shape),
            **{name: torch.zeros_like(tokens) for name in self.text},
            **self.repeated,
            **self._cached(),
        }
        if tokens.shape[1] == 1:
            self._logits = self.core(**inputs).logits[:, -1]
            return
        last = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
        self._logits = stock_logits(self.core, inputs, last)[:, 0]

    def _cached(self) -> dict[str, Any]:
        return {"past_key_values": self.cache, "use_cache": True}


def _join_layer(ours: Any, theirs: Any) -> None:
    if isinstance(ours, LinearAttentionLayer):
        for states in ("conv_states", "recurrent_states"):
            mine, others = getattr(ours, states), getattr(theirs, states)
            for index, state in mine.items():
                if state is not None:
                    mine[index] = torch.cat([state, others[index]])
        return
    width = max(ours.keys.shape[-2], theirs.keys.shape[-2])
    for name in ("keys", "values"):
        pair = (getattr(ours, name), getattr(theirs, name))
        setattr(ours, name, torch.cat([_longer(value, width) for value in pair]))
    if isinstance(ours, DynamicSlidingWindowLayer):
        ours.cumulative_length = max(ours.cumulative_length, theirs.cumulative_length)


def _trim_layer(layer: Any, columns: int) -> None:
    if isinstance(layer, LinearAttentionLayer):
        return
    left = layer.keys.shape[-2] - columns
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length -= columns
        left = min(layer.keys.shape[-2], layer.cumulative_length)
    layer.keys = layer.keys[..., layer.keys.shape[-2] - left :, :]
    layer.values = layer.values[..., layer.values.shape[-2] - left :, :]


def _wider(mask: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _longer(states: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))
