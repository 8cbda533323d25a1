"""Align a model by direct preference optimisation, with the proofs that it was done right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from veridical.checks.prefix_sharing import Sharing, sharing_of_all
from veridical.checks.proofs import Proof, prove_declared_reference, prove_start, repeat_noise
from veridical.checks.proving import noise_floor, prove
from veridical.models.fingerprint import weights_hash
from veridical.models.load import load_policy
from veridical.models.logprobs import ResponseLogps, collate
from veridical.models.policy import Policy, frozen_copy
from veridical.models.rendering import Group
from veridical.models.tuning import prepare_training
from veridical.models.vision_cache import take_features
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.train.card import write_cards
from veridical.train.features import keep_features, with_features
from veridical.train.items import Items, usable_rows
from veridical.train.left_out import LeftOut
from veridical.train.loop import Task
from veridical.train.memory import ENTRY_BYTES, measure_memory, tell_memory
from veridical.train.objectives import LossName, PreferenceLoss, check_loss, objective
from veridical.train.options import Training
from veridical.train.reference import (
    compute_logps,
    precompute,
    require_same_inputs,
    write_reference,
)
from veridical.train.rounding import logps_of
from veridical.train.rows import (
    PROOF_ROWS,
    images_first,
    proof_rows,
    read_training_rows,
    same_pictures,
    split_held_out,
    weighted,
)
from veridical.train.run import run_trainer, save_result
from veridical.train.scorer import Scorer
from veridical.train.start import (
    NOT_SHARED,
    conclude,
    load_start_beside_reference,
    record_model,
    start_training,
)

METHODS = {
    "sigmoid": "direct preference optimisation (DPO)",
    "ipo": "identity preference optimisation (IPO)",
    "slic": "sequence likelihood calibration (SLiC)",
}


def train_dpo(
    model: str,
    data: Path,
    out: Path,
    loss: LossName = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    per_token: bool = False,
    gamma: float = 0.5,
    nll_weight: float = 0.0,
    reference: Literal["precomputed", "in_step"] = "precomputed",
    reference_model: str | None = None,
    training: Training = Training(learning_rate=1e-6, epochs=3.0),
) -> None:
    """Align MODEL on the preference pairs in DATA and write the result to OUT.

    Before the first step the run proves itself: the reference is the start, the image matters,
    placeholders match features, batching changes nothing, and our path equals the stock one.
    Usual learning rates are 1e-6 (full tuning) to 5e-5 (LoRA).

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: preference pairs, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        loss: `sigmoid` (DPO), `ipo` or `slic` (a hinge).
        beta: how strongly the policy is held to the reference (no unit; 0.05 to 0.5 is usual,
            near 1 for `ipo`, 0.02 to 0.2 for `slic`).
        label_smoothing: probability that a pair's label is wrong, 0 to below 0.5 (conservative
            DPO).
        per_token: divide log-probs by their answer's length (usual for `ipo`).
        gamma: weight of `rejected` where a pair has `more_rejected` answers too, which share the
            rest; 1 leaves them out.
        nll_weight: weight of the chosen answer's negative log-likelihood, per token.
        reference: `precomputed` runs the reference once before training and stores its
            log-probs; `in_step` runs it at every step (full tuning then keeps a second model).
        reference_model: hold the policy to this model instead of to its own start, as in a second
            round; of the same family, with the same tokenizer.
        training: what every training command takes.
    """
    arguments = dict(locals())
    wanted_loss = PreferenceLoss(loss, beta, label_smoothing, per_token, gamma, nll_weight)
    check_loss(wanted_loss)
    store = training.open_cache()
    with start_training("train dpo", arguments) as run:
        start = load_start_beside_reference(model, training, run)
        rows = read_training_rows(
            start, data, "preference", ("chosen", "rejected"), training, more_rejected=gamma < 1
        )
        left_out = LeftOut(out, rows, training)
        pictures = same_pictures(rows.groups)
        train, evaluation = split_held_out(
            rows.groups, training.held_out, training.seed, by=pictures.__getitem__
        )
        train = weighted(rows, train, training)
        held_to = start
        if reference_model:
            held_to = load_policy(
                reference_model,
                training.weights_dtype,
                training.device,
                four_bit=training.four_bit,
                template=training.template,
            )
            record_model(run, "reference_model", reference_model, training)
            require_same_inputs(start, held_to)
        few = left_out.usable(start, images_first(train), PROOF_ROWS)
        shares = _sharing(start, held_to, few) if training.share_prefix else NOT_SHARED
        print(f"Prefix sharing: {'yes' if shares.allowed else 'no, two rows'} ({shares.reason}).")
        floor = noise_floor(start, few)
        everything = [*train, *evaluation]
        logps = torch.zeros(len(everything), len(train[0].response_ids), dtype=torch.float64)
        declared = None
        if reference_model:
            declared = compute_logps(held_to, few, shares.allowed, len(few))
        if reference == "precomputed" and not training.dry_run:
            adapter = None if reference_model else training.init_adapter
            weights = weights_hash(held_to, reference_model or model, adapter, store)
            known = precompute(
                held_to, everything, shares.allowed, 2 * training.batch_size, 10 * floor, store,
                weights, left_out, proof_rows(train, left_out),
            )  # fmt: skip
            write_reference(out, everything, known)
            logps = known.logps
        frozen = None
        if reference == "in_step" and (reference_model or training.tuning == "full"):
            frozen = held_to if reference_model else frozen_copy(start)
        del held_to  # a reference whose log-probs are stored need not stay in memory
        features = keep_features(start, training.trained, store) if training.vision_cache else None
        policy = prepare_training(start, training.trained)
        in_step = reference == "in_step"
        scorer = Scorer(policy, frozen, model_dropout=training.model_dropout)
        task = Task(
            scorer, objective(wanted_loss), len, shares.allowed, in_step, not reference_model
        )
        train_items = Items(train, logps[: len(train)], left_out, few[0])
        held_out_items = None
        if evaluation:
            held_out_items = Items(evaluation, logps[len(train) :], left_out, few[0])
        if training.dry_run:
            found = measure_memory(policy, task, training, train_items, frozen)
            stored = len(everything) if reference == "precomputed" else 0
            tell_memory(found, stored * ENTRY_BYTES, out)
            run.finish(dry_run=found)
            return
        proofs: list[Proof] = []
        if training.prove_first:
            proofs = prove_run(policy, train_items, task, wanted_loss, floor, out, declared)
        if features is not None:
            policy = with_features(policy, features, few, shares.allowed, floor)
            take_features((frozen or policy).core)
        finished = run_trainer(policy, task, training, train_items, held_out_items, out)
        files = save_result(policy, model, training, out, logps_of(few, shares.allowed))
        used, held_out = usable_rows(train_items), usable_rows(held_out_items)
        counts = {"pairs": used, "held-out pairs": held_out}
        write_cards(run, files, METHODS[loss], counts, proofs, finished)
        run.finish(
            pairs=used, held_out_pairs=held_out, skipped=len(left_out),
            cut_responses=rows.cut, prefix_sharing=dataclasses.asdict(shares), **finished,
        )  # fmt: skip
        print(f"The aligned model is in {out / next(iter(files), 'model')}.")


def prove_run(
    policy: Policy,
    train: Items,
    task: Task,
    loss: PreferenceLoss,
    floor: float,
    out: Path,
    declared: Tensor | None,
) -> list[Proof]:
    """Run the five proofs on a few rows, write `proofs.json`, and stop if one fails.

    A resumed run must find the start that its step 0 recorded.

    Args:
        policy: as it will be trained.
        train: the rows, with the reference's log-probs.
        task: what will be optimised.
        loss: the same, by its settings.
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
    plain = objective(dataclasses.replace(loss, nll_weight=0.0))
    counts = torch.tensor([[int(g.learned_of(i).sum()) for i in _responses(g)] for g in groups])
    outcome = plain(ResponseLogps(policy_logps, counts), reference)
    value = float(outcome.loss_sum) / len(groups)
    if declared is None:
        known, slope = loss.at_start, loss.slope_at_start
        start = prove_start(policy_logps, reference, value, known, slope, same_batch)
    else:
        start = prove_declared_reference(reference, declared, value, same_batch)
    proofs = [
        start,
        *prove(policy, groups, lambda some, rows: collate(some, rows, task.share_prefix)),
    ]
    processes.from_first(lambda: _same_start(out, policy_logps, groups, floor))
    if processes.is_first():
        recorded = {"ids": [group.id for group in groups], "logps": policy_logps.tolist()}
        write_json(out / "start.json", recorded)
    return conclude(proofs, out)


def _responses(group: Group) -> range:
    return range(len(group.response_ids))


def _sharing(start: Policy, reference: Policy, groups: Sequence[Group]) -> Sharing:
    """Policy and reference see the same batches, so both have to be able to share."""
    shares = sharing_of_all(start, groups)
    if not shares.allowed or reference is start:
        return shares
    theirs = sharing_of_all(reference, groups)
    return shares if theirs.allowed else Sharing(False, f"the reference can't: {theirs.reason}")


def _same_start(out: Path, logps: Tensor, groups: Sequence[Group], floor: float) -> None:
    saved = out / "start.json"
    checkpoints = list((out / "checkpoints").glob("checkpoint-*"))
    if not saved.is_file() or not checkpoints:
        return
    content = read_json(saved)
    if content["ids"] != [group.id for group in groups]:
        raise UserError(
            f"{out} was started on other pairs than these. Give the same data and seed to "
            "resume it, or another --out."
        )
    moved = float((torch.tensor(content["logps"], dtype=torch.float64) - logps).abs().max())
    if moved > 10 * floor:
        raise UserError(
            f"{out} was started from another model (log-probs of its first pairs differ "
            f"by {moved:.3g}). Give the same model to resume it, or another --out."
        )
