"""Means over the rows of all processes, of what is logged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from veridical.runtime import processes
from veridical.train.loop.task import Outcome


class RowMeans:
    """Keeps what objectives measure where it was computed, until it is asked for the means.

    To fetch it at every step would make the host wait for an accelerator.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[Tensor]] = {}
        self._earlier: dict[str, tuple[float, int]] = {}

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
        sums, self._kept, self._earlier = self.sums(), {}, {}
        if not sums:
            return {}
        means: dict[str, float | None] = {
            n: total / rows for n, (total, rows) in sums.items() if rows and not n.startswith("_")
        }
        counted = sums["_count"][0]
        means["mean_loss"] = sums["_loss_sum"][0] / counted if counted else None
        return means

    def sums(self) -> dict[str, tuple[float, int]]:
        """Sum and count of every measure since the last call of `take`, over all processes.

        All processes have to take part.
        """
        own = {
            name: (float(torch.cat(values).cpu().double().sum()), sum(map(len, values)))
            for name, values in self._kept.items()
        }
        sums = dict(self._earlier)
        for shared in processes.gather(own):
            for name, (total, rows) in shared.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + total, before[1] + rows)
        return sums

    def go_on(self, sums: Mapping[str, tuple[float, int]]) -> None:
        """Begin with what `sums` gave before an interruption; the same in every process."""
        self._earlier = {name: (total, rows) for name, (total, rows) in sums.items()}


class Unlogged(TrainerCallback, ExportableState):
    """Keeps in each checkpoint what no line of the log has yet, so that a resumed run logs it."""

    def __init__(self, means: RowMeans) -> None:
        """Take what is logged."""
        self.means = means
        self.sums: dict[str, tuple[float, int]] = {}

    def keep(self) -> None:
        """Add up for the checkpoint that is written next; all processes have to take part."""
        self.sums = self.means.sums()

    def state(self) -> dict[str, dict[str, object]]:
        """What a checkpoint's `trainer_state.json` keeps."""
        return {"args": {}, "attributes": {"sums": self.sums}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Go on with what the resumed checkpoint has; older ones have nothing."""
        kept = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and kept is not None:
            self.means.go_on(kept["attributes"]["sums"])
