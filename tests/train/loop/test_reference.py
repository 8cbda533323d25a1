"""The choice of the reference: one table for what is asked and what comes of it."""

from __future__ import annotations

import copy
import dataclasses
import json
import weakref
from pathlib import Path

import pytest
import torch

from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.runs import start_run
from veridical.train.loop.items import Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.reference import Reference, choose_reference, prepare_reference
from veridical.train.loop.rows import TrainingRows
from veridical.train.loop.training_set import TrainingSet
from veridical.train.options import Training

LORA = Training(learning_rate=1e-4, device="cpu", cache="none")
FULL = dataclasses.replace(LORA, tuning="full")


def another(policy: Policy) -> Policy:
    """A model of the same kind, with other weights."""
    other = Policy(copy.deepcopy(policy.model), policy.processor, "other")
    with torch.no_grad():
        other.core.lm_head.weight.mul_(1.5)
    return other


def rows_of(groups: list[Group], out: Path) -> TrainingSet:
    left_out = LeftOut(out, TrainingRows(groups, [], 0, len(groups)), LORA)
    nothing = torch.zeros(len(groups), 2, dtype=torch.float64)
    train = Items(groups[:4], nothing[:4], left_out, groups[0])
    return TrainingSet(train, Items(groups[4:], nothing[4:], left_out), groups[:2], left_out, 0)


@pytest.mark.parametrize(
    ("needed", "when", "declares", "training", "source", "in_step", "second"),
    [
        (False, "precomputed", False, LORA, "none", False, False),
        (False, "in_step", False, FULL, "none", False, False),
        (True, "precomputed", False, LORA, "stored", False, False),
        (True, "precomputed", True, FULL, "stored", False, False),
        (True, "in_step", False, LORA, "adapter_off", True, False),
        (True, "in_step", False, FULL, "frozen_copy", True, True),
        (True, "in_step", True, LORA, "frozen_copy", True, True),
    ],
)
def test_what_is_asked_decides_the_source(
    needed: bool,
    when: str,
    declares: bool,
    training: Training,
    source: str,
    in_step: bool,
    second: bool,
    policy: Policy,
    groups: list[Group],
    tmp_path: Path,
) -> None:
    declared = another(policy) if declares else None
    with start_run(tmp_path / "run", "train dpo", {}, {}) as run:
        chosen = choose_reference(policy, policy, needed, when, declared, training, run)  # type: ignore[arg-type]
        assert (chosen.source, chosen.in_step) == (source, in_step)
        assert chosen.is_start == (needed and not declares)
        rows = rows_of(groups, run.folder)
        ready, filled = prepare_reference(chosen, rows, True, 1e-6, training, run)
        run.finish()
    assert (ready.policy is not None) == second
    # A copy of the start, since that is trained as a whole; another model as it is.
    if second:
        assert ready.policy is not None
        assert (ready.policy.model is policy.model, ready.policy is declared) == (False, declares)
    assert (ready.few_logps is not None) == declares
    stored = filled.train.reference_logps
    assert bool((stored != 0).all()) == (source == "stored")
    if source == "stored":
        written = json.loads((tmp_path / "run" / "reference_logps.json").read_text())["logps"]
        assert torch.equal(torch.tensor(written, dtype=torch.float64)[:4], stored)
    if declares and source == "stored":
        assert ready.few_logps is not None
        assert torch.allclose(ready.few_logps, stored[:2], rtol=0, atol=1e-9)


def test_a_model_whose_log_probs_are_stored_does_not_stay_in_memory(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    other = another(policy)
    alive = weakref.ref(other.model)
    with start_run(tmp_path / "run", "train dpo", {}, {}) as run:
        held_to = Reference("stored", "other", False, other)
        rows = rows_of(groups, run.folder)
        dry = dataclasses.replace(LORA, dry_run=True)
        held_to, rows = prepare_reference(held_to, rows, True, 1e-6, dry, run)
        run.finish()
    del other
    assert alive() is None
    assert not rows.train.reference_logps.any()  # nothing is stored in a dry run


def test_a_reference_of_another_kind_is_refused(policy: Policy, tmp_path: Path) -> None:
    other = another(policy)
    other = dataclasses.replace(other, processor=copy.deepcopy(policy.processor))
    other.processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    with (
        pytest.raises(UserError, match="can't judge what tiny reads: their image processors"),
        start_run(tmp_path / "run", "train dpo", {}, {}) as run,
    ):
        choose_reference(policy, policy, True, "in_step", other, LORA, run)
