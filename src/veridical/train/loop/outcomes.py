"""From a batch's log-probs to its loss and what is logged."""

from __future__ import annotations

from torch import Tensor

from veridical.models.logprobs import ResponseLogps
from veridical.objectives.base import PairLogps
from veridical.objectives.preference import Preference
from veridical.train.loop.task import Objective, Outcome


def outcome_of(objective: Preference) -> Objective:
    """Response 0 is chosen, the others are rejected; logged is the first rejected one."""

    def compute(policy: ResponseLogps, reference: Tensor) -> Outcome:
        logps = PairLogps(policy.sums, reference, policy.counts)
        return Outcome(objective(logps).sum(), objective.measures(logps))

    return compute
