"""A reward model: a vision-language model that tells better responses from worse ones.

Trained by the Bradley-Terry loss on preference pairs, with the facts that the pairs bring
(captions, objects, options) if asked for: factual augmentation, as in Sun et al. 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from veridical.checks.before_training import check_before_training
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor
from veridical.checks.starts import reward_start
from veridical.data.record_types import CheckedRow
from veridical.data.records import count_images
from veridical.models.batching import collate
from veridical.models.logprobs import ResponseLogps
from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError
from veridical.models.reward_model import (
    CRITERION,
    RewardInputs,
    judged_group,
    new_head,
    response_rewards,
    reward_measure,
    save_head,
)
from veridical.models.tuning import prepare_training, without_language_head
from veridical.objectives.reward import BradleyTerry
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import part_of
from veridical.train.loop.collapsed import answer_field, collapsed, refuse_collapsed, why_collapsed
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.finish import Trained, finish_run
from veridical.train.loop.layout import find_sharing
from veridical.train.loop.memory import finish_dry_run
from veridical.train.loop.pair_rows import Images
from veridical.train.loop.rounding import Measure, tell_merged
from veridical.train.loop.rows import TrainingRows, render_rows
from veridical.train.loop.run import run_trainer
from veridical.train.loop.saving import save_result
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.start import Given, load_start, start_training
from veridical.train.loop.task import Objective, Outcome, Task
from veridical.train.loop.trained import whole
from veridical.train.loop.training_set import training_set
from veridical.train.options import Training


def train_reward(
    model: Model,
    data: Path,
    out: Path,
    facts: bool = False,
    criterion: str = CRITERION,
    objective: BradleyTerry = BradleyTerry(),
    training: Training = Training(learning_rate=2e-5),
) -> None:
    """Train a reward model from MODEL on the preference pairs in DATA and write it to OUT.

    It reads the image, the prompt, a response, and then a question about the response, from whose
    end a linear head reads one number: the reward. What comes out is a judge for `build rate`,
    an adapter that can share its base with a policy, and the start of a value model.
    `eval reward` says how good it is.

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place; the policy's own base, or another.
        data: preference pairs, Parquet or JSON Lines; every one of several rejected answers makes
            a pair of its own.
        out: folder for the run: `model/` and `adapter/` with the head beside the weights,
            `log.jsonl`, `proofs.json`, `run.json`.
        facts: let it read the pairs' `facts` after the question, in an order drawn by seed; it is
            then told facts wherever it judges.
        criterion: the question, in words of yours.
        objective: what is minimized.
        training: what every training command takes.
    """
    objective.check()
    if training.max_response_tokens is not None:
        raise UserError(
            "--max-response-tokens can't be set here: a response without its end would be judged "
            "as a whole one. Use --max-length, which leaves longer rows out."
        )
    options = {"facts": facts, "criterion": criterion, "objective": objective}
    with start_training(Given("train reward", model, data, out, training, options)) as run:
        start = load_start(model, training, run)
        reading = RewardInputs(criterion, facts, training.seed, training.template or {})
        rows = training_set(start, read_reward_pairs(start, data, reading, training), training, out)
        sharing = find_sharing(training, rows.few, start)
        tell_merged(run, "model", start, rows.few, sharing.allowed)
        features = keep_features(start, training)
        policy = without_language_head(prepare_training(start, training.trained))
        head = new_head(policy)
        scorer = Scorer(policy, head=head, model_dropout=training.model_dropout)
        task = Task(scorer, reward_outcome(objective), len, sharing.allowed)
        if training.dry_run:
            finish_dry_run(run, policy, task, training, rows, measure=reward_measure)
            return
        proofs: list[Proof] = []
        if training.prove_first:
            proofs = check_rewards(policy, task, rows.few, objective, out)
        if features is not None:
            floor = noise_floor(policy, rows.few)
            policy = with_features(policy, features, rows.few, sharing.allowed, floor)
        figures = run_trainer(policy, task, training, rows.train, rows.held_out, out)
        plain = plain_head(head)
        measure = measure_rewards(plain, rows.few, sharing.allowed)
        trained = Trained(figures, save_result(policy, model, training, out, measure))
        save_beside(plain, reading, out, trained.files)
        finish_run(run, objective.title, rows, sharing, proofs, trained)
        print(f"The reward model is in {out / trained.name}.")


def measure_rewards(head: nn.Linear, groups: Sequence[Group], share_prefix: bool) -> Measure:
    """The rewards of a few rows, by which the saved model is compared with the trained one."""
    # A new head gives every response the reward 0.
    start = torch.zeros(len(groups), 2, dtype=torch.float64)
    return Measure(partial(_rewards, head, groups, share_prefix), unit="log-odds", start=start)


def _rewards(head: nn.Linear, groups: Sequence[Group], share: bool, policy: Policy) -> Tensor:
    own = copy.deepcopy(head).to(policy.device)
    return response_rewards(policy.model, own, collate(policy, groups, share)).cpu().double()


def read_reward_pairs(
    start: Policy, data: Path, reading: RewardInputs, training: Training
) -> TrainingRows:
    """Every pair as the reward model reads it.

    Raises:
        UserError: as for `render_rows`; or facts are to be read and no pair has any.
    """
    told = [0, 0]

    def render(row: CheckedRow, images: Images) -> list[Group]:
        count = count_images(row["prompt"])
        known = row.get("facts") or []
        rejected = [row["rejected"], *(row.get("more_rejected") or [])]
        distorted = images.of("rejected_images", count)
        if row.get("rejected_masked"):
            raise RefusedRowError(
                "image tokens can't be hidden (rejected_masked) from a reward model"
            )
        told[bool(known)] += 1
        groups = [
            judged_group(
                start, reading, row["id"] if number == 0 else f"{row['id']}/{number}",
                images.of_prompt(count), row["prompt"], [row["chosen"], answer], known,
                [None, distorted] if distorted and number == 0 else (),
            )
            for number, answer in enumerate(rejected)
        ]  # fmt: skip
        refuse_collapsed(groups[0], start)
        further = {n: group for n, group in enumerate(groups) if n and collapsed(group)}
        for number, group in further.items():
            why = why_collapsed(group, 1, answer_field(number + 1), start)
            without.append((row["id"], answer_field(number + 1), why))
        return [group for number, group in enumerate(groups) if number not in further]

    without: list[tuple[str, str, str]] = []
    rows = render_rows(start, data, "preference", training, render, without)
    if reading.with_facts and not told[True]:
        raise UserError(
            f"--facts true: no pair of {data} has facts. `veridical build facts` puts captions, "
            "objects or options beside pairs."
        )
    if reading.with_facts and told[False]:
        lacking = part_of(told[False], sum(told), "pairs", "is", "are")
        print(f"{lacking} read without facts, having none.")
    return rows


def reward_outcome(objective: BradleyTerry) -> Objective:
    """Response 0 is chosen, response 1 rejected; scores are rewards, and there is no reference."""

    def compute(scores: ResponseLogps, _: Tensor) -> Outcome:
        chosen, rejected = scores.sums[:, 0], scores.sums[:, 1]
        return Outcome(objective(chosen, rejected).sum(), objective.measures(chosen, rejected))

    return compute


def check_rewards(
    policy: Policy, task: Task, few: Sequence[Group], objective: BradleyTerry, out: Path
) -> list[Proof]:
    """Check a run on a few rows, and stop if a check fails.

    A new head gives every response 0, so that the loss is ln 2. What the head reads is proven on a
    direction of its own, see `reward_measure`.

    Raises:
        UserError: a check fails.
    """
    policy.model.eval()
    with torch.no_grad():
        rewards, counts, _ = task.scorer(collate(policy, few, task.share_prefix))
        loss = float(task.objective(ResponseLogps(rewards, counts), rewards).loss_sum) / len(few)
    start = reward_start(rewards, loss, objective.at_start)
    return check_before_training(policy, few, task.share_prefix, out, start, reward_measure)


def plain_head(head: nn.Linear) -> nn.Linear:
    """A copy of the head that one process can use alone; every process has to take part.

    Under FSDP and ZeRO-3 each process holds pieces of the head, and a copy of pieces can't be used
    by the first process by itself.
    """
    weights = {name: whole(parameter) for name, parameter in head.named_parameters()}
    plain = nn.Linear(head.in_features, 1, dtype=weights["weight"].dtype)
    plain.load_state_dict(weights)
    return plain


def save_beside(head: nn.Linear, reading: RewardInputs, out: Path, files: Sequence[str]) -> None:
    """Write a whole head into each saved folder; the first process does."""
    if not processes.is_first():
        return
    for name in files:
        save_head(head, reading, out / name)
