"""From a file of records to groups that can be trained on; every row left out is listed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veridical.data.images import RowImage, image_bytes_key, row_images
from veridical.data.origins import Origin, place_in_words, row_origins, unread_rows
from veridical.data.records import Kind, RecordSet, count_images, read_records
from veridical.models.conversations import render_conversation
from veridical.models.lengths import check_lengths
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError, render_group
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted, track
from veridical.runtime.randomness import generator
from veridical.train.loop.mixing import mixed
from veridical.train.options import Training

PROOF_ROWS = 4


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
    """

    groups: list[Group]
    skipped: list[dict[str, Any]]
    cut: int
    total: int
    files: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)


def read_training_rows(
    policy: Policy,
    data: Path,
    kind: Kind,
    branches: Sequence[str],
    training: Training,
    more_rejected: bool = False,
) -> TrainingRows:
    """Read, render, tokenize and check every row.

    Args:
        policy: whose template, tokenizer and processor are used.
        data: a file that `read_records` takes.
        kind: `preference`, or `conversation` (every assistant turn is learned).
        branches: the message columns that are responses, e.g. ("chosen", "rejected").
        training: where images are, how long rows may be, and how many may be unusable.
        more_rejected: take a pair's `more_rejected` answers as further responses. Where some
            pairs have fewer than others their last one is repeated, which leaves the averaged
            loss what it is.

    Raises:
        UserError: too many rows are unusable, none is left, or a limit makes no sense.
    """
    most_tokens = training.max_response_tokens

    def render(row: dict[str, Any], images: Images) -> list[Group]:
        if kind == "conversation":
            return _conversation(policy, row, images, most_tokens)
        group = render_pair(policy, row, images, branches, more_rejected, most_tokens)
        refuse_collapsed(group)
        further = further_collapsed(group)
        collapsed_answers.extend((group.id, answer_field(i), why) for i, why in further.items())
        return [without_responses(group, further)]

    collapsed_answers: list[tuple[str, str, str]] = []
    return render_rows(policy, data, kind, training, render, collapsed_answers)


def render_rows(
    policy: Policy,
    data: Path,
    kind: Kind,
    training: Training,
    render: Callable[[dict[str, Any], Images], list[Group]],
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
    for name, value in (
        ("max-length", training.max_length),
        ("max-response-tokens", training.max_response_tokens),
    ):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more, or leave it out.")
    max_bad_fraction = training.max_bad_fraction
    skipped: list[dict[str, Any]] = []
    groups: list[Group] = []
    files: dict[str, int] = {}
    origins: dict[str, Origin] = {}
    taken: set[str] = set()
    total = 0
    for number, path in enumerate([data, *(training.more_data or ())]):
        records = read_records(path, kind, training.images_root, max_bad_fraction)
        total += records.total
        skipped += unread_rows(records)
        found, refused = _rendered(records, render, taken, number)
        for group, origin in found:
            groups.append(group)
            origins[group.id] = origin
        skipped += refused
        files |= {group.id: number for group, _ in found}
        taken |= {str(id) for id in records.rows["id"]}
    groups = _even_out(groups)
    limit = training.max_length or _own_limit(policy)
    if limit is not None:
        unfit = check_lengths(policy, groups, limit)
        skipped += [origins[id].left_out(id, field, why) for id, (field, why) in unfit.items()]
        groups = [group for group in groups if group.id not in unfit]
    # A conversation may be learned in several groups.
    _refuse(data, skipped, total, max_bad_fraction, len({group.id for group in groups}))
    cut = sum(sum(group.cut) for group in groups)
    left = {group.id for group in groups}
    answers = [origins[id].left_out(id, at, why) for id, at, why in without if id in left]
    return TrainingRows(groups, skipped, cut, total, files, origins, answers)


def _rendered(
    records: RecordSet,
    render: Callable[[dict[str, Any], Images], list[Group]],
    taken: Set[str],
    number: int,
) -> tuple[list[tuple[Group, Origin]], list[dict[str, Any]]]:
    """One file's rows with their origins, and those left out; no id of another file is used."""
    groups: list[tuple[Group, Origin]] = []
    skipped: list[dict[str, Any]] = []
    columns = records.rows.column_names
    texts = records.rows.remove_columns([name for name in columns if name.endswith("images")])
    pictures = records.rows.select_columns(["images"])
    distorted = None
    if "rejected_images" in columns:
        distorted = records.rows.select_columns(["rejected_images"])
    origins = row_origins(records)
    for index in track(range(len(texts)), "reading rows"):
        row = texts[index]
        if row["id"] in taken:
            row = {**row, "id": f"{row['id']}@{number + 1}"}
        origin = origins[index]
        try:
            made = render(row, Images(index, pictures, distorted))
            groups += [(group, origin) for group in made]
        except RefusedRowError as refused:
            skipped.append(origin.left_out(row["id"], "messages", str(refused)))
    return groups, skipped


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
    for number in range(count):
        name = f" ({training.more_data[number - 1]})" if number and training.more_data else ""
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


def same_pictures(groups: Sequence[Group], record: Callable[[str], str] = str) -> dict[str, str]:
    """A row's id to that of the first row, by id, that it shares a picture with.

    A picture may have many questions and many pairs. Held out and trained on, they would tell of
    each other, so they stay together: by the pictures' content, however files are named, and over
    rows with several pictures. Rows without one stay together where their prompts are the same.

    Args:
        groups: the rows.
        record: a row's id to the record's that it is from; its rows stay together too.
    """
    first_with: dict[str, str] = {}
    first_of: dict[str, str] = {}

    def first(row: str) -> str:
        while first_of[row] != row:
            row = first_of[row]
        return row

    for group in sorted(groups, key=lambda group: group.id):
        first_of[group.id] = group.id
        keys = [image_bytes_key(image) for image in group.images] or [f"text {group.prompt_text}"]
        for key in (f"record {record(group.id)}", *keys):
            one, other = sorted((first(group.id), first(first_with.setdefault(key, group.id))))
            first_of[other] = one
    return {row: first(row) for row in first_of}


@dataclass(frozen=True)
class Images:
    """A row's pictures, none of them decoded yet."""

    index: int
    pictures: Any
    distorted: Any

    def of_prompt(self, count: int) -> tuple[RowImage, ...]:
        """What every answer sees, unless it has its own."""
        return row_images(self.pictures, self.index, count)

    def names(self) -> list[str]:
        """Of their files, without suffix; empty where a picture has none."""
        cells = self.pictures.with_format("arrow")[self.index].to_pylist()[0]["images"]
        return [Path(cell["path"] or "").stem for cell in cells]

    def of_rejected(self, count: int) -> tuple[RowImage, ...] | None:
        """What the rejected answer sees instead; None where it sees the same."""
        if self.distorted is None:
            return None
        cell = self.distorted.with_format("arrow")[self.index]["rejected_images"][0]
        if not cell.is_valid:
            return None
        return row_images(self.distorted, self.index, count, "rejected_images")


def _conversation(
    policy: Policy, row: dict[str, Any], images: Images, max_response_tokens: int | None
) -> list[Group]:
    messages = row["messages"]
    pictures = images.of_prompt(count_images(messages))
    return render_conversation(policy, row["id"], pictures, messages, max_response_tokens)


def render_pair(
    policy: Policy,
    row: dict[str, Any],
    images: Images,
    branches: Sequence[str],
    further: bool,
    max_response_tokens: int | None,
) -> Group:
    """A pair's prompt with its branches as responses, rendered and tokenized.

    Raises:
        RefusedRowError: as for `render_group`.
    """
    count = count_images(row["prompt"])
    responses = [row[branch] for branch in branches]
    responses += (row.get("more_rejected") or []) if further else []
    distorted = images.of_rejected(count) if "rejected" in branches else None
    own = [distorted if i == 1 else None for i in range(len(responses))] if distorted else []
    return render_group(
        policy, row["id"], images.of_prompt(count), row["prompt"], responses,
        max_response_tokens, own,
    )  # fmt: skip


def collapsed(group: Group) -> list[int]:
    """The responses that are the first one again: the same tokens under the same images.

    Answers that differ in a file may be equal once they are rendered, stripped and cut. Such a
    pair teaches nothing, and would be counted as one of margin 0.
    """

    def seen(response: int) -> list[str]:
        return [image_bytes_key(image) for image in group.images_of(response)]

    first = group.response_ids[0]
    equal = [i for i, ids in enumerate(group.response_ids) if i and torch.equal(ids, first)]
    own = bool(group.response_images)
    return [i for i in equal if not own or seen(i) == seen(0)]


def refuse_collapsed(group: Group) -> None:
    """Refuse a pair whose rejected answer is the chosen one again: nothing is left of it.

    Raises:
        RefusedRowError: says why.
    """
    if 1 in collapsed(group):
        raise RefusedRowError(why_collapsed(group, 1, "rejected"))


def further_collapsed(group: Group) -> dict[int, str]:
    """The further rejected answers that are the chosen one again, and why."""
    return {i: why_collapsed(group, i, answer_field(i)) for i in collapsed(group) if i > 1}


def answer_field(response: int) -> str:
    """What a record calls a response behind the first two, such as `more_rejected/0`."""
    return f"more_rejected/{response - 2}"


def why_collapsed(group: Group, response: int, which: str) -> str:
    """Why a response, called so, is the chosen one again."""
    cut = group.cut[0] and group.cut[response]
    why = (
        f"in their first {len(group.response_ids[0])} tokens, where --max-response-tokens cuts"
        if cut
        else "once they are rendered and tokenized"
    )
    return f"chosen and {which} are the same {why}"


def without_responses(group: Group, dropped: Container[int]) -> Group:
    """The group without some of its responses."""
    kept = [i for i in range(len(group.response_ids)) if i not in dropped]
    if len(kept) == len(group.response_ids):
        return group
    own = group.response_images
    return dataclasses.replace(
        group,
        response_texts=tuple(group.response_texts[i] for i in kept),
        response_ids=tuple(group.response_ids[i] for i in kept),
        cut=tuple(group.cut[i] for i in kept),
        response_images=tuple(own[i] for i in kept) if own else own,
        learned=tuple(group.learned[i] for i in kept) if group.learned else group.learned,
        token_counts=tuple(group.token_counts[i] for i in kept)
        if group.token_counts
        else group.token_counts,
    )


def _even_out(groups: Sequence[Group]) -> list[Group]:
    """Give every group as many responses as the one with the most: its last one, repeated."""
    most = max((len(group.response_ids) for group in groups), default=0)
    return [_repeat_last(group, most - len(group.response_ids)) for group in groups]


def _repeat_last(group: Group, times: int) -> Group:
    if times == 0:
        return group
    own = group.response_images
    return dataclasses.replace(
        group,
        response_texts=group.response_texts + group.response_texts[-1:] * times,
        response_ids=group.response_ids + group.response_ids[-1:] * times,
        cut=group.cut + (False,) * times,
        response_images=own + own[-1:] * times,
        learned=group.learned + group.learned[-1:] * times,
        token_counts=group.token_counts + group.token_counts[-1:] * times,
    )


def _own_limit(policy: Policy) -> int | None:
    limit = getattr(policy.core.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def _refuse(
    data: Path, skipped: list[dict[str, Any]], total: int, max_bad_fraction: float, left: int
) -> None:
    if left and len(skipped) <= max_bad_fraction * total:
        return
    first = "; ".join(f"{place_in_words(row)}: {row['reason']}" for row in skipped[:3])
    found = f"{data}: {len(skipped)} of {counted(total, 'rows')} can't be used, "
    if not left:
        raise UserError(f"{found}so none is left. {first}")
    raise UserError(
        f"{found}{left} {'is' if left == 1 else 'are'} left; more than --max-bad-fraction "
        f"{max_bad_fraction:g} allows. {first}"
    )
