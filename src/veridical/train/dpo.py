"""Align a model by direct preference optimization, with the checks that it was done right."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from veridical.checks.proving import noise_floor
from veridical.models.model_argument import Model
from veridical.models.tuning import prepare_training
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.kto import KTO
from veridical.runtime.errors import UserError
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.finish import finish_run
from veridical.train.loop.following import Following
from veridical.train.loop.layout import find_sharing
from veridical.train.loop.memory import finish_dry_run
from veridical.train.loop.mismatched import tell_balance
from veridical.train.loop.outcomes import (
    require_whole_batch,
)
from veridical.train.loop.pair_proofs import check_pairs
from veridical.train.loop.preferences import preference_task, read_preferences
from veridical.train.loop.reference import choose_reference, prepare_reference
from veridical.train.loop.rounding import tell_merged
from veridical.train.loop.run import train_and_save
from veridical.train.loop.start import Given, load_start_beside_reference, start_training
from veridical.train.loop.training_set import training_set
from veridical.train.options import Training

ONE_REJECTED = AveragedPreference.first_rejected_weight
"""The weight that says nothing of further rejected answers: its default."""


def train_dpo(
    model: Model,
    data: Path,
    out: Path,
    objective: AveragedPreference = AveragedPreference(),
    reference: Literal["precomputed", "in_step"] = "precomputed",
    reference_model: Model | None = None,
    kind: Literal["preference", "unpaired"] = "preference",
    following: Following = Following(),
    training: Training = Training(learning_rate=1e-6, epochs=3.0),
) -> None:
    """Align MODEL on the preference pairs in DATA and write the result to OUT.

    Before the first step the run proves itself: the reference is the start, the image matters,
    placeholders match features, batching changes nothing, and our path equals the stock one.
    Usual learning rates are 1e-6 (full tuning) to 5e-5 (LoRA).

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: preference pairs, or other records by `kind`, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        objective: what is minimized.
        reference: `precomputed` runs the reference once before training and stores its
            log-probs; `in_step` runs it at every step (full tuning then keeps a second model).
        reference_model: use this model as the reference instead of the start, as in a second round;
            of the same family, with the same tokenizer.
        kind: what DATA holds: `preference`, or `unpaired`: single answers, each a good or a bad
            one, for the loss `kto` (which takes pairs too).
        following: how the reference follows the policy, if it does.
        training: what every training command takes.
    """
    following.check(objective, reference, reference_model, training)
    check_dpo(objective, model, reference_model, kind)
    require_whole_batch(objective, training.batch_size, training.accumulation)
    options = {
        "objective": objective, "reference": reference, "reference_model": reference_model,
        "kind": kind, "following": following,
    }  # fmt: skip
    with start_training(Given("train dpo", model, data, out, training, options)) as run:
        following.tell_selection(training)
        start = load_start_beside_reference(model, training, run)
        read = read_preferences(start, data, kind, objective, training)
        rows = training_set(start, read, training, out)
        following.tell_idle(training.steps(len(rows.train)))
        if kind == "unpaired" and isinstance(objective.loss, KTO):
            tell_balance(rows.train.groups, objective.loss)
        held_to = choose_reference(
            start, model, objective.needs_reference, reference, reference_model, training, run
        )
        sharing = find_sharing(training, rows.few, start, held_to.policy)
        tell_merged(run, "model", start, rows.few, sharing.allowed)
        floor = noise_floor(start, rows.few)
        held_to, rows = prepare_reference(held_to, rows, sharing.allowed, floor, training, run)
        features = keep_features(start, training)
        policy = prepare_training(start, training.trained)
        task = preference_task(
            policy, held_to, held_to.policy, objective, sharing.allowed, training, following
        )
        if training.dry_run:
            finish_dry_run(run, policy, task, training, rows, held_to)
            return
        proofs = []
        if training.prove_first:
            proofs = check_pairs(policy, rows.train, task, objective, floor, out, held_to.few_logps)
        policy = with_features(policy, features, rows.few, sharing.allowed, floor, held_to.policy)
        trained = train_and_save(policy, model, task, training, rows, out)
        noun: Literal["pairs", "rows"] = "rows" if kind == "unpaired" else "pairs"
        finish_run(run, objective.loss.title, rows, sharing, proofs, trained, noun)
        print(f"The aligned model is in {out / trained.name}.")


def check_dpo(
    objective: AveragedPreference, model: Model, reference_model: Model | None, kind: str
) -> None:
    """Refuse options that make no sense together.

    Raises:
        UserError: names the option.
    """
    objective.check()
    if kind == "unpaired" and [type(one) for _, one in objective.parts] != [KTO]:
        raise UserError(
            "--kind unpaired has single answers, and only --loss kto learns from these. Set --loss "
            "kto without --terms and --nll-weight, or give pairs with --kind preference."
        )
    if kind == "unpaired" and objective.first_rejected_weight != ONE_REJECTED:
        raise UserError(
            "--first-rejected-weight is for pairs with several rejected answers, and --kind "
            "unpaired has none. Leave it out."
        )
    if reference_model and not objective.needs_reference:
        raise UserError(
            f"--reference-model means nothing with {objective.given_as}, which compares with no "
            "reference. Leave it out."
        )
    if reference_model is model and not isinstance(model, str):
        raise UserError(
            "The reference would be trained with the policy, as it is the same loaded model. Leave "
            "reference_model out: the reference is then the model as it starts."
        )
