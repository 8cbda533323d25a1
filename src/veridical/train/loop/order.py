"""Which rows each process sees when: the same whole batches, however many processes there are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from veridical.train.loop.counting import steps_an_epoch

Value = TypeVar("Value")


@dataclass(frozen=True)
class OrderedRow:
    """A row's index, and whether it counts; one that does not only keeps a process busy."""

    index: int
    counts: bool = True


GroupingName = Literal["no", "step", "epoch"]
"""Among which rows those of like length are put into the same batch."""
POOL = 50
"""Whole batches whose rows are sorted among each other under `epoch` (our choice, as Transformers'
own sampler: enough for little padding, few enough for an order that is still random)."""


@dataclass(frozen=True)
class Grouping:
    """Rows of like length come in the same batch, the longest first.

    Attributes:
        lengths: of each row, in tokens.
        batches: whole batches whose rows are sorted among each other; None for all.
        shuffled: put these batches in random order afterwards; a smaller last one stays last.
    """

    lengths: Sequence[int]
    batches: int | None
    shuffled: bool = False

    @classmethod
    def of(cls, asked: GroupingName, lengths: Sequence[int], accumulation: int) -> Grouping:
        """What an option asks for.

        Args:
            asked: `step` sorts the rows of a step, whose sum stays the same; `epoch` those of
                `POOL` batches.
            lengths: of each row, in tokens.
            accumulation: whole batches a step.
        """
        return cls(lengths, accumulation) if asked == "step" else cls(lengths, POOL, True)

    def arrange(self, order: Sequence[int], whole: int, noise: torch.Generator) -> list[int]:
        """An epoch's rows in the order in which whole batches are cut from them.

        Args:
            order: the rows.
            whole: rows of a whole batch.
            noise: of the batches' order.
        """
        arranged: list[int] = []
        pool = len(order) if self.batches is None else whole * self.batches
        for first in range(0, len(order), max(1, pool)):
            rows = sorted(order[first : first + pool], key=lambda row: -self.lengths[row])
            batches = [rows[start : start + whole] for start in range(0, len(rows), whole)]
            if self.shuffled:
                full = [batch for batch in batches if len(batch) == whole]
                places = torch.randperm(len(full), generator=noise).tolist()
                batches = [*(full[place] for place in places), *batches[len(full) :]]
            arranged += [row for batch in batches for row in batch]
        return arranged


class RankSampler(Sampler[list[OrderedRow]]):
    """One rank's rows of every whole batch.

    A whole batch is `batch_size` rows for each process. The last one of an epoch may be smaller;
    a process that it leaves nothing runs a row that does not count, since the others wait for it.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int | None,
        process: int,
        processes: int,
        grouping: Grouping | None = None,
    ) -> None:
        """Say who this is.

        Args:
            rows: of the data.
            batch_size: rows of a full batch of this rank.
            seed: of the order, which changes with the epoch; None keeps the rows' own.
            process: which process this is, from 0.
            processes: how many there are.
            grouping: which rows share a batch; chance if not given.
        """
        self.grouping = grouping
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.process, self.processes = process, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.rows / (self.batch_size * self.processes))

    def order(self, epoch: int) -> list[int]:
        """The rows of an epoch, one after the other."""
        noise, order = torch.Generator(), list(range(self.rows))
        if self.seed is not None:
            noise.manual_seed(self.seed + epoch)
            order = torch.randperm(self.rows, generator=noise).tolist()
        if self.grouping is None:
            return order
        return self.grouping.arrange(order, self.batch_size * self.processes, noise)

    def rows_of_step(self, step: int, accumulation: int) -> list[int]:
        """What all processes together see in an optimizer step.

        Args:
            step: from 0, over all epochs.
            accumulation: whole batches a step; an epoch's last step may have fewer.
        """
        rows = self.batch_size * self.processes * accumulation
        epoch, number = divmod(step, steps_an_epoch(self.rows, rows))
        return self.order(epoch)[number * rows : (number + 1) * rows]

    def __iter__(self) -> Iterator[list[OrderedRow]]:
        order = self.order(self.epoch)
        whole, start = self.batch_size * self.processes, self.process * self.batch_size
        for first in range(0, self.rows, whole):
            batch = order[first : first + whole]
            mine = [OrderedRow(index) for index in batch[start : start + self.batch_size]]
            yield mine or [OrderedRow(batch[0], counts=False)]


class Batches(DataLoader[Any]):
    """A data loader whose order follows the epoch that the Trainer tells it."""

    def __init__(
        self,
        data: Dataset[object],
        rank_sampler: RankSampler,
        collate: Callable[..., Mapping[str, object]],
        ahead: int = 0,
    ) -> None:
        """Say what is laid out, and when.

        Args:
            data: the rows.
            rank_sampler: their order.
            collate: lays a batch out.
            ahead: batches that a thread lays out beside what an accelerator computes.
        """
        super().__init__(data, batch_sampler=rank_sampler, collate_fn=collate)
        self.rank_sampler = rank_sampler
        self.ahead = ahead

    def __iter__(self) -> Any:
        """The batches of the epoch."""
        batches = super().__iter__()
        return made_ahead(batches, self.ahead) if self.ahead else batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.rank_sampler.set_epoch(epoch)


def made_ahead(batches: Iterator[Value], count: int) -> Iterator[Value]:
    """The same items in the same order, with the next few made in a thread.

    Args:
        batches: made one after the other; an error comes where its item would have.
        count: how many at most are made before they are asked for.
    """
    made: deque[Future[Value | None]] = deque()
    with ThreadPoolExecutor(1, "batches") as thread:
        try:
            while True:
                while len(made) <= count:
                    made.append(thread.submit(next, batches, None))
                batch = made.popleft().result()
                if batch is None:
                    return
                yield batch
        finally:
            for waiting in made:
                waiting.cancel()
