"""Align a model by direct preference optimization, with the proofs that it was done right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from veridical.checks.prefix_sharing import Sharing, sharing_of_all
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor
from veridical.models.load import load_policy
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy, frozen_copy
from veridical.models.rendering import Group
from veridical.models.tuning import prepare_training
from veridical.models.vision_cache import take_features
from veridical.objectives.preference import AveragedPreference
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import fingerprint
from veridical.train.loop.card import write_cards
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.items import Items, usable_rows
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.memory import ENTRY_BYTES, measure_memory, tell_memory
from veridical.train.loop.outcomes import outcome_of
from veridical.train.loop.pair_proofs import prove_run
from veridical.train.loop.reference import precompute, require_same_inputs, write_reference
from veridical.train.loop.rounding import measure_logps, tell_merged
from veridical.train.loop.rows import (
    PROOF_ROWS,
    images_first,
    proof_rows,
    read_training_rows,
    same_pictures,
    split_held_out,
    weighted,
)
from veridical.train.loop.run import run_trainer, save_result
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.start import (
    NOT_SHARED,
    load_start_beside_reference,
    record_model,
    start_training,
)
from veridical.train.loop.trainer import Task
from veridical.train.options import Training


def train_dpo(
    model: str,
    data: Path,
    out: Path,
    objective: AveragedPreference = AveragedPreference(),
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
        objective: what is minimized.
        reference: `precomputed` runs the reference once before training and stores its
            log-probs; `in_step` runs it at every step (full tuning then keeps a second model).
        reference_model: hold the policy to this model instead of to its own start, as in a second
            round; of the same family, with the same tokenizer.
        training: what every training command takes.
    """
    arguments = dict(locals())
    objective.check()
    if reference_model and not objective.needs_reference:
        raise UserError(
            f"--reference-model means nothing with --loss {objective.loss.name}, which compares "
            "with no reference. Leave it out."
        )
    store = training.open_cache()
    with start_training("train dpo", arguments) as run:
        start = load_start_beside_reference(model, training, run)
        rows = read_training_rows(
            start,
            data,
            "preference",
            ("chosen", "rejected"),
            training,
            more_rejected=objective.first_rejected_weight < 1,
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
            record_model(run, "reference_model", reference_model, training, held_to)
            require_same_inputs(start, held_to)
        few = left_out.usable(start, images_first(train), PROOF_ROWS)
        shares = _sharing(start, held_to, few) if training.share_prefix else NOT_SHARED
        print(f"Prefix sharing: {'yes' if shares.allowed else 'no, two rows'} ({shares.reason}).")
        tell_merged(run, "model", start, few, shares.allowed)
        if reference_model:
            tell_merged(run, "reference_model", held_to, few, shares.allowed)
        floor = noise_floor(start, few)
        everything = [*train, *evaluation]
        logps = torch.zeros(len(everything), len(train[0].response_ids), dtype=torch.float64)
        declared = None
        if reference_model:
            declared = compute_logps(held_to, few, shares.allowed, len(few))
        precomputed = objective.needs_reference and reference == "precomputed"
        if precomputed and not training.dry_run:
            adapter = None if reference_model else training.init_adapter
            weights = fingerprint(reference_model or model, adapter, store).key
            known = precompute(
                held_to, everything, shares.allowed, 2 * training.batch_size, 10 * floor, store,
                weights, left_out, proof_rows(train, left_out),
            )  # fmt: skip
            write_reference(out, everything, known)
            logps = known.logps
        frozen = None
        in_step = objective.needs_reference and reference == "in_step"
        if in_step and (reference_model or training.tuning == "full"):
            frozen = held_to if reference_model else frozen_copy(start)
        del held_to  # a reference whose log-probs are stored need not stay in memory
        features = keep_features(start, training.trained, store) if training.vision_cache else None
        policy = prepare_training(start, training.trained)
        scorer = Scorer(policy, frozen, model_dropout=training.model_dropout)
        held_to_start = objective.needs_reference and not reference_model
        task = Task(scorer, outcome_of(objective), len, shares.allowed, in_step, held_to_start)
        train_items = Items(train, logps[: len(train)], left_out, few[0])
        held_out_items = None
        if evaluation:
            held_out_items = Items(evaluation, logps[len(train) :], left_out, few[0])
        if training.dry_run:
            found = measure_memory(policy, task, training, train_items, frozen)
            stored = len(everything) if precomputed else 0
            tell_memory(found, stored * ENTRY_BYTES, out)
            run.finish(dry_run=found)
            return
        proofs: list[Proof] = []
        if training.prove_first:
            proofs = prove_run(policy, train_items, task, objective, floor, out, declared)
        if features is not None:
            policy = with_features(policy, features, few, shares.allowed, floor)
            take_features((frozen or policy).core)
        measure = measure_logps(policy, few, shares.allowed, training)
        finished = run_trainer(policy, task, training, train_items, held_out_items, out)
        files = save_result(policy, model, training, out, measure)
        used, held_out = usable_rows(train_items), usable_rows(held_out_items)
        counts = {"pairs": used, "held-out pairs": held_out}
        write_cards(run, files, objective.loss.title, counts, proofs, finished)
        run.finish(
            pairs=used, held_out_pairs=held_out, skipped=len(left_out),
            cut_responses=rows.cut, prefix_sharing=dataclasses.asdict(shares), **finished,
        )  # fmt: skip
        print(f"The aligned model is in {out / next(iter(files), 'model')}.")


def _sharing(start: Policy, reference: Policy, groups: Sequence[Group]) -> Sharing:
    """Policy and reference see the same batches, so both have to be able to share."""
    shares = sharing_of_all(start, groups)
    if not shares.allowed or reference is start:
        return shares
    theirs = sharing_of_all(reference, groups)
    return shares if theirs.allowed else Sharing(False, f"the reference can't: {theirs.reason}")
