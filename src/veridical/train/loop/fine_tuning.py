"""Fine-tuning on responses alone, as SFT and SteerLM do: checks, training, saving."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from veridical.checks.before_training import check_before_training
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor
from veridical.models.logprobs import ResponseLogps
from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.tuning import prepare_training
from veridical.objectives.likelihood import sequence_nll
from veridical.runtime.runs import Run
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.finish import finish_run
from veridical.train.loop.layout import find_sharing
from veridical.train.loop.memory import finish_dry_run
from veridical.train.loop.rounding import tell_merged
from veridical.train.loop.run import train_and_save
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.task import Outcome, Task
from veridical.train.loop.training_set import TrainingSet
from veridical.train.options import Training


def fine_tune(
    run: Run,
    method: str,
    model: Model,
    start: Policy,
    rows: TrainingSet,
    training: Training,
    steers: bool = False,
) -> None:
    """Check, train on the first response of each group, save, and end the run.

    Args:
        run: as started; its folder gets everything.
        method: what the model card calls it.
        model: what was loaded to start from.
        start: the policy that it gave.
        rows: what is learned and what is held out.
        training: the run's options.
        steers: whether the model learns to be asked for attributes.
    """
    out, few = run.folder, rows.few
    sharing = find_sharing(training, few, start)
    tell_merged(run, "model", start, few, sharing.allowed)
    features = keep_features(start, training)
    policy = prepare_training(start, training.trained)
    scorer = Scorer(policy, model_dropout=training.model_dropout)
    task = Task(scorer, objective, count_tokens, sharing.allowed)
    if training.dry_run:
        finish_dry_run(run, policy, task, training, rows)
        return
    proofs: list[Proof] = []
    if training.prove_first:
        proofs = check_before_training(policy, few, sharing.allowed, out)
    if features is not None:
        policy = with_features(policy, features, few, sharing.allowed, noise_floor(policy, few))
    trained = train_and_save(policy, model, task, training, rows, out, steers)
    finish_run(run, method, rows, sharing, proofs, trained, "rows")
    print(f"The fine-tuned model is in {out / trained.name}.")


def objective(policy: ResponseLogps, reference: Tensor) -> Outcome:
    """Negative log-likelihood, summed over tokens; there is no reference."""
    sums, counts = policy.sums[:, 0], policy.counts[:, 0]
    measures = {"logps_chosen": sums, "chosen_tokens": counts}
    return Outcome(sequence_nll(sums).sum(), measures)


def count_tokens(groups: Sequence[Group]) -> int:
    """Response tokens of a batch."""
    return sum(int(group.learned_of(0).sum()) for group in groups)
