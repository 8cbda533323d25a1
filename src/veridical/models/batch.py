"""A batch: groups of responses as the model's forward takes them, and its draft on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from veridical.models.attention import FLEX, attention_of
from veridical.models.block_masks import block_masks
from veridical.models.branch_attention import Branches, remember
from veridical.models.policy import Policy
from veridical.models.positions import (
    layer_kinds,
    masks_by_layer,
)
from veridical.models.prefix_masks import shared_mask
from veridical.models.rendering import Group
from veridical.runtime.float64 import moved_to

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Groups with the same number of responses, as the model's forward takes them.

    Attributes:
        inputs: what the forward takes, padded on the right, with explicit positions. With a shared
            prefix the attention mask is boolean and 4-D, or a BlockMask for FlexAttention; where
            layers differ, one for each kind.
        shares_prefix: the layout: one row a group, and one more for each response with images of
            its own; or one row a response, group-major.
        rows: the input row of each response token that counts. Shape: (tokens,), by response.
        sources: the index whose hidden state predicts the token. Shape: (tokens,).
        targets: the token ids. Shape: (tokens,).
        owners: group * k + response, for each token. Shape: (tokens,).
        ends: row and index of each response's last token, whether it counts or not.
            Shape: (groups * k, 2).
        groups: their number.
        responses: k.
        beta_factors: of each group, where any has another than 1. Shape: (groups, 1), float64.
        weights: of each response token that counts; None where all are 1. Shape: (tokens,),
            float64.
        contrasts: how many of each group's last responses are there for a comparison alone.
        labels: whether each group's answer is a good one, for rows without a pair.
            Shape: (groups, 1), boolean.
    """

    inputs: dict[str, Any]
    shares_prefix: bool
    rows: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    ends: Tensor
    groups: int
    responses: int
    beta_factors: Tensor | None = None
    weights: Tensor | None = None
    contrasts: int = 0
    labels: Tensor | None = None

    def sum_by_response(self, values: Tensor) -> Tensor:
        """Sum a value of each token, times its weight, over its response.

        Shape: (tokens,) to (groups, k).
        """
        if self.weights is not None:
            values = values * self.weights.to(values.dtype)
        sums = values.new_zeros(self.groups * self.responses).index_add(0, self.owners, values)
        return sums.view(self.groups, self.responses)

    @property
    def token_counts(self) -> Tensor:
        """Tokens of each response that count. Shape: (groups, k)."""
        # Not by `bincount`, for which the host would wait on an accelerator.
        flat = self.owners.new_zeros(self.groups * self.responses)
        flat.index_add_(0, self.owners, torch.ones_like(self.owners))
        return flat.view(self.groups, self.responses)

    @property
    def prompt_tokens(self) -> Tensor:
        """Tokens before each response's first that counts, images included. Shape: (groups, k)."""
        counts = self.owners.new_zeros(self.groups * self.responses)
        first = counts.scatter_reduce(0, self.owners, self.sources + 1, "amin", include_self=False)
        return first.view(self.groups, self.responses)

    @property
    def lengths(self) -> Tensor:
        """What a mean over a response's tokens divides by: the sum of their weights.

        Shape: (groups, k).
        """
        if self.weights is None:
            return self.token_counts
        return self.sum_by_response(torch.ones_like(self.weights))


@dataclass(frozen=True)
class Draft:
    """A batch on the CPU, before it is moved to where the model is.

    It can be made beside a step, since nothing of it runs on an accelerator.

    Attributes:
        batch: the batch; where responses share a prefix, without its mask.
        segments: what that mask is made from, see `shared_mask`. Shape: (rows, length).
        blocks: images whose tokens see each other, by the kind of layer.
        branches: tokens of each row's prompt, and of the responses behind it.
    """

    batch: Batch
    segments: Tensor | None = None
    blocks: Mapping[str, Tensor] = field(default_factory=dict)
    branches: tuple[Branches, ...] = ()

    def pinned(self) -> Draft:
        """The same in memory that an accelerator copies from while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def on(self, policy: Policy) -> Batch:
        """The batch where the model is; a mask of all pairs of tokens is made there."""
        device = policy.device
        wait = device.type != "cuda"
        moved = self._with(lambda tensor: moved_to(tensor, device, not wait))
        if moved.segments is None:
            return moved.batch
        inputs = moved.batch.inputs
        mask = self._mask(policy.core, moved.segments, moved.blocks, inputs["position_ids"])
        return replace(moved.batch, inputs={**inputs, "attention_mask": mask})

    def _mask(
        self,
        core: PreTrainedModel,
        segments: Tensor,
        blocks: Mapping[str, Tensor],
        positions: Tensor,
    ) -> object:
        """What the model's attention takes: a mask of all pairs, or of blocks for FlexAttention."""
        if attention_of(core) == FLEX:
            return block_masks(core, segments, blocks, positions)
        masks = {kind: shared_mask(segments, blocks.get(kind)) for kind in layer_kinds(core)}
        mask = masks_by_layer(core, masks, positions)
        if isinstance(mask, Tensor) and not blocks:
            remember(mask, self.branches)
        return mask

    def _with(self, act: Callable[[Tensor], Tensor]) -> Draft:
        batch = self.batch
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        changed: dict[str, Any] = {
            name: act(value) for name, value in tensors.items() if isinstance(value, Tensor)
        }
        inputs = {name: act(value) for name, value in batch.inputs.items()}
        return Draft(
            replace(batch, inputs=inputs, **changed),
            None if self.segments is None else act(self.segments),
            {kind: act(value) for kind, value in self.blocks.items()},
            self.branches,
        )


def beta_factors_of(groups: Sequence[Group]) -> Tensor | None:
    """What a loss multiplies its beta by; None where 1 for all. Shape: (groups, 1)."""
    factors = [[group.beta_factor] for group in groups]
    if all(factor == [1.0] for factor in factors):
        return None
    return torch.tensor(factors, dtype=torch.float64)


def labels_of(groups: Sequence[Group]) -> Tensor | None:
    """Of rows without a pair; None of pairs."""
    labels = [group.label for group in groups]
    return None if None in labels else torch.tensor(labels).unsqueeze(-1)


def weights_of_tokens(groups: Sequence[Group]) -> Tensor | None:
    """Of the tokens that count, by response; None where all groups have none."""
    if not any(group.weights for group in groups):
        return None
    flat = [(group, i) for group in groups for i in range(len(group.response_ids))]
    weights = [group.weights_of(i)[group.learned_of(i)] for group, i in flat]
    return torch.cat(weights)


def padded(row: Tensor, width: int, value: int) -> Tensor:
    """A row with a filler on the right, up to a width."""
    return torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=value)
