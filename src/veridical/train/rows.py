"""From a file of records to groups that can be trained on; every row left out is listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.batching import check_lengths
from veridical.errors import UserError
from veridical.files import write_jsonl
from veridical.images import row_images
from veridical.models import Policy
from veridical.progress import track
from veridical.randomness import generator
from veridical.records import Kind, count_images, read_records
from veridical.rendering import Group, RefusedRowError, render_group


@dataclass(frozen=True)
class TrainingRows:
    """What a data file gave.

    Attributes:
        groups: usable rows, rendered and tokenised.
        skipped: {"id", "field", "reason"} for each row left out.
        cut: responses whose end was cut off by the length limit.
    """

    groups: list[Group]
    skipped: list[dict[str, Any]]
    cut: int


def read_training_rows(
    policy: Policy,
    data: Path,
    kind: Kind,
    branches: Sequence[str],
    images_root: Path | None,
    max_bad_fraction: float,
    max_length: int | None,
    max_response_tokens: int | None,
) -> TrainingRows:
    """Read, render, tokenise and check every row.

    Args:
        policy: whose template, tokenizer and processor are used.
        data: a file that `read_records` takes.
        kind: `preference`, or `conversation` (its last assistant turn is the response).
        branches: the message columns that are responses, e.g. ("chosen", "rejected").
        images_root: what image paths are relative to.
        max_bad_fraction: share of unusable rows above which training does not start.
        max_length: prompt and longest response, in tokens; None takes the model's own limit.
        max_response_tokens: longer responses lose their end; None cuts nothing.

    Raises:
        UserError: too many rows are unusable, none is left, or a limit makes no sense.
    """
    for name, value in (
        ("max-length", max_length),
        ("max-response-tokens", max_response_tokens),
    ):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more, or leave it out.")
    records = read_records(data, kind, images_root, max_bad_fraction)
    skipped = [
        {"id": problem.id, "field": problem.field, "reason": problem.reason}
        for problem in records.problems
    ]
    groups = []
    texts = records.rows.remove_columns(["images"])
    pictures = records.rows.select_columns(["images"])
    for index in track(range(len(texts)), "reading rows"):
        try:
            groups.append(
                _group(policy, pictures, index, texts[index], branches, max_response_tokens)
            )
        except RefusedRowError as refused:
            row_id = texts[index]["id"]
            skipped.append({"id": row_id, "field": "messages", "reason": str(refused)})
    limit = max_length or _own_limit(policy)
    if limit is not None:
        too_long = check_lengths(policy, groups, limit)
        skipped += [
            {"id": id, "field": "length", "reason": reason} for id, reason in too_long.items()
        ]
        groups = [group for group in groups if group.id not in too_long]
    _refuse(data, skipped, records.total, max_bad_fraction, len(groups))
    return TrainingRows(groups, skipped, sum(sum(group.cut) for group in groups))


def split_held_out(
    groups: Sequence[Group], share: float, seed: int
) -> tuple[list[Group], list[Group]]:
    """Set a share of the rows aside, the same ones whatever the order of the file.

    Returns:
        Rows to train on, rows held out (at least one, if the share is not 0).

    Raises:
        UserError: nothing would be left to train on.
    """
    if not 0 <= share < 1:
        raise UserError(f"--held-out is {share:g}; give a share of the rows, from 0 to below 1.")
    count = 0 if share == 0 else max(1, round(share * len(groups)))
    if count >= len(groups):
        raise UserError(f"{len(groups)} rows are too few to hold any out; set --held-out 0.")
    drawn = sorted(groups, key=lambda group: generator(seed, "held-out", group.id).random())
    held_out = {group.id for group in drawn[:count]}
    train = [group for group in groups if group.id not in held_out]
    return train, [group for group in groups if group.id in held_out]


def list_skipped(out: Path, rows: TrainingRows) -> None:
    """Write `skipped.jsonl`, and say how many rows it holds."""
    write_jsonl(out / "skipped.jsonl", rows.skipped)
    if rows.skipped:
        print(f"{len(rows.skipped)} rows are left out; {out / 'skipped.jsonl'} says which and why.")
    if rows.cut:
        print(f"{rows.cut} responses were longer than allowed and lost their end.")


def _group(
    policy: Policy,
    pictures: Any,
    index: int,
    row: dict[str, Any],
    branches: Sequence[str],
    max_response_tokens: int | None,
) -> Group:
    if "messages" in row:
        prompt, responses = row["messages"][:-1], [row["messages"][-1:]]
    else:
        prompt, responses = row["prompt"], [row[branch] for branch in branches]
    images = row_images(pictures, index, count_images(prompt))
    return render_group(policy, row["id"], images, prompt, responses, max_response_tokens)


def _own_limit(policy: Policy) -> int | None:
    limit = getattr(policy.core.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def _refuse(
    data: Path, skipped: list[dict[str, Any]], total: int, max_bad_fraction: float, left: int
) -> None:
    if left and len(skipped) <= max_bad_fraction * total:
        return
    first = "; ".join(f"{row['id']}: {row['reason']}" for row in skipped[:3])
    raise UserError(
        f"{data}: {len(skipped)} of {total} rows can't be used, {left} are left; more than "
        f"--max-bad-fraction {max_bad_fraction:g} allows. {first}"
    )
