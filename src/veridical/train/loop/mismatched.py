"""Answers to other prompts beside each row's own, for KTO's estimate of a divergence."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from veridical.models.rendering import Group
from veridical.objectives.kto import KTO
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.train.loop.rows import TrainingRows

MOST_IN_BALANCE = 4 / 3
"""How many times the weight of all bad answers that of all good ones may be (KTO's eq. 8)."""


def with_mismatched(
    rows: TrainingRows, limit: int | None, option: str = "--loss kto"
) -> TrainingRows:
    """The same rows, each with the answers of the last one before it that has another prompt.

    Args:
        rows: the pairs, or answers without a pair.
        limit: tokens that prompt and answer may have; a longer answer of another row is cut there.
        option: what chose the loss that reads them, for the message.

    Raises:
        UserError: all rows have the same prompt and pictures.
    """
    prompts: list[Hashable] = [
        (group.prompt_text, tuple(map(rows.pictures.key, group.images))) for group in rows.groups
    ]
    others = before_with_another(prompts)
    if others is None:
        raise UserError(
            f"All {counted(len(rows.groups), 'rows')} ask the same about the same pictures, and "
            f"{option} estimates a divergence from answers to other prompts. Add rows with other "
            "pictures or questions, or set --loss dpo with pairs."
        )
    groups = [
        with_answers_of(group, rows.groups[other], limit)
        for group, other in zip(rows.groups, others, strict=True)
    ]
    return dataclasses.replace(rows, groups=groups)


def before_with_another(keys: Sequence[Hashable]) -> list[int] | None:
    """For each place the last one before it, around the end, with another key; None if all agree.

    Args:
        keys: one a place.
    """
    count = len(keys)
    last = next((i for i in reversed(range(count)) if keys[i] != keys[0]), None)
    if last is None:
        return None
    found = [last]
    for place in range(1, count):
        found.append(place - 1 if keys[place - 1] != keys[place] else found[-1])
    return found


def with_answers_of(group: Group, other: Group, limit: int | None = None) -> Group:
    """A group with another group's answers behind its own, under its own prompt and pictures.

    Args:
        group: whose prompt they are read behind.
        other: whose answers they are; as many as `group` has.
        limit: tokens that prompt and answer may have.
    """
    count = len(group.response_ids)
    prompt = group.prompt_tokens[0] if group.prompt_tokens else 0
    room = None if limit is None else max(1, limit - prompt)
    ids = [one[:room] for one in other.response_ids]
    masks: tuple[Tensor, ...] = ()
    if group.learned or other.learned:
        own = [group.learned_of(i) for i in range(count)]
        masks = (*own, *(other.learned_of(i)[:room] for i in range(count)))
    cut = [
        was or len(one) < len(whole)
        for was, one, whole in zip(other.cut, ids, other.response_ids, strict=True)
    ]
    return dataclasses.replace(
        group,
        response_texts=(*group.response_texts, *other.response_texts),
        response_ids=(*group.response_ids, *ids),
        cut=(*group.cut, *cut),
        response_images=group.response_images and (*group.response_images, *[None] * count),
        hidden=group.hidden and (*group.hidden, *[0.0] * count),
        learned=masks,
        token_counts=tuple(one.tokens_of(i) for one in (group, other) for i in range(count)),
        prompt_tokens=group.prompt_tokens and (*group.prompt_tokens, *[prompt] * count),
        contrasts=count,
    )


def tell_balance(groups: Sequence[Group], loss: KTO) -> None:
    """Say how many answers are good, and which weight would balance them.

    Args:
        groups: what is trained on.
        loss: with the weights of either kind.
    """
    labels = torch.tensor([group.label for group in groups if group.label is not None])
    good, bad = int(labels.sum()), int((~labels).sum())
    told = f"{counted(good, 'good answers')} and {counted(bad, 'bad ones')} are trained on."
    against = bad * loss.undesirable_weight
    share = good * loss.desirable_weight / against if good and bad else 1.0
    if not 1 <= share <= MOST_IN_BALANCE:
        least = against / good
        told += (
            f" Good ones weigh {share:.2g} times as much as bad ones altogether; 1 to 1.33 is "
            f"usual: --desirable-weight {least:.3g} to {least * MOST_IN_BALANCE:.3g}."
        )
    if not (good and bad):
        told += (
            f" All are {'good' if good else 'bad'} ones, so nothing says what to "
            f"{'avoid' if good else 'prefer'}: check the column `label`."
        )
    print(told)
