"""One step's experience: fresh responses, their log-probs and values, and what they earned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from veridical.models.batching import Batch
from veridical.models.finite import require_finite
from veridical.models.logprobs import collate
from veridical.models.rendering import Group
from veridical.models.token_scores import TokenScores, token_scores, token_values
from veridical.runtime import processes
from veridical.runtime.randomness import generator
from veridical.sampling import Decoding, Request, never_sampled
from veridical.sampling.engines.adapters import Engine, sample
from veridical.sampling.rollouts import Rollout, rollout_group
from veridical.train.loop.left_out import LeftOut
from veridical.train.prompts import TrainingPrompt
from veridical.train.responses import refuse_unscored, sample_usable
from veridical.train.rl.actors import Actors, as_critic
from veridical.train.rl.rewarding import Rewarded, Rewarder, reward


@dataclass(frozen=True)
class Setting:
    """What stays the same over all steps.

    Attributes:
        actors: the models.
        prompts: all of them.
        rewarder: who rewards.
        decoding: of responses.
        k: responses to each prompt.
        batch_size: prompts at once, when responses are scored and learned from.
        share_prefix: the layout.
        engine: who samples, where that is not this process.
        model_dropout: learn with the models' own dropout.
        left_out: takes the prompts whose images the processor refuses.
    """

    actors: Actors
    prompts: Sequence[TrainingPrompt]
    rewarder: Rewarder
    decoding: Decoding
    k: int
    batch_size: int
    share_prefix: bool
    engine: Engine | None = None
    model_dropout: bool = False
    left_out: LeftOut | None = None

    def close(self) -> None:
        """Let a server forget the policy."""
        if self.engine is not None:
            self.engine.close()

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Prompts with their responses, laid out."""
        return collate(self.actors.policy, groups, self.share_prefix)

    def scores(self, model: Any, batch: Batch) -> TokenScores:
        """Every token by the distribution that it was sampled from."""
        banned = never_sampled(self.actors.policy)
        return token_scores(model, batch, self.decoding.temperature, banned)


@dataclass(frozen=True)
class Experience:
    """What one process has of a step.

    Tensors have a row a response, in the groups' order, and are padded on the right.

    Attributes:
        places: of each group among the step's prompts, all processes' together.
        groups: prompts with their sampled responses.
        rollouts: the same responses, one list a group.
        rewarded: what each group earned.
        logps: by the policy that sampled. Shape: (responses, tokens).
        reference_logps: by the reference. Shape: (responses, tokens).
        values: by the value model as it was; 0 without one. Shape: (responses, tokens).
        entropies: of the policy. Shape: (responses, tokens).
        mask: True at real tokens. Shape: (responses, tokens).
        rewards: of the responses. Shape: (responses,).
        unscored: prompts that the judge could not score, which are left out.
        problems: why.
        refused: prompts whose images the processor refuses, which are left out as well.
    """

    places: list[int]
    groups: list[Group]
    rollouts: list[list[Rollout]]
    rewarded: list[Rewarded]
    logps: Tensor
    reference_logps: Tensor
    values: Tensor
    entropies: Tensor
    mask: Tensor
    rewards: Tensor
    unscored: int
    problems: tuple[str, ...]
    refused: int = 0

    def rows(self, chosen: Sequence[int], k: int) -> Tensor:
        """The rows of some groups' responses."""
        return torch.tensor([i * k + n for i in chosen for n in range(k)], dtype=torch.long)


def gather_experience(
    setting: Setting, step: int, indexes: Sequence[int], noise: str | None = None
) -> Experience:
    """Sample, reward and score this process's share of a step's prompts.

    All processes have to take part.

    Args:
        setting: models, prompts, rewards.
        step: how many were done before, which is the version of the policy.
        indexes: of the step's prompts, those of all processes.
        noise: keys what is drawn, together with each prompt's id; the step does if not given.
    """
    policy = setting.actors.policy
    share = list(range(len(indexes)))[processes.rank() :: processes.world_size()]
    mine, asked, said = _sampled(setting, step, indexes, share, noise or f"step-{step}")
    prompts = [setting.prompts[indexes[place]] for place in mine]
    earned = reward(setting.rewarder, prompts, said) if prompts else []
    kept = [i for i, one in enumerate(earned) if not one.problem]
    groups = [rollout_group(policy, asked[i], said[i]) for i in kept]
    scored = list(_scored(setting, groups))
    rewards = [value for i in kept for value in earned[i].rewards]
    dtype = torch.promote_types(policy.model.dtype, torch.float32)
    empty = torch.zeros(0, 1, dtype=dtype, device=policy.device)

    def stacked(number: int) -> Tensor:
        rows = [row for piece in scored for row in piece[number]]
        return pad_sequence(rows, batch_first=True) if rows else empty

    return Experience(
        places=[mine[i] for i in kept],
        groups=groups,
        rollouts=[said[i] for i in kept],
        rewarded=[earned[i] for i in kept],
        logps=stacked(0),
        reference_logps=stacked(1),
        values=stacked(2),
        entropies=stacked(3),
        mask=stacked(4).bool(),
        rewards=torch.tensor(rewards, dtype=empty.dtype, device=policy.device),
        unscored=len(prompts) - len(kept),
        problems=tuple(one.problem for one in earned if one.problem),
        refused=len(share) - len(mine),
    )


def _sampled(
    setting: Setting, step: int, indexes: Sequence[int], share: Sequence[int], noise: str
) -> tuple[list[int], list[Request], list[list[Rollout]]]:
    """The places of a share whose images the processor takes, what is asked, and what is said."""
    left_out = setting.left_out

    def answer(requests: list[Request]) -> list[list[Rollout]]:
        policy, engine = setting.actors.policy, setting.engine
        return sample(engine, policy, requests, setting.decoding, setting.k, step)

    open_places = [
        place
        for place in share
        if left_out is None or not left_out.has_prompt(setting.prompts[indexes[place]].request.id)
    ]
    requests = [setting.prompts[indexes[place]].request for place in open_places]
    asked = [dataclasses.replace(one, id=f"{one.id}/{noise}") for one in requests]
    said, kept = sample_usable(left_out, asked, answer)
    if left_out is not None:
        left_out.share()
    return [open_places[n] for n in kept], [asked[n] for n in kept], said


def count_scored(
    experience: Experience, step: int, asked: int, most: float, held_out: bool = False
) -> int:
    """How many prompts of a step the judge could score, over all processes.

    Args:
        experience: of this process.
        step: which, from 1.
        asked: prompts of the step, over all processes.
        most: `--max-bad-fraction`.
        held_out: whether these are the held-out prompts.

    Raises:
        UserError: too many could not be scored.
    """
    problems = [problem for own in processes.gather(experience.problems) for problem in own]
    unscored = sum(processes.gather(experience.unscored))
    refused = sum(processes.gather(experience.refused))
    refuse_unscored(step, unscored, asked, problems, most, held_out)
    return asked - unscored - refused


@torch.no_grad()
def _scored(setting: Setting, groups: Sequence[Group]) -> Iterator[tuple[list[Tensor], ...]]:
    """Log-probs, the reference's, values, entropies and masks: a row a response."""
    actors = setting.actors
    for start in range(0, len(groups), setting.batch_size):
        batch = setting.batch(groups[start : start + setting.batch_size])
        ours = setting.scores(actors.policy.model, batch)
        with actors.as_reference() as reference:
            theirs = setting.scores(reference, batch)
        values = torch.zeros_like(ours.logps)
        if actors.critic is not None:
            with as_critic(actors.critic) as model:
                values = token_values(model, actors.critic.head, batch).to(values)
        require_finite(actors.policy, ours.logps, "log-probabilities")
        require_finite(actors.policy, theirs.logps, "reference log-probabilities")
        require_finite(actors.policy, values, "values")
        lengths = ours.mask.sum(-1).tolist()
        tensors = (ours.logps, theirs.logps, values, ours.entropies, ours.mask)
        yield tuple(
            [row[:length] for row, length in zip(tensor, lengths, strict=True)]
            for tensor in tensors
        )


def minibatches(
    experience: Experience, prompts: int, count: int, seed: int, step: int, epoch: int
) -> list[list[int]]:
    """This process's groups in each minibatch; minibatches are drawn over all processes' prompts.

    Args:
        experience: of this process.
        prompts: of the step, over all processes.
        count: how many minibatches; fewer if there are fewer prompts.
        seed: of the draw.
        step: which step.
        epoch: which pass over its experience.

    Returns:
        Positions in `experience.groups`.
    """
    order = generator(seed, "minibatches", step, epoch).permutation(prompts).tolist()
    count = min(count, prompts)
    own = {place: position for position, place in enumerate(experience.places)}
    return [
        [own[place] for place in order[number::count] if place in own] for number in range(count)
    ]
