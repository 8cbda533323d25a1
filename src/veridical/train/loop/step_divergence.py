"""KTO's divergence of a whole step: of all its batches, in all processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from veridical.objectives.base import Divergence, PairLogps
from veridical.objectives.kto import mismatched_ratios
from veridical.runtime import processes


class StepDivergence:
    """Estimates how far the policy has moved, from all answers to other prompts of a step.

    A row's loss depends on it, so that it has to be known before the first of them. A step of one
    batch has it from that batch's own forward pass; one of several batches needs a pass ahead.

    Attributes:
        value: of the step that is worked on.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.value: Divergence | None = None
        self._ahead = False

    def look_ahead(self, batches: Iterable[tuple[PairLogps, bool]]) -> None:
        """Estimate it from all batches of a step; it stands until `forget`.

        All processes have to take part.

        Args:
            batches: this process's, with whether their rows count.
        """
        self.value = _over_processes(sum(_sums(*batch) for batch in batches))
        self._ahead = True

    def see(self, logps: PairLogps, counts: bool) -> None:
        """Estimate it from this batch alone, where no one has looked ahead.

        All processes have to take part.
        """
        if not self._ahead:
            self.value = _over_processes(_sums(logps, counts))

    def forget(self) -> None:
        """Another step begins."""
        self.value, self._ahead = None, False


def _sums(logps: PairLogps, counts: bool) -> Tensor:
    """Of the log-ratios, of their means over tokens, and how many. Shape: (3,)."""
    ratios = mismatched_ratios(logps)
    means = mismatched_ratios(logps.per_token())
    number = ratios.new_tensor(ratios.numel())
    return torch.stack([ratios.sum(), means.sum(), number]) * float(counts)


def _over_processes(own: Tensor | int) -> Divergence:
    assert isinstance(own, Tensor)  # a step has a batch
    ratios, means, number = processes.total(own)
    number = number.clamp(min=1)
    return Divergence((ratios / number).clamp(min=0), (means / number).clamp(min=0))
