"""Scoring groups with a reward model, batch by batch, and counting the tokens that it read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from veridical.models.batching import collate
from veridical.models.finite import require_finite
from veridical.models.rendering import Group
from veridical.models.reward_model import RewardModel, own_adapter, response_rewards


@dataclass(frozen=True)
class ReadGroup:
    """What a reward model says of one group.

    Attributes:
        rewards: of its responses, in order.
        tokens: that were read, images included; what its responses share counts once.
    """

    rewards: list[float]
    tokens: int


def score_groups(
    reward_model: RewardModel,
    groups: Sequence[Group],
    batch_size: int,
    share_prefix: bool,
) -> list[list[float]]:
    """The rewards of every response of every group, in order.

    Groups of a batch need the same number of responses, so runs of equal ones go together.

    Args:
        reward_model: who judges; its own adapter is switched on meanwhile.
        groups: from `judged_group`.
        batch_size: groups at once.
        share_prefix: the layout, see `checks.prefix_sharing`.
    """
    read = read_groups(reward_model, groups, batch_size, share_prefix)
    return [one.rewards for one in read]


@torch.no_grad()
def read_groups(
    reward_model: RewardModel,
    groups: Sequence[Group],
    batch_size: int,
    share_prefix: bool,
) -> list[ReadGroup]:
    """The same, with the tokens that were read."""
    policy = reward_model.policy
    found: list[ReadGroup] = []
    with own_adapter(reward_model):
        for chunk in _chunks_of_like_size(groups, batch_size):
            batch = collate(policy, chunk, share_prefix)
            values = response_rewards(policy.model, reward_model.head, batch)
            require_finite(policy, values, "rewards")
            prompts = batch.prompt_tokens.tolist()
            found += [
                ReadGroup(rewards, _tokens_read(group, own))
                for group, rewards, own in zip(chunk, values.tolist(), prompts, strict=True)
            ]
    return found


def _tokens_read(group: Group, prompts: Sequence[int]) -> int:
    """A prompt counts once; one with images of its own counts by itself."""
    seen = {(id(group.images_of(n)), group.prompt_of(n)): own for n, own in enumerate(prompts)}
    return sum(seen.values()) + sum(map(len, group.response_ids))


def _chunks_of_like_size(groups: Sequence[Group], size: int) -> Iterator[list[Group]]:
    chunk: list[Group] = []
    for group in groups:
        full = len(chunk) == size
        if chunk and (full or len(chunk[0].response_ids) != len(group.response_ids)):
            yield chunk
            chunk = []
        chunk.append(group)
    if chunk:
        yield chunk
