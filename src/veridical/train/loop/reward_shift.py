"""The mean reward of the steps before: BCO's reward shift, kept with each checkpoint."""

from __future__ import annotations

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from veridical.runtime import processes


class RunningMean(TrainerCallback, ExportableState):
    """Mean log-ratio of the answers of all finished steps; 0 before the first one.

    It changes between steps, not within one, and evaluations leave it as it is: so neither
    accumulation nor the number of processes changes a loss. (InternVL's code takes the mean of the
    means of all batches, the present one and evaluations included.)
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.total, self.count = 0.0, 0
        self._seen: list[Tensor] = []

    @property
    def mean(self) -> float:
        """In nats: a loss multiplies it by its beta."""
        return self.total / self.count if self.count else 0.0

    def see(self, log_ratios: Tensor) -> None:
        """Keep those of a batch until the step ends; fetching them now would make the host wait."""
        self._seen.append(log_ratios)

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint's `trainer_state.json` keeps."""
        return {"args": {}, "attributes": {"total": self.total, "count": self.count}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Go on with what the resumed checkpoint has seen."""
        if state.global_step:
            kept = state.stateful_callbacks[type(self).__name__]["attributes"]
            self.total, self.count = kept["total"], kept["count"]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Forget what was only tried."""
        self._seen = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Add the step's, of all processes."""
        seen, self._seen = self._seen, []
        own = sum(float(one.cpu().double().sum()) for one in seen), sum(map(len, seen))
        for total, count in processes.gather(own):
            self.total, self.count = self.total + total, self.count + count
