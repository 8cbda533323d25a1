"""What a run checks of itself before its first step: called from here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from veridical.checks.proof_texts import print_proofs, require
from veridical.checks.proofs import Proof
from veridical.checks.proving import prove
from veridical.models.batch import Batch
from veridical.models.batching import collate
from veridical.models.measures import MeasureOf, logps_measure
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.files import write_json


def check_before_training(
    policy: Policy,
    groups: Sequence[Group],
    share_prefix: bool,
    out: Path,
    start: Proof | None = None,
    measure: MeasureOf = logps_measure,
) -> list[Proof]:
    """Run every check on a few rows, write `proofs.json`, print them, and stop if one fails.

    All processes have to take part.

    Args:
        policy: as it will be trained.
        groups: the rows; 4 are enough.
        share_prefix: the layout.
        out: the run's folder.
        start: the check of the start, where there is a reference or a new head (`starts.py`).
        measure: what the checks look at.

    Raises:
        UserError: one fails.
    """

    def lay_out(some: Policy, rows: Sequence[Group]) -> Batch:
        return collate(some, rows, share_prefix)

    proofs = [*([start] if start else []), *prove(policy, groups, lay_out, measure)]
    if processes.is_first():
        write_json(out / "proofs.json", [dataclasses.asdict(proof) for proof in proofs])
    print_proofs(proofs)
    require(proofs)
    return proofs
