"""Learning from a step's responses: passes over minibatches, and the gradients of their losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.models.batch import Batch
from veridical.models.precision import unmixed
from veridical.models.token_scores import token_values
from veridical.objectives.policy_gradient import Advantages, PolicyGradient, ScoredTokens, kl_terms
from veridical.runtime import processes
from veridical.runtime.float64 import in_float64
from veridical.runtime.run_files import LogRow
from veridical.train.loop.modes import learning
from veridical.train.loop.seen import given_features
from veridical.train.rl.actors import as_critic
from veridical.train.rl.experience import Experience, Seen, Setting, in_batches, minibatches
from veridical.train.rl.learner import Learner

OF_VALUES = ("value_loss", "value_clip_share", "stopped")
"""Figures of `Learned` that are logged only where there is a value model."""


@dataclass(frozen=True)
class Lesson:
    """What is learned from a step's responses.

    Attributes:
        objective: how.
        experience: this process's responses that are learned from.
        estimate: the advantages of their actions.
        kl_coefficient: the penalty's weight now.
    """

    objective: PolicyGradient
    experience: Experience
    estimate: Advantages
    kl_coefficient: float = 0.0


@dataclass(frozen=True)
class Learned:
    """What the log says of learning from a step; None where nothing of the step was learned from.

    Attributes:
        loss: of policy and value model; a mean over optimizer steps, like the next four.
        policy_loss: of the policy.
        value_loss: of the value model, weighted.
        clip_share: share of actions whose policy loss was clipped.
        value_clip_share: share of tokens whose value loss was clipped.
        moved: nats an action that the policy moved within the step.
        inner_steps: optimizer steps.
        stopped: whether the step ended because the policy had moved far enough.
        gradient_norm: of the policy, before it was clipped; a mean over optimizer steps.
        explained_variance: share of the returns' variance that was foreseen.
    """

    loss: float | None = None
    policy_loss: float | None = None
    value_loss: float | None = None
    clip_share: float | None = None
    value_clip_share: float | None = None
    moved: float | None = None
    inner_steps: int | None = None
    stopped: bool | None = None
    gradient_norm: float | None = None
    explained_variance: float | None = None

    def figures(self, with_values: bool) -> LogRow:
        """By name; those of a value model where there is one."""
        named = dataclasses.asdict(self)
        return {
            name: value for name, value in named.items() if with_values or name not in OF_VALUES
        }


@dataclass(frozen=True)
class Sums:
    """Sums over the actions of some responses, each a float64 scalar on the CPU.

    Attributes:
        policy_loss: divided by what the objective divides by, of the whole minibatch.
        value_loss: of the value model, divided by the actions of the whole minibatch, like the next
            two.
        clipped: actions whose policy loss was clipped.
        values_clipped: tokens whose value loss was clipped.
        moved: nats that the policy moved.
        actions: how many.
    """

    policy_loss: Tensor
    value_loss: Tensor
    clipped: Tensor
    values_clipped: Tensor
    moved: Tensor
    actions: Tensor

    @classmethod
    def none(cls) -> Sums:
        """Of no response."""
        return cls(*torch.zeros(len(dataclasses.fields(cls)), dtype=torch.float64))

    def tensor(self) -> Tensor:
        """All of them, in the order of the fields."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return torch.stack([value.detach().cpu().double() for value in values])

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(self.tensor() + other.tensor()))

    def over_processes(self) -> Sums:
        """Added up over all processes."""
        return Sums(*processes.total(self.tensor()))


@dataclass(frozen=True)
class Whole:
    """What a minibatch has over all processes.

    Attributes:
        actions: that count.
        divisor: of the sum of the policy's losses.
    """

    actions: float
    divisor: float

    @classmethod
    def of(cls, objective: PolicyGradient, mask: Tensor) -> Whole:
        """From the mask of this process's tokens; all processes have to take part."""
        own = [objective.counted(mask).sum(), objective.divisor(mask)]
        actions, divisor = processes.total(in_float64(torch.stack(own))).tolist()
        return cls(actions, divisor)


def lesson_of(objective: PolicyGradient, experience: Experience, kl_coefficient: float) -> Lesson:
    """Choose what is learned from a step, and compute its advantages.

    All processes have to take part, and some prompt of theirs has to be scored.
    """
    estimate = objective.advantages(experience.sampled, kl_coefficient, processes.total)
    kept = objective.learned_from(experience.sampled.scores)
    if not kept.all():
        chosen = kept.nonzero().flatten().tolist()
        rows = experience.rows(chosen, objective.samples)
        estimate = dataclasses.replace(estimate, advantages=estimate.advantages[rows])
        experience = experience.only(chosen, objective.samples)
    return Lesson(objective, experience, estimate, kl_coefficient)


def learn(setting: Setting, lesson: Lesson, learner: Learner, prompts: int, step: int) -> Learned:
    """Some passes over a step's responses, in minibatches; what the losses were.

    Losses are sums over actions, divided by what all processes have in the minibatch (actions, or
    what the objective divides by), so that neither padding, nor the batch size, nor the number of
    processes changes them. Where nothing of the step is learned from, no weight moves.

    Args:
        setting: models and layout.
        lesson: this process's responses.
        learner: takes the optimizer steps.
        prompts: of the step, over all processes.
        step: how many were done before.
    """
    objective, experience = lesson.objective, lesson.experience
    mask = experience.sampled.mask
    sums = Sums.none()
    norms: list[float] = []
    for epoch in range(objective.inner_epochs):
        for mine in minibatches(setting, experience.answered, prompts, step, epoch):
            whole = Whole.of(objective, mask[experience.rows(mine, setting.k)])
            if not whole.actions:
                continue  # no prompt of it is learned from; an optimizer would still move
            seen = Sums.none()
            for chunk in in_batches(setting, mine):
                # Until the first update the policy is the one that sampled.
                seen += _learn_batch(setting, lesson, chunk, whole, moved=bool(norms))
            norms.append(learner.step())
            seen = seen.over_processes()
            sums += seen
            if objective.moved_too_far(float(seen.moved) / whole.actions):
                return _learned(lesson, sums, norms, stopped=True)
    return _learned(lesson, sums, norms, stopped=False)


def _learn_batch(
    setting: Setting, lesson: Lesson, chunk: Sequence[int], whole: Whole, moved: bool
) -> Sums:
    """Gradients of the losses on a few prompts' responses, and the sums that are logged.

    Args:
        setting: models and layout.
        lesson: this process's responses.
        chunk: the prompts.
        whole: what their minibatch has.
        moved: whether a weight has moved since the responses were sampled. If not, ratios are 1.
            Computed from the log-probs of the sampling pass, whose batches were others, they would
            be off by rounding, in half precision by more than a narrow `--clip`.
    """
    objective, estimate, sampled = lesson.objective, lesson.estimate, lesson.experience.sampled
    rows, actions = lesson.experience.rows(chunk, setting.k), whole.actions
    batch = setting.batch([lesson.experience.answered[i].group for i in chunk])
    model = setting.actors.policy.model
    with learning(model, False):
        with setting.seeing(model) as seen:
            scores = setting.scores(model, batch)
        now, counted = objective.actions(scores.logps), objective.counted(scores.mask)
        before = scores.logps.detach()
        if moved:
            before = _as_wide(sampled.logps[rows], scores.logps)
        reference = _as_wide(sampled.reference_logps[rows], scores.logps)
        limit = setting.decoding.max_new_tokens
        tokens = ScoredTokens(scores.logps, before, reference, scores.mask, limit)
        advantages = _as_wide(estimate.advantages[rows], now).to(now)
        losses, clipped = objective.policy_losses(tokens, advantages, lesson.kl_coefficient)
        policy_loss = losses[counted].sum() / whole.divisor
        with unmixed():
            policy_loss.backward()
    value_loss, values_clipped = torch.zeros(()), torch.zeros(())
    if estimate.returns is not None:
        value_loss, values_clipped = _learn_values(
            setting, lesson, batch, rows, scores.mask, actions, seen, moved
        )
    return Sums(
        policy_loss=policy_loss,
        value_loss=value_loss,
        clipped=clipped[counted].sum() / actions,
        values_clipped=values_clipped,
        moved=kl_terms(objective.actions(before), now.detach(), "k3")[counted].sum(),
        actions=counted.sum(),
    )


def _learn_values(
    setting: Setting, lesson: Lesson, batch: Batch, rows: Tensor, mask: Tensor, actions: float,
    seen: Seen, moved: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradient of the value model's loss; the loss, and the share of values clipped."""
    critic, returns = setting.actors.critic, lesson.estimate.returns
    assert critic is not None and returns is not None
    with as_critic(critic) as model, learning(model, False):
        with given_features(model, seen.features):
            values = token_values(model, critic.head, batch).to(lesson.experience.sampled.logps)
        old = values.detach()
        if moved:
            old = _as_wide(lesson.experience.sampled.values[rows], values)
        loss, clipped = lesson.objective.value_loss(
            values, old, _as_wide(returns[rows], values), mask
        )
        value_loss = loss / actions
        with unmixed():
            value_loss.backward()
    return value_loss, clipped[mask].sum() / actions


def _as_wide(rows: Tensor, like: Tensor) -> Tensor:
    """Rows of a step without the padding that a batch does not have."""
    return rows[..., : like.shape[-1]]


def _learned(lesson: Lesson, sums: Sums, norms: Sequence[float], stopped: bool) -> Learned:
    """Means over optimizer steps, and over actions."""
    if not norms:
        return Learned()
    steps, actions = len(norms), float(sums.actions)
    return Learned(
        loss=(float(sums.policy_loss) + float(sums.value_loss)) / steps,
        policy_loss=float(sums.policy_loss) / steps,
        value_loss=float(sums.value_loss) / steps,
        clip_share=float(sums.clipped) / steps,
        value_clip_share=float(sums.values_clipped) / steps,
        moved=float(sums.moved) / actions,
        inner_steps=len(norms),
        stopped=stopped,
        gradient_norm=sum(norms) / steps,
        explained_variance=lesson.estimate.explained_variance,
    )
