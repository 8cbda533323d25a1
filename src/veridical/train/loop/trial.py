"""A trial before the first step: whether a step fits into memory, and gives numbers.

It is what `--dry-run` measures: the longest rows, twice, since the optimizer's state comes with the
first step and is there beside the activations of the second.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from veridical.models.batching import collate, layout_shape
from veridical.models.policy import Policy
from veridical.models.precision import unmixed
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.full_memory import memory_errors_alike
from veridical.train.loop.items import Item, Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.order import OrderedRow
from veridical.train.loop.trained import whole
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.trainer_keys import STEERED_OPTIMIZERS

CANDIDATES = 32
"""The longest rows, which are laid out before they are believed: image tokens are counted from
sizes, and that was compared with the processor on a few pictures (our choice: seconds)."""
LAID_OUT = 320
"""Rows that are laid out at most, where the processor refuses some (our choice)."""

LEARNED_LOSS = 1e-4
"""A loss below it may have a gradient of 0 in half precision (our choice)."""


Shape = tuple[int, int]
"""Rows and tokens of the longest, in the layout."""


class TryFirst(TrainerCallback):
    """Tries a step when everything is wrapped and loaded, before the first."""

    def __init__(self, trainer: GroupTrainer, train: Items, held_out: Items | None) -> None:
        self.trainer, self.train, self.held_out = trainer, train, held_out

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Try; the noise that it used is not missing afterwards."""
        try_a_step(self.trainer, self.train, self.held_out)
        torch.manual_seed(self.trainer.args.seed)


def try_a_step(trainer: GroupTrainer, train: Items, held_out: Items | None) -> None:
    """Two batches forward and backward, and one of the held-out rows; no weight is changed.

    All are the longest rows, and the optimizer's state is there at the second, so that a run that
    starts does not run out of memory later. It goes through whatever training wraps the model in.

    Args:
        trainer: with its optimizer.
        train: the rows.
        held_out: others that are evaluated on.

    Raises:
        UserError: a loss or gradient is not finite, nothing receives a gradient, or there is not
            enough memory.
    """
    arguments, policy = trainer.args, trainer.policy
    size = arguments.per_device_train_batch_size
    share_prefix, left_out = trainer.task.share_prefix, trainer.left_out
    tried = train.tried
    longest = longest_rows(policy, tried, share_prefix, size, left_out)
    items = [Item(tried[number], train.reference_logps[number]) for number in longest]
    if not items and trainer.stand_in is not None:
        items = size * [Item(trainer.stand_in, train.reference_logps[0])]
    items = _uneven_items(items)
    evaluated: list[Item] = []
    if held_out is not None:
        count = min(arguments.per_device_eval_batch_size, len(held_out))
        longest = longest_rows(policy, held_out.groups, share_prefix, count, left_out)
        evaluated = _uneven_items([held_out[OrderedRow(number)] for number in longest])
    if left_out is not None:
        left_out.share()
    model, made_state = trainer.model_wrapped.train(), False
    try:
        with memory_errors_alike():
            for last in (False, True):
                _forward_and_backward(trainer, model, items)
                if not last:
                    made_state = _make_state(trainer)
                if last or arguments.gradient_accumulation_steps == 1:
                    model.zero_grad(set_to_none=True)
            if made_state:
                trainer.optimizer.state.clear()
            model.eval()
            if evaluated:
                with torch.no_grad():
                    trainer.outcome(trainer.model, trainer.collate_items(evaluated))
    except torch.OutOfMemoryError as error:
        raise no_room(policy, train.shorter) from error


def longest_rows(
    policy: Policy,
    groups: Sequence[Group],
    share_prefix: bool,
    count: int,
    left_out: LeftOut | None = None,
) -> list[int]:
    """The rows whose batch takes most tokens, images included; those that differ come first.

    Their lengths were counted when they were read; the longest few are laid out to be sure.

    Args:
        policy: whose processor lays rows out.
        groups: the rows, with their `prompt_tokens`.
        share_prefix: the layout.
        count: how many are wanted; where there are fewer, they are taken again.
        left_out: takes the candidates that the processor refuses; where it refuses all, none is
            returned.
    """

    def measure(own: Sequence[Group]) -> Shape:
        rows, width = collate(policy, own, share_prefix).inputs["input_ids"].shape
        return rows, width

    shapes: dict[int, Shape] = {}
    # An epoch may have the same row many times (`--data-weights`).
    first = {id(group): i for i, group in reversed(list(enumerate(groups)))}
    counted = {i: layout_shape(groups[i], share_prefix) for i in sorted(first.values())}
    widest = max(counted, key=lambda i: counted[i][1], default=None)
    ordered = sorted(counted, key=lambda i: (i != widest, -math.prod(counted[i])))
    for i in ordered[:LAID_OUT]:
        if len(shapes) == max(CANDIDATES, count):
            break
        one = [groups[i]]
        found = measure(one) if left_out is None else left_out.lay_out(one, measure)[0]
        shapes |= {} if found is None else {i: found}
    return _largest_batch(shapes, count) if shapes else []


def _largest_batch(shapes: Mapping[int, Shape], count: int) -> list[int]:
    """So many groups whose batch is the largest: all of its rows are as wide as the widest.

    Groups have different numbers of rows where some have pictures of their own for an answer.
    Beside each group as the widest come those that have most rows and are no wider.
    """

    def tokens(batch: Sequence[int]) -> int:
        return sum(shapes[i][0] for i in batch) * max(shapes[i][1] for i in batch)

    def repeated(order: Sequence[int]) -> list[int]:
        return [order[i % len(order)] for i in range(count)]

    most_rows = sorted(shapes, key=lambda i: (-shapes[i][0], -shapes[i][1]))
    batches = []
    for widest, (_, width) in shapes.items():
        order = [widest, *(i for i in most_rows if i != widest and shapes[i][1] <= width)]
        # Of fewer groups than are wanted the same are taken again, if there are no others.
        if len(order) >= min(count, len(shapes)):
            batches.append(repeated(order))
    return max(batches, key=tokens)


def uneven(groups: Sequence[Group]) -> list[Group]:
    """The same rows, of which some end a token earlier, so that a batch of several needs a mask.

    Where all rows of a batch are as long as each other, attention needs none, and takes up to half
    as much memory as at steps that do (measured on a CPU).
    """
    if any(len(group.response_ids) == 1 for group in groups):
        return [*groups[:1], *map(shortened, groups[1:])]
    return [shortened(group) for group in groups]


def _uneven_items(items: Sequence[Item]) -> list[Item]:
    groups = uneven([item.group for item in items])
    return [
        dataclasses.replace(item, group=group) for item, group in zip(items, groups, strict=True)
    ]


def shortened(group: Group) -> Group:
    """A group without its last response's last token, if something to learn is left of it."""
    k = len(group.response_ids)
    if not group.learned_of(k - 1)[:-1].any():
        return group

    def less(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*values[:-1], values[-1][:-1]) if values else values

    return dataclasses.replace(
        group,
        response_ids=less(group.response_ids),
        learned=less(group.learned),
        weights=less(group.weights) if group.weights else group.weights,
        cut=(*group.cut[:-1], True),
        token_counts=tuple(group.tokens_of(i) for i in range(k)),
    )


def no_room(policy: Policy, shorter: str, more: str = "") -> UserError:
    """The error for a device that runs out of memory in a step."""
    return UserError(
        f"{policy.device} has not enough memory for a step on the longest rows{more}. {shorter}"
    )


def _forward_and_backward(
    trainer: GroupTrainer, model: PreTrainedModel, items: Sequence[Any]
) -> None:
    inputs = trainer.collate_items(items)
    loss = trainer.outcome(model, inputs).loss_sum / inputs["count"]
    with unmixed():
        loss.backward()
    norm = _gradient_norm(model)
    value = float(loss.detach())
    if not math.isfinite(value) or not math.isfinite(norm):
        raise UserError(
            f"In the trial batch the loss is {value}, its gradient norm {norm}. "
            "Set --dtype float32 or bfloat16, and check the pairs for empty answers."
        )
    # A hinge (SLiC) that was learned has pairs without loss, and so has a loss without reference
    # (CPO) at the start, where all chosen answers are far more likely than the rejected ones.
    if norm == 0 and abs(value) > LEARNED_LOSS and trainer.state.global_step == 0:
        raise UserError("In the trial batch no trained weight receives a gradient.")


def _make_state(trainer: GroupTrainer) -> bool:
    if trainer.is_deepspeed_enabled or not state_can_be_dropped(trainer.args):
        return False
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return make_state(optimizer, optimizer.step)


def state_can_be_dropped(arguments: TrainingArguments) -> bool:
    """Whether the optimizer's state can be made and dropped again from here."""
    kind = str(getattr(arguments.optim, "value", arguments.optim))
    return not kind.startswith((*STEERED_OPTIMIZERS, "paged"))


@torch.no_grad()
def make_state(optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> bool:
    """Let a new optimizer make its state: a step at rate 0 with gradients of 0.

    Args:
        optimizer: with gradients.
        step: what a training calls to take a step.

    Returns:
        Whether it was new.
    """
    if optimizer.state:
        return False
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step()
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.update(before)
    return True


def _gradient_norm(model: PreTrainedModel) -> float:
    squares = [whole(p.grad).square().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
