"""The check of the start: the reference is what was declared, and the loss what it has to be."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.checks.proofs import MARGIN, Proof
from veridical.objectives.base import PairLogps
from veridical.objectives.preference import Preference


def pair_start(
    objective: Preference, logps: PairLogps, declared: Tensor | None, floor: float
) -> Proof:
    """That the reference is what was declared, and the loss what it then has to be.

    Args:
        objective: what will be minimized; where its first value depends on the rows, the log-probs
            alone are compared.
        logps: of a few rows, as the loss will use them.
        declared: of these rows by a reference that is not the start, else None. Shape: (pairs, k).
        floor: the noise floor, in nats.
    """
    objective = objective.with_known_start()
    if not objective.needs_reference:
        why = f"{objective.loss.title} compares with no reference"
        return Proof("start", True, False, 0.0, 0.0, "nats", why)
    value = float(objective(logps).sum()) / len(logps.policy)
    if declared is not None:
        return prove_declared_reference(logps.every_reference, declared, value, floor)
    known = value if objective.at_start is None else objective.at_start
    slope = objective.slope_at_start or 1.0
    every = (logps.every_policy, logps.every_reference)
    return prove_start(*every, value, known, slope, floor)


def prove_start(
    policy_logps: Tensor,
    reference_logps: Tensor,
    loss: float,
    expected_loss: float,
    slope: float,
    floor: float,
) -> Proof:
    """Where the reference is the starting policy, rewards are 0 and the loss is known.

    The value is in nats of log-probability: the largest log-ratio, or the log-ratio that would
    explain the loss, whichever is larger.

    Args:
        policy_logps: of the starting policy, in evaluation mode. Shape: (groups, k).
        reference_logps: as the loss will use them. Shape: (groups, k).
        loss: the mean loss of these rows.
        expected_loss: ln 2 for DPO.
        slope: how much a nat between the branches changes the loss at the start, at most.
        floor: the noise floor, in nats.
    """
    log_ratio = float((policy_logps - reference_logps.to(policy_logps)).abs().max())
    value = max(log_ratio, abs(loss - expected_loss) / slope)
    limit = MARGIN * floor
    detail = f"largest log-ratio {log_ratio:.3g}, loss {loss:.6f}, known value {expected_loss:.6f}"
    return _start(value, limit, detail, reference_logps)


def _start(value: float, limit: float, detail: str, reference_logps: Tensor) -> Proof:
    """A reference whose rows were exchanged would differ by up to their range; that must fail."""
    spread = float(reference_logps.max() - reference_logps.min())
    blind = reference_logps.numel() > 1 and value <= limit and not spread > limit
    if blind:
        detail += f"; the rows' log-probs differ by {spread:.3g} among themselves"
    return Proof("start", value <= limit, True, value, limit, "nats", detail, blind)


def prove_declared_reference(
    reference_logps: Tensor, declared_logps: Tensor, loss: float, floor: float
) -> Proof:
    """Where another reference than the start was declared, the loss gets the log-probs of that.

    Args:
        reference_logps: as the loss will use them. Shape: (groups, k).
        declared_logps: by the declared model. Shape: (groups, k).
        loss: the mean loss of these rows, which has no known value then.
        floor: the noise floor, in nats.
    """
    value = float((reference_logps - declared_logps.to(reference_logps)).abs().max())
    limit = MARGIN * floor
    detail = f"the declared reference's log-probs as the loss uses them; first loss {loss:.6f}"
    return _start(value, limit, detail, reference_logps)


def repeat_noise(first: Tensor, again: Tensor) -> float:
    """How much log-probs of one batch differ when the same model computes them twice, in nats.

    Policy and reference read the same batch when the reference runs in the step. Then no dtype is a
    reason for them to differ. A unit in the last place of a float32 sum is allowed.

    Args:
        first: log-probs of a batch. Shape: (groups, k).
        again: the same, computed again. Shape: (groups, k).
    """
    unit = torch.finfo(torch.float32).eps * max(float(first.abs().max()), 1.0)
    return max(float((first - again).abs().max()), unit)


def reward_start(rewards: Tensor, loss: float, expected_loss: float) -> Proof:
    """Before the first step every reward is 0 and the loss is known.

    Args:
        rewards: of a few pairs. Shape: (pairs, 2).
        loss: their mean.
        expected_loss: ln 2.
    """
    value = max(float(rewards.abs().max()), abs(loss - expected_loss))
    limit = 10 * torch.finfo(torch.float32).eps
    largest = f"largest reward {float(rewards.abs().max()):.3g}"
    detail = f"{largest}, loss {loss:.6f}, known {expected_loss:.6f}"
    return Proof("start", value <= limit, True, value, limit, "log-odds", detail)
