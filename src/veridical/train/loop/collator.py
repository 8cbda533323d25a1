"""Rows become the inputs of a step, without those that the processor refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from veridical.models.batch import Draft
from veridical.models.batching import draft
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.train.loop.items import Item, Items


class StepInputs(TypedDict):
    """What a step gets: a batch, still on the CPU, and what the objective needs beside it.

    `blank` has the vision inputs of a picture that does not count, for a batch without images;
    `reference_logps` those of the batch's rows, shape (groups, k), zeros where none are stored;
    `count` how many items the batch has that count.
    """

    batch: Draft
    blank: dict[str, Tensor] | None
    reference_logps: Tensor
    count: Tensor


@dataclass(frozen=True)
class Collator:
    """Lays batches out.

    Attributes:
        policy: whose processor it is.
        share_prefix: the layout.
        count: how many items a batch of groups has: pairs, or tokens.
        train: the rows; they say what is left out, and what stands in for it.
        blank: vision inputs for batches without images, where those are needed.
    """

    policy: Policy
    share_prefix: bool
    count: Callable[[Sequence[Group]], int]
    train: Items
    blank: dict[str, Tensor] | None

    def __call__(self, items: Sequence[Item]) -> StepInputs:
        """Lay a batch out; everything the objective needs is in it.

        Rows that the processor refuses leave it; where none is left, one that does not count keeps
        this process in step with the others.
        """
        batch, kept = self._laid_out([item for item in items if item.counts])
        count = self.count([item.group for item in kept])
        if batch is None:
            batch, kept = self._idle(items[0])
        return {
            "batch": batch,
            "blank": None if have_images([item.group for item in kept]) else self.blank,
            "reference_logps": torch.stack([item.reference_logps for item in kept]),
            "count": torch.tensor(count),
        }

    def _laid_out(self, items: Sequence[Item]) -> tuple[Draft | None, list[Item]]:
        """A batch of the rows that the processor takes, and those rows."""
        groups, left_out = [item.group for item in items], self.train.left_out
        if left_out is None:
            return (self._lay_out(groups) if groups else None), list(items)
        batch, places = left_out.lay_out(groups, self._lay_out)
        return batch, [items[place] for place in places]

    def _idle(self, item: Item) -> tuple[Draft, list[Item]]:
        """A batch of one row, or of what stands in for it where the processor refuses that."""
        batch, kept = self._laid_out([item])
        if batch is not None:
            return batch, kept
        stand_in = self.train.stand_in
        assert stand_in is not None  # who leaves rows out has found one that can be used
        return self._lay_out([stand_in]), [Item(stand_in, item.reference_logps)]

    def _lay_out(self, groups: Sequence[Group]) -> Draft:
        made = draft(self.policy, groups, self.share_prefix)
        return made.pinned() if self.policy.device.type == "cuda" else made


def have_images(groups: Sequence[Group]) -> bool:
    """Whether any row has an image."""
    return any(g.images_of(i) for g in groups for i in range(len(g.response_ids)))
