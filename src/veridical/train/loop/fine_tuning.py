"""Fine-tuning on responses alone, as SFT and SteerLM do: proofs, training, saving."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from veridical.checks.prefix_sharing import sharing_of_all
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor, prove
from veridical.models.batching import collate
from veridical.models.logprobs import ResponseLogps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.tuning import prepare_training
from veridical.objectives.likelihood import sequence_nll
from veridical.runtime.runs import Run
from veridical.train.loop.card import write_cards
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.items import Items, usable_rows
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.memory import measure_memory, tell_memory
from veridical.train.loop.rounding import measure_logps, tell_merged
from veridical.train.loop.rows import (
    PROOF_ROWS,
    TrainingRows,
    images_first,
)
from veridical.train.loop.run import run_trainer, save_result
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.start import NOT_SHARED, conclude
from veridical.train.loop.trainer import Outcome, Task
from veridical.train.options import Training


def fine_tune(
    run: Run,
    method: str,
    model: str,
    start: Policy,
    rows: TrainingRows,
    train: list[Group],
    evaluation: list[Group],
    training: Training,
    steers: bool = False,
) -> None:
    """Prove, train on the first response of each group, save, and end the run.

    Args:
        run: as started; its folder gets everything.
        method: what the model card calls it.
        model: what was loaded to start from.
        start: the policy that it gave.
        rows: what was read, for its counts.
        train: what is learned.
        evaluation: what is held out; may be empty.
        training: the run's options.
        steers: whether the model learns to be asked for attributes.
    """
    out = run.folder
    left_out = LeftOut(out, rows, training)
    few = left_out.usable(start, images_first(train), PROOF_ROWS)
    shares = sharing_of_all(start, few) if training.share_prefix else NOT_SHARED
    tell_merged(run, "model", start, few, shares.allowed)
    store = training.open_cache()
    features = keep_features(start, training.trained, store) if training.vision_cache else None
    policy = prepare_training(start, training.trained)
    train_items = Items(train, torch.zeros(len(train), 1), left_out, few[0])
    held_out_items = None
    if evaluation:
        held_out_items = Items(evaluation, torch.zeros(len(evaluation), 1), left_out, few[0])
    if training.dry_run:
        task = Task(
            Scorer(policy, model_dropout=training.model_dropout),
            objective,
            count_tokens,
            shares.allowed,
        )
        found = measure_memory(policy, task, training, train_items, None)
        tell_memory(found, 0, out)
        run.finish(dry_run=found)
        return
    proofs: list[Proof] = []
    if training.prove_first:
        proofs = prove(policy, few, lambda some, groups: collate(some, groups, shares.allowed))
        conclude(proofs, out)
    if features is not None:
        floor = noise_floor(policy, few)
        policy = with_features(policy, features, few, shares.allowed, floor)
    task = Task(
        Scorer(policy, model_dropout=training.model_dropout),
        objective,
        count_tokens,
        shares.allowed,
    )
    measure = measure_logps(policy, few, shares.allowed, training)
    finished = run_trainer(policy, task, training, train_items, held_out_items, out, (), steers)
    files = save_result(policy, model, training, out, measure)
    used, held_out = usable_rows(train_items), usable_rows(held_out_items)
    counts = {"rows": used, "held-out rows": held_out}
    write_cards(run, files, method, counts, proofs, finished)
    run.finish(
        rows=used, held_out_rows=held_out, skipped=len(left_out),
        cut_responses=rows.cut, prefix_sharing=dataclasses.asdict(shares), **finished,
    )  # fmt: skip
    print(f"The fine-tuned model is in {out / next(iter(files), 'model')}.")


def objective(policy: ResponseLogps, reference: Tensor) -> Outcome:
    """Negative log-likelihood, summed over tokens; there is no reference."""
    sums, counts = policy.sums[:, 0], policy.counts[:, 0]
    measures = {"logps_chosen": sums, "chosen_tokens": counts}
    return Outcome(sequence_nll(sums).sum(), measures)


def count_tokens(groups: Sequence[Group]) -> int:
    """Response tokens of a batch."""
    return sum(int(group.learned_of(0).sum()) for group in groups)
