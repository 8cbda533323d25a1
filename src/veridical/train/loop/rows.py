"""From a file of records to groups that can be trained on; every row left out is listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

from datasets import Dataset

from veridical.data.origins import (
    Origin,
    kinds_in_words,
    place_in_words,
    row_origins,
    unread_rows,
)
from veridical.data.record_refusals import refuse_bad_share
from veridical.data.record_types import IMAGE_FIELDS, Branch, CheckedRow
from veridical.data.records import Kind, RecordSet, count_images, read_records
from veridical.models.answer_parts import Answer
from veridical.models.conversations import render_conversation
from veridical.models.lengths import check_lengths
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError, render_answers, take_responses
from veridical.objectives.base import View
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted, track
from veridical.runtime.run_files import SkippedRow
from veridical.train.loop.collapsed import (
    answer_field,
    further_collapsed,
    refuse_collapsed,
    without_responses,
)
from veridical.train.loop.pair_rows import Images, render_pair
from veridical.train.loop.pictures import NO_PICTURES, Pictures, named_pictures
from veridical.train.options import Training


@dataclass(frozen=True)
class TrainingRows:
    """What a data file gave.

    Attributes:
        groups: usable rows, rendered and tokenized.
        skipped: {"id", "file", "row", "field", "reason"} for each row left out.
        cut: responses whose end was cut off by the length limit.
        total: rows of the files.
        files: the number of the file that each group is from, by its id.
        origins: where each group is from, by its id.
        answers: the same as `skipped` for further rejected answers that their row goes on without.
        pictures: those that rows name by file, with their hashes.
    """

    groups: list[Group]
    skipped: list[SkippedRow]
    cut: int
    total: int
    files: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    answers: list[SkippedRow] = field(default_factory=list)
    pictures: Pictures = NO_PICTURES

    def changed(self, change: Callable[[Group], Group]) -> TrainingRows:
        """The same rows with their groups changed."""
        return dataclasses.replace(self, groups=[change(group) for group in self.groups])


RenderRow: TypeAlias = "Callable[[CheckedRow, Images], list[Group]]"
"""A row and its images as what is trained on."""


def read_training_rows(
    policy: Policy,
    data: Path,
    kind: Kind,
    branches: Sequence[Branch],
    training: Training,
    more_rejected: bool = False,
    views: Sequence[View] = (),
) -> TrainingRows:
    """Read, render, tokenize and check every row.

    Args:
        policy: whose template, tokenizer and processor are used.
        data: a file that `read_records` takes.
        kind: `preference`, `unpaired`, or `conversation` (every assistant turn is learned).
        branches: the message columns that are responses, e.g. ("chosen", "rejected").
        training: where images are, how long rows may be, and how many may be unusable.
        more_rejected: take a pair's `more_rejected` answers as further responses. Where some
            pairs have fewer than others their last one is repeated, which leaves the averaged
            loss what it is.
        views: answers that come once more as the last responses, under other images.

    Raises:
        UserError: too many rows are unusable, none is left, or a limit makes no sense.
    """
    most_tokens = training.max_response_tokens

    def render(row: CheckedRow, images: Images) -> list[Group]:
        if kind == "conversation":
            return _conversation(policy, row, images, most_tokens)
        if kind == "unpaired":
            return [_labeled(policy, row, images, most_tokens)]
        group = render_pair(policy, row, images, branches, more_rejected, most_tokens, views)
        refuse_collapsed(group, policy)
        further = further_collapsed(group, policy)
        collapsed_answers.extend((group.id, answer_field(i), why) for i, why in further.items())
        return [without_responses(group, further)]

    collapsed_answers: list[tuple[str, str, str]] = []
    return render_rows(policy, data, kind, training, render, collapsed_answers)


def render_rows(
    policy: Policy,
    data: Path,
    kind: Kind,
    training: Training,
    render: RenderRow,
    without: Sequence[tuple[str, str, str]] = (),
) -> TrainingRows:
    """Read every row of a kind, have it rendered, and check what came out.

    Args:
        policy: whose tokenizer and processor are used.
        data: a file that `read_records` takes.
        kind: of its records.
        training: as for `read_training_rows`.
        render: a row without its images, and those, to what is trained on; a row that it refuses
            (`RefusedRowError`) is listed.
        without: id, field and reason of each further answer that `render` left out of a row.

    Raises:
        UserError: as for `read_training_rows`.
    """
    max_bad_fraction = training.max_bad_fraction
    skipped: list[SkippedRow] = []
    groups: list[Group] = []
    files: dict[str, int] = {}
    origins: dict[str, Origin] = {}
    taken: set[str] = set()
    read: list[RecordSet] = []
    total = 0
    for number, path in enumerate([data, *(training.more_data or ())]):
        # Too many are refused below, once everything else that is wrong was found too.
        records = read_records(path, kind, training.images_root, 1.0)
        read.append(records)
        total += records.total
        skipped += unread_rows(records)
        found, refused = _rendered(records, render, taken, number)
        for group, origin in found:
            groups.append(group)
            origins[group.id] = origin
        skipped += refused
        files |= {group.id: number for group, _ in found}
        taken |= set(records.ids)
    groups = _even_out(groups)
    limit = longest_row(policy, training)
    checked = check_lengths(policy, groups, limit)
    skipped += [origins[id].left_out(id, at, why) for id, (at, why) in checked.refused.items()]
    groups = checked.fit
    # A conversation may be learned in several groups.
    left = {group.id for group in groups}
    cut = sum(sum(group.cut) for group in groups)
    if not left or too_many(read, skipped, max_bad_fraction):
        shortened = [origins[g.id].left_out(g.id, "", "") for g in groups if any(g.cut)]
        tell_all(skipped, shortened, cut)
        for one in read:
            refuse_bad_share(one.file, kind, one.problems, one.total, max_bad_fraction)
        _refuse(data, skipped, total, max_bad_fraction, len(left))
    answers = [origins[id].left_out(id, at, why) for id, at, why in without if id in left]
    pictures = named_pictures(read)
    return TrainingRows(groups, skipped, cut, total, files, origins, answers, pictures)


def _rendered(
    records: RecordSet,
    render: RenderRow,
    taken: Set[str],
    number: int,
) -> tuple[list[tuple[Group, Origin]], list[SkippedRow]]:
    """One file's rows with their origins, and those left out; no id of another file is used."""
    groups: list[tuple[Group, Origin]] = []
    skipped: list[SkippedRow] = []
    columns = records.rows.column_names
    texts = records.rows.remove_columns([name for name in columns if name.endswith("images")])
    pictures = records.rows.select_columns(["images"])
    others: dict[str, Dataset] = {
        n: records.rows.select_columns([n]) for n in IMAGE_FIELDS[1:] if n in columns
    }
    origins = row_origins(records)
    for index in track(range(len(texts)), "reading rows"):
        row = texts[index]
        if row["id"] in taken:
            row = {**row, "id": f"{row['id']}@{number + 1}"}
        origin = origins[index]
        try:
            made = render(row, Images(index, pictures, others))
            groups += [(group, origin) for group in made]
        except RefusedRowError as refused:
            skipped.append(origin.left_out(row["id"], "messages", str(refused)))
    return groups, skipped


def _conversation(
    policy: Policy, row: CheckedRow, images: Images, max_response_tokens: int | None
) -> list[Group]:
    messages = row["messages"]
    pictures = images.of_prompt(count_images(messages))
    return render_conversation(policy, row["id"], pictures, messages, max_response_tokens)


def _labeled(
    policy: Policy, row: CheckedRow, images: Images, max_response_tokens: int | None
) -> Group:
    pictures = images.of_prompt(count_images(row["prompt"]))
    answer = Answer(row["completion"])
    group = render_answers(
        policy, row["id"], pictures, row["prompt"], [answer], max_response_tokens
    )
    return dataclasses.replace(group, label=row["label"])


def _even_out(groups: Sequence[Group]) -> list[Group]:
    """Give every group as many responses as the one with the most: its last answer, repeated."""
    most = max((len(group.response_ids) for group in groups), default=0)
    return [_repeat_last(group, most - len(group.response_ids)) for group in groups]


def _repeat_last(group: Group, times: int) -> Group:
    if times == 0:
        return group
    count = len(group.response_ids)
    last = count - (group.contrasts or 0)
    places = [*range(last), *[last - 1] * times, *range(last, count)]
    cut = group.cut[:last] + (False,) * times + group.cut[last:]
    return dataclasses.replace(take_responses(group, places), cut=cut)


def longest_row(policy: Policy, training: Training) -> int | None:
    """How many tokens prompt and answer may have; None for no limit."""
    if training.max_length:
        return training.max_length
    limit = getattr(policy.core.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def too_many(
    read: Sequence[RecordSet], skipped: Sequence[SkippedRow], max_bad_fraction: float
) -> bool:
    """Whether more rows are left out than may be: of all, or unread ones of a single file."""
    total = sum(one.total for one in read)
    unread = any(len(one.problems) > max_bad_fraction * one.total for one in read)
    return unread or len(skipped) > max_bad_fraction * total


def tell_all(
    skipped: Sequence[SkippedRow], shortened: Sequence[SkippedRow] = (), cut: int = 0
) -> None:
    """Print what is wrong with all rows, so that they can be corrected at once."""
    for line in ("What is wrong with the rows:", *kinds_in_words(skipped)):
        print(line)
    if shortened:
        print(
            f"  Longer than allowed, and without their end: {counted(cut, 'responses')}. The first "
            f"is of {place_in_words(shortened[0])}."
        )


def _refuse(
    data: Path, skipped: list[SkippedRow], total: int, max_bad_fraction: float, left: int
) -> NoReturn:
    first = "; ".join(f"{place_in_words(row)}: {row['reason']}" for row in skipped[:3])
    found = f"{data}: {len(skipped)} of {counted(total, 'rows')} can't be used, "
    if not left:
        raise UserError(f"{found}so none is left. {first}")
    raise UserError(
        f"{found}{left} {'is' if left == 1 else 'are'} left; more than --max-bad-fraction "
        f"{max_bad_fraction:g} allows. {first}"
    )
