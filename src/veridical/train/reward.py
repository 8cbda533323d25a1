"""A reward model: a vision-language model that tells better responses from worse ones.

Trained by the Bradley-Terry loss on preference pairs, with the facts that the pairs bring
(captions, objects, options) if asked for: factual augmentation, as in Sun et al. 2023.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks.prefix_sharing import sharing_of_all
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor, prove
from veridical.data.records import count_images
from veridical.models.batching import collate
from veridical.models.logprobs import ResponseLogps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.reward_model import (
    CRITERION,
    Reading,
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
from veridical.train.loop.card import write_cards
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.items import Items, usable_rows
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.memory import measure_memory, tell_memory
from veridical.train.loop.rounding import Measure, tell_merged
from veridical.train.loop.rows import (
    PROOF_ROWS,
    Images,
    TrainingRows,
    answer_field,
    collapsed,
    images_first,
    refuse_collapsed,
    render_rows,
    same_pictures,
    split_held_out,
    weighted,
    why_collapsed,
)
from veridical.train.loop.run import run_trainer, save_result
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.start import NOT_SHARED, conclude, load_start, start_training
from veridical.train.loop.trained import whole
from veridical.train.loop.trainer import Objective, Outcome, Task
from veridical.train.options import Training


def train_reward(
    model: str,
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
        model: hub name, folder, adapter folder or `embedded`; the policy's own base, or another.
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
    with start_training("train reward", dict(locals())) as run:
        start = load_start(model, training, run)
        reading = Reading(criterion, facts, training.seed, training.template or {})
        rows = read_pairs(start, data, reading, training)
        left_out = LeftOut(out, rows, training)
        pictures = same_pictures(rows.groups)
        train, evaluation = split_held_out(
            rows.groups, training.held_out, training.seed, by=pictures.__getitem__
        )
        train = weighted(rows, train, training)
        few = left_out.usable(start, images_first(train), PROOF_ROWS)
        shares = sharing_of_all(start, few) if training.share_prefix else NOT_SHARED
        print(f"Prefix sharing: {'yes' if shares.allowed else 'no, two rows'} ({shares.reason}).")
        tell_merged(run, "model", start, few, shares.allowed)
        store = training.open_cache()
        features = keep_features(start, training.trained, store) if training.vision_cache else None
        policy = without_language_head(prepare_training(start, training.trained))
        head = new_head(policy)
        scorer = Scorer(policy, head=head, model_dropout=training.model_dropout)
        task = Task(scorer, outcome_of(objective), len, shares.allowed)
        train_items = Items(train, torch.zeros(len(train), 2), left_out, few[0])
        held_out_items = None
        if evaluation:
            held_out_items = Items(evaluation, torch.zeros(len(evaluation), 2), left_out, few[0])
        if training.dry_run:
            found = measure_memory(policy, task, training, train_items, None)
            tell_memory(found, 0, out)
            run.finish(dry_run=found)
            return
        proofs = prove_run(policy, task, few, objective, out) if training.prove_first else []
        if features is not None:
            floor = noise_floor(policy, few)
            policy = with_features(policy, features, few, shares.allowed, floor)
        finished = run_trainer(policy, task, training, train_items, held_out_items, out)
        plain = plain_head(head)
        # A new head gives every response the reward 0.
        measure = Measure(
            partial(_rewards, plain, few, shares.allowed),
            unit="log-odds",
            start=torch.zeros(len(few), 2, dtype=torch.float64),
        )
        files = save_result(policy, model, training, out, measure)
        save_beside(plain, reading, out, files)
        used, held_out = usable_rows(train_items), usable_rows(held_out_items)
        counts = {"pairs": used, "held-out pairs": held_out}
        write_cards(run, files, objective.title, counts, proofs, finished)
        run.finish(
            pairs=used, held_out_pairs=held_out, skipped=len(left_out),
            prefix_sharing=dataclasses.asdict(shares), **finished,
        )  # fmt: skip
        print(f"The reward model is in {out / next(iter(files), 'model')}.")


def _rewards(head: nn.Linear, groups: Sequence[Group], share: bool, policy: Policy) -> Tensor:
    own = copy.deepcopy(head).to(policy.device)
    return response_rewards(policy.model, own, collate(policy, groups, share)).double().cpu()


def read_pairs(start: Policy, data: Path, reading: Reading, training: Training) -> TrainingRows:
    """Every pair as the reward model reads it.

    Raises:
        UserError: as for `render_rows`; or facts are to be read and no pair has any.
    """
    told = [0, 0]

    def render(row: dict[str, Any], images: Images) -> list[Group]:
        count = count_images(row["prompt"])
        known = row.get("facts") or []
        rejected = [row["rejected"], *(row.get("more_rejected") or [])]
        distorted = images.of_rejected(count)
        told[bool(known)] += 1
        groups = [
            judged_group(
                start, reading, row["id"] if number == 0 else f"{row['id']}/{number}",
                images.of_prompt(count), row["prompt"], [row["chosen"], answer], known,
                [None, distorted] if distorted and number == 0 else (),
            )
            for number, answer in enumerate(rejected)
        ]  # fmt: skip
        refuse_collapsed(groups[0])
        further = {n: group for n, group in enumerate(groups) if n and collapsed(group)}
        for number, group in further.items():
            why = why_collapsed(group, 1, answer_field(number + 1))
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


def outcome_of(objective: BradleyTerry) -> Objective:
    """Response 0 is chosen, response 1 rejected; scores are rewards, and there is no reference."""

    def compute(scores: ResponseLogps, _: Tensor) -> Outcome:
        chosen, rejected = scores.sums[:, 0], scores.sums[:, 1]
        return Outcome(objective(chosen, rejected).sum(), objective.measures(chosen, rejected))

    return compute


def prove_run(
    policy: Policy, task: Task, few: Sequence[Group], objective: BradleyTerry, out: Path
) -> list[Proof]:
    """Run the five proofs on a few rows, write `proofs.json`, and stop if one fails.

    A new head gives every response 0, so that the loss is ln 2. What the head reads is proven on a
    direction of its own, see `reward_measure`.

    Raises:
        UserError: a proof fails.
    """
    policy.model.eval()
    with torch.no_grad():
        rewards, counts = task.scorer(collate(policy, few, task.share_prefix))
        loss = float(task.objective(ResponseLogps(rewards, counts), rewards).loss_sum) / len(few)
    proofs = [
        prove_start(rewards, loss, objective.at_start),
        *prove(
            policy, few, lambda some, rows: collate(some, rows, task.share_prefix), reward_measure
        ),
    ]
    return conclude(proofs, out)


def prove_start(rewards: Tensor, loss: float, expected_loss: float) -> Proof:
    """Before the first step every reward is 0 and the loss is known.

    Args:
        rewards: of a few pairs. Shape: (pairs, 2).
        loss: their mean.
        expected_loss: ln 2.
    """
    value = max(float(rewards.abs().max()), abs(loss - expected_loss))
    limit = 10 * torch.finfo(torch.float32).eps
    largest = f"largest reward {float(rewards.abs().max()):.3g}"
    detail = f"{largest}, loss {loss:.6f}, known {expected_loss:.6f}"
    return Proof("start", value <= limit, True, value, limit, "log-odds", detail)


def plain_head(head: nn.Linear) -> nn.Linear:
    """A copy of the head that one process can use alone; every process has to take part.

    Under FSDP and ZeRO-3 each process holds pieces of the head, and a copy of pieces can't be used
    by the first process by itself.
    """
    weights = {name: whole(parameter) for name, parameter in head.named_parameters()}
    plain = nn.Linear(head.in_features, 1, dtype=weights["weight"].dtype)
    plain.load_state_dict(weights)
    return plain


def save_beside(head: nn.Linear, reading: Reading, out: Path, files: Sequence[str]) -> None:
    """Write a whole head into each saved folder; the first process does."""
    if not processes.is_first():
        return
    for name in files:
        save_head(head, reading, out / name)
