"""Means over the rows of all processes, of what is logged."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.runtime import processes
from veridical.train.loop.task import Outcome


class RowMeans:
    """Keeps what objectives measure where it was computed, until it is asked for the means.

    To fetch it at every step would make the host wait for an accelerator.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[Tensor]] = {}

    def add(self, outcome: Outcome, count: Tensor) -> None:
        """Keep a batch's loss, its count, and its measures."""
        kept = self._kept
        kept.setdefault("_loss_sum", []).append(outcome.loss_sum.detach().reshape(1))
        kept.setdefault("_count", []).append(count.reshape(1))
        for name, values in outcome.measures.items():
            kept.setdefault(name, []).append(values.detach())

    def take(self) -> dict[str, float | None]:
        """Means over the rows of all processes since the last call; empty where there were none.

        All processes have to take part.
        """
        own = {
            name: (float(torch.cat(values).cpu().double().sum()), sum(map(len, values)))
            for name, values in self._kept.items()
        }
        self._kept = {}
        sums: dict[str, tuple[float, int]] = {}
        for shared in processes.gather(own):
            for name, (total, rows) in shared.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + total, before[1] + rows)
        if not sums:
            return {}
        means: dict[str, float | None] = {
            n: total / rows for n, (total, rows) in sums.items() if rows and not n.startswith("_")
        }
        counted = sums["_count"][0]
        means["mean_loss"] = sums["_loss_sum"][0] / counted if counted else None
        return means
