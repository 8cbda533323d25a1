"""A trial before the first step: whether a step fits into memory, and gives numbers.

It is what `--dry-run` measures: the longest rows, twice, since the optimizer's state comes with the
first step and is there beside the activations of the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from veridical.data.images import size_of
from veridical.models.batching import collate
from veridical.models.policy import Policy
from veridical.models.precision import unmixed
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.progress import track
from veridical.train.loop.items import Item, Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.order import OrderedRow
from veridical.train.loop.trained import whole
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.loop.trainer_keys import STEERED_OPTIMIZERS

CANDIDATES = 32
"""Rows of each order that are laid out to find the longest (our choice: seconds)."""
BYTES, PIXELS = 4, 784
"""What about a token is, of a prompt in UTF-8 and of a picture: enough to put rows in order."""


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

    Both are the longest rows, and the optimizer's state is there at the second, so that a run that
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
    longest = longest_rows(policy, train.groups, trainer.task.share_prefix, size, trainer.left_out)
    items = [train.to_try(number) for number in longest]
    if not items and trainer.stand_in is not None:
        items = size * [Item(trainer.stand_in, train.reference_logps[0])]
    if trainer.left_out is not None:
        trainer.left_out.share()
    model, made_state = trainer.model_wrapped.train(), False
    try:
        for last in (False, True):
            _forward_and_backward(trainer, model, items)
            if not last:
                made_state = _make_state(trainer, model)
            if last or arguments.gradient_accumulation_steps == 1:
                model.zero_grad(set_to_none=True)
        if made_state:
            trainer.optimizer.state.clear()
        model.eval()
        if held_out is not None:
            with torch.no_grad():
                few = [held_out[OrderedRow(i)] for i in range(min(size, len(held_out)))]
                trainer.outcome(trainer.model, trainer.collate_items(few))
    except torch.OutOfMemoryError as error:
        raise no_room(policy) from error


def longest_rows(
    policy: Policy,
    groups: Sequence[Group],
    share_prefix: bool,
    count: int,
    left_out: LeftOut | None = None,
) -> list[int]:
    """The rows that take most tokens, images included; those that differ come first.

    Candidates are those with the longest texts, the largest pictures, and the most of both.

    Args:
        policy: whose processor lays rows out.
        groups: the rows.
        share_prefix: the layout.
        count: how many are wanted; where there are fewer, they are taken again.
        left_out: takes the candidates that the processor refuses; where it refuses all, none is
            returned.
    """

    def measure(own: Sequence[Group]) -> int:
        return int(collate(policy, own, share_prefix).inputs["input_ids"].numel())

    tokens: dict[int, int] = {}
    # An epoch may have the same row many times (`--data-weights`).
    first = {id(group): i for i, group in reversed(list(enumerate(groups)))}
    places = sorted(first.values())
    different = [groups[i] for i in places]
    found_places = [places[n] for n in _candidates(different, max(CANDIDATES, count))]
    for i in track(found_places, "measuring rows"):
        one = [groups[i]]
        found = measure(one) if left_out is None else left_out.lay_out(one, measure)[0]
        tokens |= {} if found is None else {i: found}
    longest = sorted(tokens, key=lambda i: -tokens[i])
    return [longest[i % len(longest)] for i in range(count)] if longest else []


def no_room(policy: Policy, more: str = "") -> UserError:
    """The error for a device that runs out of memory in a step."""
    return UserError(
        f"{policy.device} has not enough memory for a step on the longest rows{more}. Lower "
        "--batch-size or --max-length, or set trainer.gradient_checkpointing; --dry-run true says "
        "what takes how much."
    )


def _candidates(groups: Sequence[Group], count: int) -> list[int]:
    # Responses have their tokens: characters say little, as those of Chinese are one each, and a
    # response may be cut.
    texts = [
        len(g.prompt_text.encode(errors="replace")) / BYTES + sum(map(len, g.response_ids))
        for g in groups
    ]
    pictures = [_pixels(group) for group in groups]
    both = [text + pixels / PIXELS for text, pixels in zip(texts, pictures, strict=True)]
    found: list[int] = []
    for sizes in (both, texts, pictures):
        found += sorted(range(len(groups)), key=lambda i: -sizes[i])[:count]
    return list(dict.fromkeys(found))


def _pixels(group: Group) -> int:
    pictures = {id(image): image for i in range(len(group.response_ids))
                for image in group.images_of(i)}  # fmt: skip
    sizes = [size_of(image) for image in pictures.values()]
    return sum(width * height for width, height in sizes)


def _forward_and_backward(
    trainer: GroupTrainer, model: PreTrainedModel, items: Sequence[Any]
) -> None:
    inputs = trainer.collate_items(items)
    loss = trainer.outcome(model, inputs).loss_sum / inputs["count"]
    with unmixed():
        loss.backward()
    norm = _gradient_norm(model)
    if not math.isfinite(float(loss.detach())) or not math.isfinite(norm):
        raise UserError(
            f"In the trial batch the loss is {float(loss.detach())}, its gradient norm {norm}. "
            "Set --dtype float32 or bfloat16, and check the pairs for empty answers."
        )
    # Once learned, a hinge (SLiC) has pairs without loss; at the start nothing has one of 0.
    if norm == 0 and trainer.state.global_step == 0:
        raise UserError("In the trial batch no trained weight receives a gradient.")


@torch.no_grad()
def _make_state(trainer: GroupTrainer, model: PreTrainedModel) -> bool:
    """Let a new optimizer make its state: a step at rate 0 with gradients of 0."""
    optimizer = _plain_optimizer(trainer)
    if optimizer is None or optimizer.state:
        return False
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.update(before)
    return True


def _plain_optimizer(trainer: GroupTrainer) -> torch.optim.Optimizer | None:
    """The optimizer itself; None where its state can't be made and dropped from here."""
    kind = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if trainer.is_deepspeed_enabled or kind.startswith((*STEERED_OPTIMIZERS, "paged")):
        return None
    found: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert isinstance(found, torch.optim.Optimizer)
    return found


def _gradient_norm(model: PreTrainedModel) -> float:
    squares = [whole(p.grad).square().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
