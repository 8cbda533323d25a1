"""The reference of a run: which model it is, and how its log-probabilities reach the loss.

Chosen here and nowhere else. The start is the reference unless another model is declared.

| source | where log-probabilities come from |
| --- | --- |
| `none` | the objective compares with nothing |
| `stored` | computed once before training; the model is dropped afterwards |
| `adapter_off` | in each step, from the trained model with its adapters off |
| `frozen_copy` | in each step, from a second model, where the first changes as a whole |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from veridical.models.cache_keys import model_fingerprint
from veridical.models.load import load_policy
from veridical.models.logprobs import compute_logps
from veridical.models.model_argument import Model
from veridical.models.policy import Policy, frozen_copy
from veridical.runtime.errors import UserError
from veridical.runtime.runs import Run
from veridical.train.loop.reference_cache import precompute, write_reference
from veridical.train.loop.rounding import tell_merged
from veridical.train.loop.start import record_model
from veridical.train.loop.training_set import TrainingSet, proof_rows
from veridical.train.options import Training

Source = Literal["none", "stored", "adapter_off", "frozen_copy"]


@dataclass(frozen=True)
class Reference:
    """What the policy is compared with.

    Attributes:
        source: where its log-probabilities come from.
        model: its name or folder.
        is_start: whether it is the model that training starts from.
        policy: the model; once `prepare_reference` is through, only where it is a second one that
            runs in the step.
        few_logps: of a declared reference: log-probabilities of the rows that are checked, as one
            batch in the run's layout. Shape: (few, k).
    """

    source: Source
    model: Model
    is_start: bool
    policy: Policy | None
    few_logps: Tensor | None = None

    @property
    def in_step(self) -> bool:
        """Whether it runs in every step."""
        return self.source in ("adapter_off", "frozen_copy")

    def second_model(self) -> Policy | None:
        """What stays in memory beside the trained model to run in the step, if anything does."""
        if self.source != "frozen_copy" or self.policy is None:
            return None
        return frozen_copy(self.policy) if self.is_start else self.policy


def choose_reference(
    start: Policy,
    model: Model,
    needed: bool,
    when: Literal["precomputed", "in_step"],
    declared: Model | None,
    training: Training,
    run: Run,
) -> Reference:
    """Decide where the reference comes from, and load it if it is not the start.

    Args:
        start: the model that training starts from.
        model: its name.
        needed: whether the objective compares with a reference.
        when: before training or in the step.
        declared: another model than the start.
        training: the run's options.
        run: gets a note of which model was declared.

    Raises:
        UserError: the declared model can't be loaded, or would read the batches as something else.
    """
    if not needed:
        return Reference("none", model, False, None)
    policy = start
    if declared:
        policy = load_policy(
            declared,
            training.weights_dtype,
            training.device,
            four_bit=training.four_bit,
            template=training.template,
            attention=training.attention,
        )
        record_model(run, "reference_model", declared, training, policy)
        require_same_inputs(start, policy)
    source: Source = "stored"
    if when == "in_step":
        source = "frozen_copy" if declared or training.tuning == "full" else "adapter_off"
    return Reference(source, declared or model, not declared, policy)


def prepare_reference(
    reference: Reference,
    rows: TrainingSet,
    share_prefix: bool,
    floor: float,
    training: Training,
    run: Run,
) -> tuple[Reference, TrainingSet]:
    """Compute what is stored, or copy what runs in the step, before the start is changed.

    Args:
        reference: from `choose_reference`.
        rows: of the run.
        share_prefix: the layout.
        floor: the noise floor, in nats.
        training: the run's options.
        run: its folder gets what is stored.

    Returns:
        The reference, without a model that is needed no more; and the rows, with their
        log-probabilities under it where they are stored.

    Raises:
        UserError: a log-probability is not finite, or too many pairs are refused.
    """
    policy = reference.policy
    if policy is None:
        return reference, rows
    few = None
    if not reference.is_start:
        tell_merged(run, "reference_model", policy, rows.few, share_prefix)
        few = compute_logps(policy, rows.few, share_prefix, len(rows.few))
    if reference.source == "stored" and not training.dry_run:
        rows = _with_stored(reference, policy, rows, share_prefix, floor, training, run)
    second = reference.second_model()
    return dataclasses.replace(reference, policy=second, few_logps=few), rows


def _with_stored(
    reference: Reference,
    policy: Policy,
    rows: TrainingSet,
    share_prefix: bool,
    floor: float,
    training: Training,
    run: Run,
) -> TrainingSet:
    cache = training.open_cache()
    adapter = training.init_adapter if reference.is_start else None
    known = precompute(
        policy, rows.groups, share_prefix, 2 * training.batch_size, 10 * floor, cache,
        model_fingerprint(reference.model, adapter, cache).key, rows.left_out,
        proof_rows(rows.train.groups, rows.left_out), training.group_by_length != "no",
    )  # fmt: skip
    write_reference(run.folder, rows.groups, known)
    return rows.with_reference(known.logps)


def require_same_inputs(policy: Policy, reference: Policy) -> None:
    """Refuse a reference that would read the policy's batches as something else.

    Raises:
        UserError: their tokens or their image processors differ.
    """
    ours, theirs = policy.processor, reference.processor
    differ = None
    if ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        differ = "tokens"
    elif ours.image_processor.to_dict() != theirs.image_processor.to_dict():
        differ = "image processors"
    elif type(policy.core) is not type(reference.core):
        differ = "architectures"
    if differ:
        raise UserError(
            f"--reference-model {reference.name} can't judge what {policy.name} reads: their "
            f"{differ} differ. Name a model of the same family, as an earlier round's result."
        )
