"""The log-probs of a run's start, which it finds again when it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.checks.proofs import MARGIN
from veridical.checks.proving import noise_floor
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.precision import dtype_name, exact, is_half
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.run_files import START, StartFile

RECORDED = "start.json"


def recognize_start(
    policy: Policy,
    groups: Sequence[Group],
    logps: Tensor,
    floor: float,
    out: Path,
    objective: Any,
) -> None:
    """Record the start of a new run; compare that of a resumed one with what step 0 recorded.

    Numbers in half precision that are not the very same are compared in float32, where that fits
    memory: what rounding does to them is as large as what another model does.
    All processes have to take part.

    Args:
        policy: as it will be trained, in evaluation mode.
        groups: the rows that prove the run.
        logps: of these rows, in the run's layout. Shape: (groups, k).
        floor: their noise floor, in nats.
        out: the run's folder.
        objective: what is optimized, as it describes itself; recorded beside.

    Raises:
        UserError: the run was started on other rows, or from another model.
    """
    known = processes.from_first(lambda: _recorded(out, groups, logps))
    if known is not None and processes.from_first(lambda: _moved(known["logps"], logps) == 0):
        return
    exactly, exact_floor = (logps, floor) if not is_half(policy) else _in_float32(policy, groups)
    if known is not None:
        before, now, limit = known["logps"], logps, MARGIN * floor
        if known["float32"] is not None and exactly is not None:
            before, now, limit = known["float32"], exactly, MARGIN * exact_floor
        elif processes.is_first():
            _tell_blind(policy, _moved(before, now), limit)
        processes.from_first(lambda: _require(out, _moved(before, now), limit))
    elif processes.is_first():
        wide = None if exactly is None else exactly.tolist()
        content = {"ids": _ids(groups), "logps": logps.tolist(), "float32": wide}
        content["objective"] = objective
        write_json(out / RECORDED, content)


@torch.no_grad()
def _in_float32(policy: Policy, groups: Sequence[Group]) -> tuple[Tensor | None, float]:
    """Log-probs of a float32 copy and their noise floor; None where no copy can be had."""
    with exact(policy, together=True) as precise:
        if precise is None:
            return None, 0.0
        logps = compute_logps(precise, groups, share_prefix=False, batch_size=len(groups))
        return logps, noise_floor(precise, groups)


def _recorded(out: Path, groups: Sequence[Group], logps: Tensor) -> StartFile | None:
    """What step 0 wrote; None for a run that is not resumed."""
    path = out / RECORDED
    if not path.is_file() or not any((out / "checkpoints").glob("checkpoint-*")):
        return None
    content = START.read(out)
    tables = (content["logps"], content["float32"] or content["logps"])
    same_shape = all([len(row) for row in t] == [logps.shape[1]] * len(logps) for t in tables)
    if content["ids"] != _ids(groups) or not same_shape:
        raise UserError(
            f"{out} was started on other pairs than these. Give the same data and seed to "
            "resume it, or another --out."
        )
    return content


def _ids(groups: Sequence[Group]) -> list[str]:
    return [group.id for group in groups]


def _moved(before: object, now: Tensor) -> float:
    return float((torch.tensor(before, dtype=torch.float64) - now.cpu().double()).abs().max())


def _require(out: Path, moved: float, limit: float) -> None:
    if not moved <= limit:
        raise UserError(
            f"{out} was started from another model: log-probs of its first pairs differ by "
            f"{moved:.2g} nats, and rounding explains {limit:.2g}. Give the same model to resume "
            "it, or another --out."
        )


def _tell_blind(policy: Policy, moved: float, limit: float) -> None:
    print(
        f"  The start differs from the recorded one by {moved:.2g} nats; rounding in "
        f"{dtype_name(policy)} explains up to {limit:.2g}. A model that differs by no more can't "
        "be told apart without a float32 copy, for which there is no memory."
    )
