"""What is proven of preference training on a few rows, before its first step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from veridical.checks.proofs import Proof, prove_declared_reference, prove_start, repeat_noise
from veridical.checks.proving import prove
from veridical.models.batching import collate
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.objectives.base import PairLogps
from veridical.objectives.preference import Preference
from veridical.train.loop.items import Items
from veridical.train.loop.recorded_start import recognize_start
from veridical.train.loop.rows import proof_rows
from veridical.train.loop.start import conclude
from veridical.train.loop.trainer import Task


def prove_run(
    policy: Policy,
    train: Items,
    task: Task,
    objective: Preference,
    floor: float,
    out: Path,
    declared: Tensor | None,
) -> list[Proof]:
    """Run the five proofs on a few rows, write `proofs.json`, and stop if one fails.

    A resumed run must find the start that its step 0 recorded.

    Args:
        policy: as it will be trained.
        train: the rows, with the reference's log-probs.
        task: what will be optimized.
        objective: the same, with its settings.
        floor: the noise floor, in nats.
        out: the run's folder.
        declared: log-probs of these rows by a reference that is not the start, as one batch in the
            run's layout; None where the start is the reference. Shape: (proof rows, k).

    Raises:
        UserError: a proof fails.
    """
    policy.model.eval()
    chosen = proof_rows(train.groups, train.left_out or ())
    groups = [train.groups[index] for index in chosen]
    policy_logps = compute_logps(policy, groups, task.share_prefix, len(groups))
    reference = train.reference_logps[chosen]
    if task.reference_in_step:
        batch = collate(policy, groups, task.share_prefix)
        reference = task.scorer(batch, reference=True)[0].double().cpu()
    # Stored or in the step, the reference has read this very batch, so that no dtype is a reason to
    # differ.
    again = compute_logps(policy, groups, task.share_prefix, len(groups))
    same_batch = min(floor, repeat_noise(policy_logps, again))
    counts = torch.tensor([[int(g.learned_of(i).sum()) for i in _responses(g)] for g in groups])
    logps = PairLogps(policy_logps, reference, counts)
    proofs = [
        _prove_start(objective.with_known_start(), logps, declared, same_batch),
        *prove(policy, groups, lambda some, rows: collate(some, rows, task.share_prefix)),
    ]
    recognize_start(policy, groups, policy_logps, floor, out, objective.describe())
    return conclude(proofs, out)


def _prove_start(
    objective: Preference, logps: PairLogps, declared: Tensor | None, floor: float
) -> Proof:
    """That the reference is what was declared, and the loss what it then has to be."""
    if not objective.needs_reference or objective.at_start is None:
        why = f"{objective.loss.title} compares with no reference"
        return Proof("start", True, False, 0.0, 0.0, "nats", why)
    value = float(objective(logps).sum()) / len(logps.policy)
    if declared is not None:
        return prove_declared_reference(logps.reference, declared, value, floor)
    known, slope = objective.at_start, objective.slope_at_start
    return prove_start(logps.policy, logps.reference, value, known, slope, floor)


def _responses(group: Group) -> range:
    return range(len(group.response_ids))
