"""The loop of reinforcement learning: sample, be rewarded, learn, whatever the policy gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from veridical.models.precision import unmixed
from veridical.models.token_scores import TokenScores, token_values
from veridical.objectives.policy_gradient import (
    Advantages,
    PolicyGradient,
    Sampled,
    kl_terms,
)
from veridical.runtime import processes
from veridical.train.loop.modes import learning
from veridical.train.loop.order import RankSampler
from veridical.train.rl.actors import Actors, as_critic
from veridical.train.rl.evaluation import Evaluations
from veridical.train.rl.experience import (
    Experience,
    Setting,
    count_scored,
    gather_experience,
    minibatches,
)
from veridical.train.rl.measures import measures_of, shown
from veridical.train.rl.run import Learner, chunks
from veridical.train.rl.start import Start, finish

FIGURES = (
    "loss", "policy_loss", "clip_share", "moved", "inner_steps", "gradient_norm",
    "explained_variance",
)  # fmt: skip
"""What learning from a step's responses gives; null where nothing of a step was scored."""
VALUE_FIGURES = ("value_loss", "value_clip_share", "stopped")
"""The same of a value model."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is learned from a step's responses.

    Attributes:
        experience: this process's responses.
        old_logps: of the actions, by the policy that sampled.
        estimate: how much better than expected they were.
    """

    experience: Experience
    old_logps: Tensor
    estimate: Advantages


def reinforce(
    start: Start,
    actors: Actors,
    objective: PolicyGradient,
    standardize: bool,
    value_learning_rate: float | None = None,
) -> None:
    """Prove, learn step by step, save the policy and end the run.

    Args:
        start: what the run has before its loop begins.
        actors: the models.
        objective: how responses are learned from.
        standardize: shift and scale the judge's scores.
        value_learning_rate: of the value model; the policy's if not set.
    """
    training = start.training
    setting = start.setting(actors, objective.samples, standardize)
    proofs = start.prove(actors, setting)
    setting = start.see_from_cache(setting)
    groups = [
        (actors.policy_parameters(), training.learning_rate),
        (actors.value_parameters(), value_learning_rate or training.learning_rate),
    ]
    prompts = len(setting.prompts)
    learner = Learner(actors, groups, training, start.out, prompts)
    kept = learner.resume(training)
    coefficient = kept.get("kl_coefficient", objective.kl_coefficient)
    sampler = RankSampler(prompts, training.batch_size, training.seed, 0, processes.world_size())
    log, began = learner.open_log(kept["step"], training), time.monotonic()
    looks = Evaluations(setting, start.held_out, training, learner, log, kept)
    for step in looks.steps():
        indexes = sampler.rows_of_step(step, training.accumulation)
        actors.policy.model.eval()
        experience = gather_experience(setting, step, indexes)
        measured = measures_of(experience)
        scored = count_scored(experience, step + 1, len(indexes), training.max_bad_fraction)
        learned: dict[str, Any] = dict.fromkeys(_figures(objective))
        if scored:
            lesson = _lesson(objective, experience, coefficient)
            learned["explained_variance"] = lesson.estimate.explained_variance
            learned |= learn(setting, lesson, learner, objective, len(indexes), training.seed, step)
        rate = learner.scheduler.get_last_lr()[0]
        learner.scheduler.step()
        log.write(
            {
                "step": step + 1, "split": "train",
                "epoch": training.rows_seen(step + 1, prompts) / prompts,
                **measured, **learned,
                "kl_coefficient": coefficient, "learning_rate": rate,
                "samples": shown(experience),
            }
        )  # fmt: skip
        if scored:
            responses = scored * objective.samples
            coefficient = objective.next_kl_coefficient(coefficient, measured, responses)
        looks.look(step + 1)
        kept = {"kl_coefficient": coefficient} | looks.kept()
        learner.save(step + 1, kept, looks.best_step())
    log.close()
    setting.close()
    finish(
        start.run, actors, start.model, training, objective.title, proofs, start, log, began,
        looks.done, looks.take_best(),
    )  # fmt: skip


def _figures(objective: PolicyGradient) -> tuple[str, ...]:
    return FIGURES + (VALUE_FIGURES if objective.uses_values else ())


def _lesson(objective: PolicyGradient, experience: Experience, coefficient: float) -> Lesson:
    sampled = Sampled(
        experience.rewards,
        experience.logps,
        experience.reference_logps,
        experience.values,
        experience.mask,
    )
    estimate = objective.advantages(sampled, coefficient, processes.total)
    return Lesson(experience, objective.actions(experience.logps), estimate)


def learn(
    setting: Setting,
    lesson: Lesson,
    learner: Learner,
    objective: PolicyGradient,
    prompts: int,
    seed: int,
    step: int,
) -> dict[str, Any]:
    """Some passes over a step's responses, in minibatches; what the losses were.

    Losses are sums over actions, divided by the actions that all processes have in the minibatch,
    so that neither padding, nor the batch size, nor the number of processes changes them.
    """
    sums = torch.zeros(6, dtype=torch.float64)
    lengths: list[float] = []
    experience = lesson.experience
    counted = objective.counted(experience.mask)
    for epoch in range(objective.inner_epochs):
        for mine in minibatches(experience, prompts, objective.minibatches, seed, step, epoch):
            own = counted[experience.rows(mine, setting.k)].sum().double()
            actions = float(processes.total(own))
            if not actions:
                continue  # no prompt of it was scored; an optimizer would still move
            seen = torch.zeros(6, dtype=torch.float64)
            for chunk in chunks(mine, setting.batch_size):
                seen += _one_batch(setting, lesson, objective, chunk, actions)
            lengths.append(learner.step())
            seen = processes.total(seen)
            sums += seen
            if objective.moved_too_far(float(seen[3]) / actions):
                return _told(objective, sums, lengths, True)
    return _told(objective, sums, lengths, False)


def _one_batch(
    setting: Setting,
    lesson: Lesson,
    objective: PolicyGradient,
    chunk: Sequence[int],
    actions: float,
) -> Tensor:
    """Gradients of the losses on a few prompts' responses, and the sums that are logged."""
    rows = lesson.experience.rows(chunk, setting.k)
    batch = setting.batch([lesson.experience.groups[i] for i in chunk])
    model = setting.actors.policy.model
    with learning(model, setting.model_dropout):
        scores = setting.scores(model, batch)
        now, counted = objective.actions(scores.logps), objective.counted(scores.mask)
        old = _as_wide(lesson.old_logps[rows], now)
        advantages = _as_wide(lesson.estimate.advantages[rows], now).to(now)
        losses, clipped = objective.policy_losses(now, old, advantages)
        policy_loss = losses[counted].sum() / actions
        with unmixed():
            policy_loss.backward()
    value_loss, far = _learn_values(setting, lesson, objective, batch, scores, rows, actions)
    moved = kl_terms(old, now.detach(), "k3")[counted].sum()
    told = (
        policy_loss, value_loss, clipped[counted].sum() / actions, moved, far, counted.sum()
    )  # fmt: skip
    return torch.stack([value.detach().double().cpu() for value in told])


def _learn_values(
    setting: Setting,
    lesson: Lesson,
    objective: PolicyGradient,
    batch: Any,
    scores: TokenScores,
    rows: Tensor,
    actions: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of a value model's loss; the loss, and the share of values that were clipped."""
    critic, returns = setting.actors.critic, lesson.estimate.returns
    if critic is None or returns is None:
        return torch.zeros(()), torch.zeros(())
    mask, old = scores.mask, lesson.experience.values
    with as_critic(critic) as model, learning(model, setting.model_dropout):
        values = token_values(model, critic.head, batch).to(old)
        loss, clipped = objective.value_loss(
            values, _as_wide(old[rows], values), _as_wide(returns[rows], values), mask
        )
        value_loss = loss / actions
        with unmixed():
            value_loss.backward()
    return value_loss, clipped[mask].sum() / actions


def _as_wide(rows: Tensor, like: Tensor) -> Tensor:
    """Rows of a step without the padding that a batch does not have."""
    return rows[..., : like.shape[-1]]


def _told(
    objective: PolicyGradient, sums: Tensor, lengths: Sequence[float], stopped: bool
) -> dict[str, Any]:
    steps, actions = max(1, len(lengths)), float(sums[5].clamp(min=1))
    policy_loss, value_loss, clipped, moved, far, _ = (float(value) for value in sums)
    told = {
        "loss": (policy_loss + value_loss) / steps,
        "policy_loss": policy_loss / steps,
        "value_loss": value_loss / steps,
        "clip_share": clipped / steps,
        "value_clip_share": far / steps,
        "moved": moved / actions,
        "inner_steps": len(lengths),
        "stopped": stopped,
        "gradient_norm": sum(lengths) / steps,
    }
    return {name: value for name, value in told.items() if name in _figures(objective)}
