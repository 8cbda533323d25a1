"""What is checked of preference training on a few rows, before its first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from veridical.checks.before_training import check_before_training
from veridical.checks.proofs import Proof
from veridical.checks.starts import pair_start, repeat_noise
from veridical.models.batching import collate
from veridical.models.logprobs import compute_logps, logps_of
from veridical.models.policy import Policy
from veridical.objectives.preference import Preference
from veridical.train.loop.items import Items
from veridical.train.loop.outcomes import pair_logps
from veridical.train.loop.recorded_start import recognize_start
from veridical.train.loop.task import Task
from veridical.train.loop.training_set import proof_rows


def check_pairs(
    policy: Policy,
    train: Items,
    task: Task,
    objective: Preference,
    floor: float,
    out: Path,
    declared: Tensor | None = None,
) -> list[Proof]:
    """Check a run of preference training, and stop if a check fails.

    A resumed run must find the start that its step 0 recorded.

    Args:
        policy: as it will be trained.
        train: the rows, with the reference's log-probs.
        task: what will be optimized.
        objective: the same, with its settings.
        floor: the noise floor, in nats.
        out: the run's folder; gets `proofs.json` and `start.json`.
        declared: log-probs of these rows by a reference that is not the start, as one batch in the
            run's layout. Shape: (proof rows, k).

    Raises:
        UserError: a check fails.
    """
    policy.model.eval()
    chosen = proof_rows(train.groups, train.left_out or ())
    groups = [train.groups[index] for index in chosen]
    batch = collate(policy, groups, task.share_prefix)
    logps = compute_logps(policy, groups, task.share_prefix, len(groups))
    reference = train.reference_logps[chosen]
    if task.reference_in_step:
        reference = task.scorer(batch, reference=True)[0].cpu().double()
    # Stored or in the step, the reference has read this very batch, so that no dtype is a reason to
    # differ.
    again = compute_logps(policy, groups, task.share_prefix, len(groups))
    pairs = pair_logps(logps_of(batch, logps, batch.token_counts.cpu()), reference)
    start = pair_start(objective, pairs, declared, min(floor, repeat_noise(logps, again)))
    start = dataclasses.replace(start, detail=start.detail + task.moves)
    recognize_start(policy, groups, logps, floor, out, objective.describe())
    return check_before_training(policy, groups, task.share_prefix, out, start)
