"""A trial before the first step: whether learning from the longest responses fits into memory.

Responses are as long as they are allowed to be only at some steps, perhaps late ones. What a step
samples, `sampling` fits into memory by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from veridical.models.policy import Policy
from veridical.models.precision import unmixed
from veridical.models.rendering import Group
from veridical.models.token_scores import token_values
from veridical.runtime.full_memory import memory_errors_alike
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.modes import learning
from veridical.train.loop.trial import (
    longest_rows,
    make_state,
    no_room,
    state_can_be_dropped,
    uneven,
)
from veridical.train.rl.actors import as_critic
from veridical.train.rl.experience import Setting
from veridical.train.rl.learner import Learner

SHORTER = (
    "Lower --batch-size, --max-new-tokens, --max-length or the samples of a prompt, or set "
    "trainer.gradient_checkpointing."
)


def longest_answered(
    policy: Policy,
    groups: Sequence[Group],
    k: int,
    count: int,
    share_prefix: bool,
    left_out: LeftOut,
) -> list[Group]:
    """The prompts that take most tokens, each with k responses as long as they can become.

    All processes have to take part.

    Args:
        policy: whose processor lays them out.
        groups: prompts with a response as long as it can become, and their `prompt_tokens`.
        k: responses to each.
        count: how many are wanted.
        share_prefix: the layout.
        left_out: takes those that the processor refuses.
    """
    answered = [_answered(group, k) for group in groups]
    places = longest_rows(policy, answered, share_prefix, count, left_out)
    left_out.share()
    return uneven([answered[place] for place in places])


def _answered(group: Group, k: int) -> Group:
    return dataclasses.replace(
        group,
        response_texts=k * group.response_texts[:1],
        response_ids=k * group.response_ids[:1],
        cut=k * group.cut[:1],
        prompt_tokens=k * group.prompt_tokens[:1],
        sampled=True,
    )


def try_a_step(setting: Setting, groups: Sequence[Group], learner: Learner) -> None:
    """Learn from these as a step does, with the optimizer's state there; no weight is changed.

    Args:
        setting: models and layout.
        groups: prompts at once, with responses.
        learner: its optimizer makes its state, and forgets it if there was none.

    Raises:
        UserError: there is not enough memory.
    """
    if not groups:
        return
    optimizer, made_state = learner.optimizer, False
    try:
        with memory_errors_alike():
            _forward_and_backward(setting, groups)
            if state_can_be_dropped(learner.arguments):
                made_state = make_state(optimizer, learner.step)
            for _ in range(2):  # gradients of one batch are there when those of the next are made
                _forward_and_backward(setting, groups)
    except torch.OutOfMemoryError as error:
        raise no_room(setting.actors.policy, SHORTER) from error
    optimizer.zero_grad(set_to_none=True)
    if made_state:
        optimizer.state.clear()


def _forward_and_backward(setting: Setting, groups: Sequence[Group]) -> None:
    actors, batch = setting.actors, setting.batch(groups)
    model = actors.policy.model
    with learning(model, False):
        loss = setting.scores(model, batch).logps.sum()
        with unmixed():
            loss.backward()
    if actors.critic is None:
        return
    with as_critic(actors.critic) as critic, learning(critic, False):
        values = token_values(critic, actors.critic.head, batch)
        with unmixed():
            values.sum().backward()
