"""Transformers' Trainer with our own order of rows, and batches that are laid out ahead."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from veridical.models.batching import layout_shape
from veridical.models.policy import Policy
from veridical.train.loop.collator import Collator, StepInputs
from veridical.train.loop.items import Items
from veridical.train.loop.order import Batches, Grouping, GroupingName, RankSampler
from veridical.train.loop.saving_trainer import SavingTrainer


class LoadingTrainer(SavingTrainer):
    """A Trainer that gets its batches from `Items`; a subclass sets the attributes.

    Attributes:
        policy: whose processor lays batches out.
        collate_items: lays them out.
        group_by_length: among which rows those of like length share a batch.
        _of_threads: collators of other threads, by whose batches they lay out.
    """

    policy: Policy
    collate_items: Collator
    group_by_length: GroupingName = "no"
    _of_threads: dict[str, Collator]

    def get_train_dataloader(self) -> Batches:
        """Every row once an epoch, in the seed's order; those of this rank."""
        return self._batches(self.train_dataset, self.args.seed)

    def get_eval_dataloader(self, eval_dataset: object = None) -> Batches:
        """Every held-out row once, in its own order."""
        return self._batches(self.eval_dataset, None)

    def _batches(self, items: Any, seed: int | None) -> Batches:
        size, arguments = self.args.per_device_train_batch_size, self.args
        sampler = RankSampler(
            len(items), size, seed, arguments.process_index, arguments.world_size,
            self._grouping(items, seed is not None),
        )  # fmt: skip
        ahead = self._made_ahead(items)
        collate = self._collator_of_thread("train" if seed is not None else "eval", ahead)
        return Batches(items, sampler, collate, ahead)

    def _grouping(self, items: Items, trained: bool) -> Grouping | None:
        """Which rows share a batch; held-out rows are sorted as one, which has no order to keep."""
        if self.group_by_length == "no":
            return None
        share = self.collate_items.share_prefix
        lengths = [layout_shape(group, share)[1] for group in items.groups]
        if not trained:
            return Grouping(lengths, None)
        return Grouping.of(self.group_by_length, lengths, self.args.gradient_accumulation_steps)

    def _collator_of_thread(self, which: str, ahead: int) -> Collator:
        """A collator whose processor no other thread uses: a tokenizer remembers how to pad.

        Args:
            which: whose batches it lays out.
            ahead: how many in a thread; without one it is the usual collator.
        """
        if not ahead:
            return self.collate_items
        if which not in self._of_threads:
            processor = copy.deepcopy(self.policy.processor)
            own = replace(self.policy, processor=processor)
            self._of_threads[which] = replace(self.collate_items, policy=own)
        return self._of_threads[which]

    def _made_ahead(self, items: Items) -> int:
        """Batches that are laid out while others are computed: those of the next step.

        On a CPU there is nothing beside which to do it; features that are kept may have to be
        computed, in the precision of the steps.
        """
        if self.policy.device.type != "cuda" or self.policy.vision is not None:
            return 0
        return 0 if items.made_by_policy else self.args.gradient_accumulation_steps

    def _prepare_inputs(self, inputs: StepInputs) -> StepInputs:
        """As they are: a step moves its batch itself, and the counts are for the host."""
        return inputs
