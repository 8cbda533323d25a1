"""One step's experience: fresh responses, their log-probs and values, and what they earned."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from veridical.data.responses import Response
from veridical.models.batch import Batch
from veridical.models.batching import collate
from veridical.models.finite import require_finite
from veridical.models.rendering import Group
from veridical.models.token_scores import TokenScores, token_scores, token_values
from veridical.objectives.policy_gradient import SampledTokens
from veridical.runtime import processes
from veridical.runtime.randomness import generator
from veridical.sampling import Decoding, Request, never_sampled
from veridical.sampling.engines.adapters import Engine, sample
from veridical.sampling.rollouts import rollout_group
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.seen import given_features, needs_no_graph, see_alike, watched_features
from veridical.train.prompts import TrainingPrompt
from veridical.train.responses import refuse_unscored, sample_usable
from veridical.train.rl.actors import Actors, as_critic
from veridical.train.rl.rewarding import Rewarded, Rewarder, reward


@dataclass(frozen=True)
class Seen:
    """What the image encoder gave for a batch.

    Attributes:
        found: of each of its calls.
        alike: whether others would get the same.
    """

    found: list[object]
    alike: bool

    @property
    def features(self) -> object:
        """For the other models; None where each has to look for itself."""
        return self.found[0] if self.alike and len(self.found) == 1 else None


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
        minibatches: optimizer steps of a pass over a step's responses.
        seed: of the draw of what is in which.
        engine: who samples, where that is not this process.
        left_out: takes the prompts whose images the processor refuses.
    """

    actors: Actors
    prompts: Sequence[TrainingPrompt]
    rewarder: Rewarder
    decoding: Decoding
    k: int
    batch_size: int
    share_prefix: bool
    minibatches: int = 1
    seed: int = 0
    engine: Engine | None = None
    left_out: LeftOut | None = None

    def close(self) -> None:
        """Let a server forget the policy."""
        if self.engine is not None:
            self.engine.close()

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Prompts with their responses, laid out."""
        return collate(self.actors.policy, groups, self.share_prefix)

    @cached_property
    def sees_alike(self) -> bool:
        """Whether all models of a step make the same of a picture, so that one can see for all."""
        policy, critic = self.actors.policy, self.actors.critic
        others = [self.actors.frozen]
        if critic is not None and critic.policy.model is not policy.model:
            others.append(critic.policy)
        return all(see_alike(policy, other, False) for other in others)

    @cached_property
    def needs_no_graph(self) -> bool:
        """Whether no gradient goes back through what images pass."""
        return needs_no_graph(self.actors.policy)

    @contextmanager
    def seeing(self, model: PreTrainedModel) -> Iterator[Seen]:
        """Watch what a model makes of a batch's pictures; for `given_features` to others."""
        with watched_features(model, graph=not self.needs_no_graph) as found:
            yield Seen(found, self.sees_alike)

    def scores(self, model: PreTrainedModel, batch: Batch) -> TokenScores:
        """Every token by the distribution that it was sampled from."""
        banned = never_sampled(self.actors.policy)
        return token_scores(model, batch, self.decoding.temperature, banned)


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt of a step with its responses.

    Attributes:
        place: among the step's prompts, all processes' together.
        request: as it was asked.
        responses: what the policy said.
    """

    place: int
    request: Request
    responses: list[Response]


@dataclass(frozen=True)
class RewardedGroup(SampledPrompt):
    """The same, rewarded and ready to be learned from.

    Attributes:
        group: the prompt with its responses' tokens.
        rewarded: what each response earned.
    """

    group: Group
    rewarded: Rewarded


@dataclass(frozen=True)
class TokenFigures:
    """What the models say of one response, a value for each of its tokens.

    Attributes:
        logps: by the policy that sampled. Shape: (tokens,), like all.
        reference_logps: by the reference.
        values: by the value model; 0 without one.
        entropies: of the policy.
    """

    logps: Tensor
    reference_logps: Tensor
    values: Tensor
    entropies: Tensor


@dataclass(frozen=True)
class Experience:
    """What one process has of a step.

    Tensors have a row a response, in the prompts' order, and are padded on the right.

    Attributes:
        answered: prompts with their responses.
        sampled: what advantages are computed from.
        entropies: of the policy. Shape: (responses, tokens).
        unscored: prompts that the judge could not score, which are left out.
        problems: why.
        refused: prompts whose images the processor refuses, which are left out as well.
    """

    answered: list[RewardedGroup]
    sampled: SampledTokens
    entropies: Tensor
    unscored: int = 0
    problems: tuple[str, ...] = ()
    refused: int = 0

    def rows(self, chosen: Sequence[int], k: int) -> Tensor:
        """The rows of some prompts' responses."""
        return torch.tensor([i * k + n for i in chosen for n in range(k)], dtype=torch.long)

    def only(self, chosen: Sequence[int], k: int) -> Experience:
        """Some prompts of it, with their k responses each."""
        rows = self.rows(chosen, k)
        sampled = {field: tensor[rows] for field, tensor in vars(self.sampled).items()}
        return dataclasses.replace(
            self,
            answered=[self.answered[place] for place in chosen],
            sampled=SampledTokens(**sampled),
            entropies=self.entropies[rows],
        )


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
    mine = list(range(len(indexes)))[processes.rank() :: processes.world_size()]
    asked = _sample(setting, step, indexes, mine, noise or f"step-{step}")
    prompts = [setting.prompts[indexes[one.place]] for one in asked]
    rewarded = reward(setting.rewarder, prompts, [one.responses for one in asked]) if asked else []
    answered = [
        RewardedGroup(
            one.place,
            one.request,
            one.responses,
            rollout_group(policy, one.request, one.responses),
            earned,
        )
        for one, earned in zip(asked, rewarded, strict=True)
        if not earned.problem
    ]
    batches = None
    if noise is None:
        # Those of the first pass: in others the same weights give log-probs that differ by
        # rounding, and what is learned would take that for a change of the policy.
        passes = minibatches(setting, answered, len(indexes), step, 0)
        batches = [batch for minibatch in passes for batch in in_batches(setting, minibatch)]
    figures = _token_figures(setting, [one.group for one in answered], batches)
    dtype = torch.promote_types(policy.model.dtype, torch.float32)
    empty = torch.zeros(0, 1, dtype=dtype, device=policy.device)

    def padded(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True) if rows else empty

    earned_by_response = [value for one in answered for value in one.rewarded.rewards]
    return Experience(
        answered,
        SampledTokens(
            scores=torch.tensor(earned_by_response, dtype=dtype, device=policy.device),
            logps=padded([one.logps for one in figures]),
            reference_logps=padded([one.reference_logps for one in figures]),
            values=padded([one.values for one in figures]),
            mask=padded([torch.ones_like(one.logps) for one in figures]).bool(),
        ),
        entropies=padded([one.entropies for one in figures]),
        unscored=len(asked) - len(answered),
        problems=tuple(one.problem for one in rewarded if one.problem),
        refused=len(mine) - len(asked),
    )


def _sample(
    setting: Setting, step: int, indexes: Sequence[int], places: Sequence[int], noise: str
) -> list[SampledPrompt]:
    """Responses to the prompts at some places, of those whose images the processor takes."""
    left_out = setting.left_out

    def answer(requests: list[Request]) -> list[list[Response]]:
        policy, engine = setting.actors.policy, setting.engine
        return sample(engine, policy, requests, setting.decoding, setting.k, step)

    usable = [
        place
        for place in places
        if left_out is None or not left_out.has_prompt(setting.prompts[indexes[place]].asked.id)
    ]
    prompts = [setting.prompts[indexes[place]].asked for place in usable]
    requests = [
        Request(dataclasses.replace(prompt, id=f"{prompt.id}/{noise}")) for prompt in prompts
    ]
    said, kept = sample_usable(left_out, requests, answer)
    if left_out is not None:
        left_out.share()
    return [
        SampledPrompt(usable[number], requests[number], responses)
        for number, responses in zip(kept, said, strict=True)
    ]


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
def _token_figures(
    setting: Setting, groups: Sequence[Group], batches: Sequence[Sequence[int]] | None = None
) -> list[TokenFigures]:
    """What policy, reference and value model say of each response to each prompt, in their order.

    Args:
        setting: the models.
        groups: prompts with their responses.
        batches: the positions of those that are computed together, each once; as they come if not
            given.
    """
    found: dict[int, list[TokenFigures]] = {}
    for chosen in batches or in_batches(setting, range(len(groups))):
        figures = _figures_of_batch(setting, [groups[position] for position in chosen])
        for position in chosen:
            found[position] = list(itertools.islice(figures, len(groups[position].response_ids)))
    return [one for position in range(len(groups)) for one in found[position]]


def _figures_of_batch(setting: Setting, groups: Sequence[Group]) -> Iterator[TokenFigures]:
    actors, batch = setting.actors, setting.batch(groups)
    with setting.seeing(actors.policy.model) as seen:
        ours = setting.scores(actors.policy.model, batch)
    with actors.as_reference() as reference, given_features(reference, seen.features):
        theirs = setting.scores(reference, batch)
    values = torch.zeros_like(ours.logps)
    if actors.critic is not None:
        with as_critic(actors.critic) as model, given_features(model, seen.features):
            values = token_values(model, actors.critic.head, batch).to(values)
    require_finite(actors.policy, ours.logps, "log-probabilities")
    require_finite(actors.policy, theirs.logps, "reference log-probabilities")
    require_finite(actors.policy, values, "values")
    for row, length in enumerate(ours.mask.sum(-1).tolist()):
        yield TokenFigures(
            ours.logps[row, :length],
            theirs.logps[row, :length],
            values[row, :length],
            ours.entropies[row, :length],
        )


def minibatches(
    setting: Setting, answered: Sequence[SampledPrompt], prompts: int, step: int, epoch: int
) -> list[list[int]]:
    """This process's prompts in each minibatch; minibatches are drawn over all processes' prompts.

    Args:
        setting: says how many minibatches; there are fewer if there are fewer prompts.
        answered: prompts of this process.
        prompts: of the step, over all processes.
        step: which step.
        epoch: which pass over its experience.

    Returns:
        Positions in `answered`.
    """
    order = generator(setting.seed, "minibatches", step, epoch).permutation(prompts).tolist()
    count = min(setting.minibatches, prompts)
    own = {one.place: position for position, one in enumerate(answered)}
    return [
        [own[place] for place in order[number::count] if place in own] for number in range(count)
    ]


def in_batches(setting: Setting, positions: Sequence[int]) -> Iterator[Sequence[int]]:
    """As many prompts at once as `--batch-size` says, with their responses."""
    for start in range(0, len(positions), setting.batch_size):
        yield positions[start : start + setting.batch_size]
