"""The rows of a run: what is trained on, what is held out, and the few that are checked."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted, part_of
from veridical.runtime.randomness import generator
from veridical.train.loop.items import Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.mixing import mixed
from veridical.train.loop.pictures import NO_PICTURES, Pictures, recognize_pictures
from veridical.train.loop.rows import TrainingRows
from veridical.train.options import Training

PROOF_ROWS = 4
LARGEST_UNIT = 0.25
"""Share of the rows that pictures of single answers may join (our choice): a gray picture in every
row, or pictures drawn from the other rows, would leave nothing to hold out."""


@dataclass(frozen=True)
class TrainingSet:
    """What a run does with the rows of its files.

    Attributes:
        train: an epoch's rows, as `--data-weights` mixes them.
        held_out: rows that are only evaluated on, if any.
        few: the rows that are checked before the first step; those with images come first.
        left_out: rows that nothing is learned from.
        cut: responses that lost their end.
    """

    train: Items
    held_out: Items | None
    few: list[Group]
    left_out: LeftOut
    cut: int

    @property
    def groups(self) -> list[Group]:
        """Every row: first what is trained on, then what is held out."""
        return [*self.train.groups, *(self.held_out.groups if self.held_out else ())]

    def with_reference(self, logps: Tensor) -> TrainingSet:
        """The same rows with their log-probs under the reference. Shape: (all rows, k)."""
        count = len(self.train)
        train = Items(self.train.groups, logps[:count], self.left_out, self.few[0])
        held_out = None
        if self.held_out:
            held_out = Items(self.held_out.groups, logps[count:], self.left_out, self.few[0])
        return dataclasses.replace(self, train=train, held_out=held_out)


def training_set(
    start: Policy,
    rows: TrainingRows,
    training: Training,
    out: Path,
    record: Callable[[str], str] = str,
) -> TrainingSet:
    """Hold rows out, mix the rest, and find a few that the processor takes.

    Args:
        start: whose processor it is.
        rows: what was read; what is left out of it goes into `skipped.jsonl`.
        training: says which share is held out, the weights of files, and the seed.
        out: the run's folder.
        record: a row's id to the record's that it is from; its rows stay together.

    Raises:
        UserError: nothing would be left to train on, or the processor refuses too much.
    """
    recognize_pictures(out, rows.pictures)
    left_out = LeftOut(out, rows, training)
    pictures = kept_together(rows.groups, record, rows.pictures, training.held_out > 0)
    train, held_out = split_held_out(
        rows.groups, training.held_out, training.seed, by=pictures.__getitem__
    )
    train = weighted(rows, train, training)
    few = left_out.usable(start, images_first(train), PROOF_ROWS)
    nothing = torch.zeros(len(train) + len(held_out), len(few[0].response_ids), dtype=torch.float64)
    evaluated = Items(held_out, nothing[len(train) :], left_out, few[0]) if held_out else None
    items = Items(train, nothing[: len(train)], left_out, few[0])
    return TrainingSet(items, evaluated, few, left_out, rows.cut)


def weighted(rows: TrainingRows, train: list[Group], training: Training) -> list[Group]:
    """An epoch of what is trained on, by `--data-weights`; says what each file gives.

    Raises:
        UserError: nothing of a file is left.
    """
    count = 1 + len(training.more_data or ())
    if count == 1:
        return train
    files = [rows.files[group.id] for group in train]
    places = list(range(len(train)))
    if training.data_weights is not None:
        places = mixed(files, training.data_weights, training.seed)
    named = {rows.files[id]: origin.file for id, origin in rows.origins.items()}
    for number in range(count):
        name = f" ({named[number]})" if number in named else ""
        own, seen = files.count(number), sum(files[place] == number for place in places)
        print(
            f"  file {number + 1}{name}: {counted(own, 'rows')} to train on, {seen} an epoch "
            f"({seen / max(1, len(places)):.1%})"
        )
    return [train[place] for place in places]


def split_held_out(
    groups: Sequence[Group], share: float, seed: int, by: Callable[[str], str] = str
) -> tuple[list[Group], list[Group]]:
    """Set a share of the rows aside, the same ones whatever the order of the file.

    Args:
        groups: the rows.
        share: of them, from 0 to below 1.
        seed: of the draw.
        by: a row's id to what it belongs to; what belongs together stays on one side.

    Returns:
        Rows to train on, rows held out (at least one, if the share is not 0).

    Raises:
        UserError: nothing would be left to train on.
    """
    if not 0 <= share < 1:
        raise UserError(f"--held-out is {share:g}; give a share of the rows, from 0 to below 1.")
    units = {by(group.id) for group in groups}
    count = 0 if share == 0 else max(1, round(share * len(units)))
    if count >= len(units):
        raise UserError(_none_left(len(groups), len(units), share))
    drawn = sorted(sorted(units), key=lambda unit: generator(seed, "held-out", unit).random())
    held_out = set(drawn[:count])
    train = [group for group in groups if by(group.id) not in held_out]
    return train, [group for group in groups if by(group.id) in held_out]


def _none_left(rows: int, pictures: int, share: float) -> str:
    """Why a share can't be held out: there is one picture alone, or the share is too large."""
    together = "as rows of the same picture stay together"
    if pictures < 2:
        some = f"{counted(rows, 'rows')} of one picture"
        return f"{some}: nothing can be held out, {together}. Set --held-out 0."
    most = math.floor(100 * (pictures - 1) / pictures) / 100
    return (
        f"--held-out {share:g} would hold out all {rows} rows, which have {pictures} different "
        f"pictures ({together}), and leave none to train on. Set --held-out {most:g} or less."
    )


def proof_rows(groups: Sequence[Group], without: Container[Group] = ()) -> list[int]:
    """A few rows to prove things on, by place; those with images come first, none comes twice.

    Args:
        groups: all of them.
        without: what can't be used.
    """
    places = [place for place in _first_places(groups) if groups[place] not in without]
    return sorted(places, key=lambda place: not groups[place].images)[:PROOF_ROWS]


def images_first(groups: Sequence[Group]) -> list[Group]:
    """Each group once, however often an epoch has it; those with images before the others."""
    return sorted(distinct(groups), key=lambda group: not group.images)


def distinct(groups: Sequence[Group]) -> list[Group]:
    """Each group once, in order: `--data-weights` puts copies of a row side by side."""
    return [groups[place] for place in _first_places(groups)]


def _first_places(groups: Sequence[Group]) -> list[int]:
    first: dict[int, int] = {}
    for place, group in enumerate(groups):
        first.setdefault(id(group), place)
    return list(first.values())


def kept_together(
    groups: Sequence[Group],
    record: Callable[[str], str] = str,
    pictures: Pictures = NO_PICTURES,
    tells: bool = True,
) -> dict[str, str]:
    """As `same_pictures`; by the prompts' pictures alone where all of them would join too many.

    Args:
        groups: the rows.
        record: a row's id to the record's that it is from.
        pictures: those whose hashes are known.
        tells: whether to say that answers' own pictures are not kept on one side.
    """
    joined = same_pictures(groups, record, pictures)
    largest = max(Counter(joined.values()).values(), default=0)
    has_others = any(group.response_images for group in groups)
    if not has_others or largest <= LARGEST_UNIT * len(groups):
        return joined
    by_prompt = same_pictures(groups, record, pictures, of_answers=False)
    if largest == max(Counter(by_prompt.values()).values()):
        return joined
    if tells:
        print(
            f"{part_of(largest, len(groups), 'rows')} are linked through rejected_images or "
            "contrast_images. Rows are held out by their own images alone, so some of them share "
            "such an image with rows that are trained on."
        )
    return by_prompt


def same_pictures(
    groups: Sequence[Group],
    record: Callable[[str], str] = str,
    pictures: Pictures = NO_PICTURES,
    of_answers: bool = True,
) -> dict[str, str]:
    """A row's id to that of the first row, by id, that it shares a picture with.

    A picture may have many questions and many pairs. Held out and trained on, they would tell of
    each other, so they stay together: by the pictures' content, however files are named, and over
    rows with several pictures. Rows without one stay together where their prompts are the same.

    Args:
        groups: the rows.
        record: a row's id to the record's that it is from; its rows stay together too.
        pictures: those whose hashes are known.
        of_answers: whether pictures that single answers have count as well.
    """
    first_with: dict[str, str] = {}
    first_of: dict[str, str] = {}

    def first(row: str) -> str:
        while first_of[row] != row:
            row = first_of[row]
        return row

    for group in sorted(groups, key=lambda group: group.id):
        first_of[group.id] = group.id
        keys = [pictures.key(image) for image in group.images] or [f"text {group.prompt_text}"]
        if of_answers:
            others = (image for own in group.response_images for image in own or ())
            keys += map(pictures.key, others)
        for key in (f"record {record(group.id)}", *keys):
            one, other = sorted((first(group.id), first(first_with.setdefault(key, group.id))))
            first_of[other] = one
    return {row: first(row) for row in first_of}
