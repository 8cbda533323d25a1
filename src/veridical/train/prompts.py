"""Prompts for training on fresh responses: records of three kinds, with what judges may know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
import torch
from datasets import Dataset

from veridical.bdhs.true_answers import TrueAnswer, whole_answer_limit
from veridical.data.messages import Message, assistant_message, count_images, text_of
from veridical.data.object_lists import read_objects
from veridical.data.origins import place_in_words, row_origins, unread_rows
from veridical.data.prompts import Prompt
from veridical.data.record_refusals import refuse_bad_share
from veridical.data.record_types import Branch, CheckedRow
from veridical.data.records import RecordSet, read_records
from veridical.judges.exact import listed_objects
from veridical.judges.judging import Case
from veridical.judges.kinds import BY_OBJECTS
from veridical.judges.named import Judging
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group, RefusedRowError, render_group
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted, part_of
from veridical.runtime.run_files import SkippedRow
from veridical.train.loop.collapsed import refuse_collapsed
from veridical.train.loop.pair_rows import Images, render_pair
from veridical.train.loop.rows import (
    TrainingRows,
    render_rows,
    tell_all,
    too_many,
)
from veridical.train.options import Training

PromptKind = Literal["prompt", "conversation", "preference"]
OF_PAIRS = ("answer_prefix", "beta_factor", "span_weights")
"""Columns that say how a row's own pair is learned."""


@dataclass(frozen=True)
class TrainingPrompt:
    """A record that fresh responses are made for.

    Attributes:
        asked: what is asked, with what a judge may be told; its id is the record's.
        answer: the true answer of a conversation, or a pair's chosen one; "" if there is none.
        texts: a pair's two answers; empty for other records.
        pair: a preference record's own two answers; else None.
        image_names: of the images' files, without suffix.
    """

    asked: Prompt
    answer: str
    texts: tuple[str, ...]
    pair: Group | None
    image_names: tuple[str, ...]

    def case(self, responses: Sequence[str]) -> Case:
        """The prompt with responses, as a judge sees it."""
        return Case(self.asked, responses, self.image_names)

    def source(self) -> TrueAnswer:
        """The prompt with its true answer."""
        return TrueAnswer(self.asked, self.answer)


def check_object_lists(judging: Judging, data: Path, kind: PromptKind, training: Training) -> None:
    """Refuse prompts whose images the judge's lists do not cover, before a model is loaded.

    Args:
        judging: who judges; only `exact` and `chair` need lists.
        data: a file that `read_records` takes.
        kind: of its records.
        training: more files, where images are, and how many rows may be unusable.

    Raises:
        UserError: more prompts than `--max-bad-fraction` allows have an image without a list, or
            can't be read. All that is wrong with the rows is printed before.
    """
    if judging.kind not in BY_OBJECTS or judging.objects is None:
        return
    listed = read_objects(judging.objects)
    most = training.max_bad_fraction
    read = [
        read_records(path, kind, training.images_root, 1.0, tells=False)
        for path in (data, *(training.more_data or ()))
    ]
    total = sum(len(records.rows) for records in read)
    without = [row for records in read for row in _without_list(records, listed)]
    unread = [row for records in read for row in unread_rows(records)]
    lacking = len(without) > most * total
    if unread and (lacking or too_many(read, unread, most)) and processes.is_first():
        tell_all([*unread, *without])
    if lacking:
        raise UserError(
            f"--judge {judging.kind}: "
            f"{part_of(len(without), total, 'prompts', 'has', 'have')} an image without an object "
            f"list in {judging.objects}, more than --max-bad-fraction {most:g} allows. The first "
            f"is {place_in_words(without[0])}; the lists are of "
            f"{', '.join(list(listed)[:3])}{', ...' if len(listed) > 3 else ''}. A list is found "
            "by the image's file name without suffix, by its last number, or by the row's id."
        )
    for records in read:
        refuse_bad_share(records.file, kind, records.problems, records.total, most)


def _without_list(records: RecordSet, listed: Mapping[str, Sequence[str]]) -> Iterator[SkippedRow]:
    """The usable rows of a file that show an image without an object list."""
    origins = row_origins(records)
    for origin, id, names in zip(origins, records.ids, image_names(records.rows), strict=True):
        if listed_objects(Case(Prompt(id, (), ()), (), names), listed) is None:
            yield origin.left_out(id, "images", "the judge has no object list for its image")


def image_names(rows: Dataset) -> Iterator[list[str]]:
    """The names of each row's images, without suffix; empty where an image has none."""
    for chunk in rows.data.column("images").chunks:
        paths = iter(pc.struct_field(chunk.flatten(), "path").to_pylist())
        for length in chunk.value_lengths().to_pylist():
            yield [Path(next(paths) or "").stem for _ in range(length or 0)]


def read_training_prompts(
    policy: Policy,
    data: Path,
    kind: PromptKind,
    training: Training,
    max_new_tokens: int,
    learns_pairs: bool = False,
    learns_answers: bool = False,
) -> tuple[list[TrainingPrompt], TrainingRows]:
    """Every prompt that leaves room for `max_new_tokens`; the others are listed.

    Args:
        policy: whose template and tokenizer are used.
        data: a file that `read_records` takes.
        kind: of its records.
        training: as for `read_training_rows`.
        max_new_tokens: of a fresh response.
        learns_pairs: whether the records' own pairs are learned too; then a prompt whose pair
            can't be is listed.
        learns_answers: whether true answers are learned beside rejected ones made of them; then
            both have to fit.

    Raises:
        UserError: as for `read_training_rows`.
    """
    ignored = dict[str, int]()
    found: dict[str, TrainingPrompt] = {}
    branches: tuple[Branch, ...] = ("chosen", "rejected")

    def render(row: CheckedRow, images: Images) -> list[Group]:
        prompt: list[Message] = row["messages"][:-1] if kind == "conversation" else row["prompt"]
        pictures = images.of_prompt(count_images(prompt))
        known = {"conversation": row.get("messages", [])[-1:], "preference": row.get("chosen")}
        pair = None
        if kind == "preference":
            limit = training.max_response_tokens
            pair = render_pair(policy, row, images, branches, False, limit)
            if learns_pairs:
                refuse_collapsed(pair, policy)
            else:
                _count_ignored(row, ignored)
        found[row["id"]] = TrainingPrompt(
            Prompt(
                row["id"],
                pictures,
                prompt,
                tuple(row.get("facts") or ()),
                row.get("expected_answer"),
            ),
            text_of(known.get(kind) or []).strip(),
            tuple(text_of(row[name]).strip() for name in branches) if pair else (),
            pair,
            tuple(images.names()),
        )
        longest = max(
            [max_new_tokens, *map(len, pair.response_ids if pair and learns_pairs else ())]
        )
        lengths = (longest, longest)
        if learns_answers:
            lengths = _rejecting_lengths(policy, found[row["id"]], max_new_tokens)
        rooms = tuple(torch.zeros(length, dtype=torch.long) for length in lengths)
        text = render_prompt(policy, prompt)
        own = pair.response_images if pair and learns_pairs else ()
        return [Group(row["id"], pictures, text, ("", ""), rooms, (False, False), own)]

    rows = render_rows(policy, data, kind, training, render)
    if ignored:
        told = ", ".join(f"{name} ({counted(ignored[name], 'rows')})" for name in sorted(ignored))
        print(f"Not used, as the rows' own pairs are not learned: {told}.")
    return [found[group.id] for group in rows.groups], rows


def _rejecting_lengths(
    policy: Policy, prompt: TrainingPrompt, max_new_tokens: int
) -> tuple[int, int]:
    """Tokens of a true answer, and of the longest rejected one that is learned beside it."""
    if not prompt.answer:
        return max_new_tokens, max_new_tokens
    asked, answer = prompt.asked, [assistant_message(prompt.answer)]
    group = render_group(policy, asked.id, asked.images, asked.messages, [answer])
    words = policy.processor.tokenizer(prompt.answer, add_special_tokens=False)["input_ids"]
    whole = len(group.response_ids[0])
    longest = whole_answer_limit(policy, prompt.answer, max_new_tokens)
    return whole, longest + max(whole - len(words), 0)


def _count_ignored(row: Mapping[str, object], ignored: dict[str, int]) -> None:
    for name in OF_PAIRS:
        if row.get(name) not in (None, "", [], 1.0):
            ignored[name] = ignored.get(name, 0) + 1


def proof_group(
    policy: Policy, asked: Prompt, texts: Sequence[str], max_response_tokens: int
) -> Group:
    """A prompt with two answers by their texts, for proofs: the stock path tokenizes them itself.

    Args:
        policy: whose template and tokenizer are used.
        asked: the prompt.
        texts: of the answers; a record's may be far longer than what is sampled.
        max_response_tokens: longer ones lose their end, since no step learns from such rows.

    Raises:
        UserError: it can't even be answered by yes or no in this model's chat template.
    """
    for candidates in (texts, ("Yes.", "No.")):
        answers = [[assistant_message(text)] for text in candidates]
        try:
            return render_group(
                policy, asked.id, asked.images, asked.messages, answers, max_response_tokens
            )
        except RefusedRowError as refused:
            reason = refused
    raise UserError(f"The prompt of row {asked.id} can't be answered: {reason}.")
