"""The pairs of an online training: made some steps ahead, kept in its folder, taken in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.train.fresh import (
    Maker,
    TellLost,
    counts,
    longest_pairs,
    pair_measures,
)
from veridical.train.loop.buffer import RolloutBuffer, Row
from veridical.train.loop.checkpoints import steps_of
from veridical.train.loop.items import Item, Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.order import OrderedRow, RankSampler
from veridical.train.loop.run import checkpoint_to_resume
from veridical.train.loop.training_set import PROOF_ROWS
from veridical.train.options import Training
from veridical.train.prompts import proof_group
from veridical.train.responses import refuse_unscored

ROLLOUTS = "rollouts"


def first_pairs(
    maker: Maker,
    prompts: Sequence[Group],
    left_out: LeftOut,
    rollout_steps: int,
    training: Training,
    out: Path,
) -> tuple[OnlineItems, list[Group]]:
    """The pairs of the steps, the first of them made, and a few for the checks.

    Raises:
        UserError: too much could not be judged.
    """
    count = len(maker.prompts)
    sampler = RankSampler(count, training.batch_size, training.seed, 0, processes.world_size())
    tell_lost = TellLost()

    def check(first: int, made: Sequence[Row]) -> None:
        _require_pairs(first, made, training.max_bad_fraction, left_out)
        tell_lost(first, made)

    buffer = RolloutBuffer(
        out / ROLLOUTS,
        maker,
        lambda step: sampler.rows_of_step(step, training.accumulation),
        rollout_steps,
        training.steps(count),
        check,
    )
    buffer.forget_from(_first_step(out, training.resume))
    buffer.fill(0)
    few = _proof_groups(maker.policy, maker, buffer, left_out)
    return OnlineItems(maker, buffer, prompts, left_out, few[0]), few


class OnlineItems(Items):
    """What the trainer asks for by place: the pair that was made for it at the step it is at."""

    made_by_policy = True
    shorter = (
        "Lower --batch-size, --max-new-tokens or --max-length, or set "
        "trainer.gradient_checkpointing."
    )

    def __init__(
        self,
        maker: Maker,
        buffer: RolloutBuffer,
        prompts: Sequence[Group],
        left_out: LeftOut,
        stand_in: Group,
    ) -> None:
        """Take what makes pairs, what keeps them, with its first filling, and the prompts' groups.

        Args:
            maker: makes pairs.
            buffer: keeps them; its first filling has to be there.
            prompts: as `read_prompts` measured them.
            left_out: takes what the processor refuses.
            stand_in: as for other rows.
        """
        self.maker, self.buffer, self.prompts = maker, buffer, prompts
        self.first = list(buffer.rows.values())
        nothing = torch.zeros(len(maker.prompts), 2)
        super().__init__([self._group(row) for row in self.first], nothing, left_out, stand_in)
        self.state = TrainerState()

    def __len__(self) -> int:
        return len(self.maker.prompts)

    def __getitem__(self, place: OrderedRow) -> Item:
        return self._item(self.buffer.row(self.state.global_step, place.index), place.counts)

    @property
    def tried(self) -> Sequence[Group]:
        """Every prompt with the longest pair that any step can make for it."""
        return longest_pairs(self.maker, self.prompts)

    def told(self) -> dict[str, float]:
        """Shares and means of what was sampled since the last line."""
        return pair_measures(self.buffer.take_unread())

    def _item(self, row: Row, wanted: bool) -> Item:
        return Item(self._group(row), self.reference_logps[0], wanted and counts(row))

    def _group(self, row: Row) -> Group:
        """A row's pair under its prompt's id, by which it is left out."""
        return dataclasses.replace(self.maker.group(row), id=row["id"])


class Follow(TrainerCallback):
    """Lets the rows know the step that the trainer is at."""

    def __init__(self, items: OnlineItems) -> None:
        self.items = items

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """From here on."""
        self.items.state = state


def _require_pairs(first: int, made: Sequence[Row], most: float, left_out: LeftOut) -> None:
    """List what was refused, and refuse a filling of which too much could not be judged.

    Ties are verdicts.
    """
    left_out.share()
    problems = [str(row.get("problem", "")) for row in made if row["kind"] == "unscored"]
    refuse_unscored(first + 1, len(problems), len(made), problems, most)


def _first_step(out: Path, resume: bool) -> int:
    """The step that the run begins with or goes on from."""
    found = processes.from_first(lambda: checkpoint_to_resume(out / "checkpoints", resume))
    return steps_of(found) if found else 0


def _proof_groups(
    policy: Policy, maker: Maker, buffer: RolloutBuffer, left_out: LeftOut
) -> list[Group]:
    """Pairs of the first step, by their texts: the stock path can't be given sampled tokens.

    Another prompt where the processor refuses every image of that step.
    """

    def blind(row: Row) -> bool:
        return not maker.prompts[row["index"]].asked.images

    rows = [row for row in buffer.rows.values() if row["kind"] != "refused"]
    if rows:
        firsts = (_proof_group(policy, maker, row["index"], row) for row in sorted(rows, key=blind))
        return left_out.usable(policy, firsts, PROOF_ROWS)
    others = (_proof_group(policy, maker, index) for index in range(len(maker.prompts)))
    return left_out.usable(policy, others, 1)


def _proof_group(policy: Policy, maker: Maker, index: int, row: Row | None = None) -> Group:
    prompt = maker.prompts[index]
    said = [response["text"] for response in row.get("responses", ())] if row else []
    texts = said or [prompt.answer, row.get("text", "") if row else ""]
    return proof_group(policy, prompt.asked, texts, maker.decoding.max_new_tokens)
