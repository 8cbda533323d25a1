"""The rows of a training, by place, as the data loader wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from veridical.models.rendering import Group
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.order import OrderedRow


@dataclass(frozen=True)
class Item:
    """One training row: a group, and its reference log-probs where they were computed before.

    One that does not count keeps a process busy that has no row of its own.
    """

    group: Group
    reference_logps: Tensor
    counts: bool = True


class Items(Dataset[Item]):
    """Rows by place, as the data loader wants them.

    Attributes:
        shorter: what to set where a step on the longest of them does not fit into memory.
        made_by_policy: whether they depend on the policy as it is at their step.
    """

    made_by_policy = False

    shorter = (
        "Lower --batch-size or --max-length, or set trainer.gradient_checkpointing; --dry-run true "
        "says what takes how much."
    )

    def __init__(
        self,
        groups: Sequence[Group],
        reference_logps: Tensor,
        left_out: LeftOut | None = None,
        stand_in: Group | None = None,
    ) -> None:
        """Take rows in.

        Args:
            groups: the rows.
            reference_logps: of each. Shape: (groups, k).
            left_out: takes what the processor refuses; without it such a row ends the run.
            stand_in: what a process runs, and does not count, where it has no row that can be used.
        """
        self.groups, self.reference_logps = groups, reference_logps
        self.left_out, self.stand_in = left_out, stand_in

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: OrderedRow) -> Item:
        return Item(self.groups[place.index], self.reference_logps[place.index], place.counts)

    @property
    def tried(self) -> Sequence[Group]:
        """By place, the longest that a step can meet of each row, with its `prompt_tokens`."""
        return self.groups

    def told(self) -> dict[str, float]:
        """What a line of the log says of the rows since the last."""
        return {}


def usable_rows(items: Items | None) -> int:
    """How many rows are not left out; one that comes more than once in an epoch counts once."""
    if items is None:
        return 0
    return len(
        {
            id(group)
            for group in items.groups
            if items.left_out is None or group not in items.left_out
        }
    )
