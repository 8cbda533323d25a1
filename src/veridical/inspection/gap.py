"""What a model prefers with the image, and with plain gray in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from veridical.checks.controls import with_gray_images
from veridical.data.images import ImageLike, decode_image, resolve_image_path
from veridical.data.pixels import ImageError
from veridical.inspection.facts import Fact, mean_fact, share
from veridical.inspection.gap_file import Gap
from veridical.inspection.rows import Row, read_rows
from veridical.models.batching import row_batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import Group, render_group
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.runtime.progress import counted, track
from veridical.runtime.randomness import generator


def measure_gaps(
    policy: Policy, path: Path, root: Path, pairs: int, count: int, seed: int = 0
) -> tuple[list[Gap], list[str]]:
    """The gaps of some pairs with images, drawn at random, and why others have none.

    Args:
        policy: the model.
        path: the set's file.
        root: the folder of its images.
        pairs: how many pairs it has.
        count: how many to draw.
        seed: of the draw.
    """
    chosen = generator(seed, "gap").permutation(pairs)[:count].tolist()
    wanted = set(chosen)
    gaps: list[Gap] = []
    refused: list[str] = []
    usable = (row for row in read_rows(path, "preference") if row.record is not None)
    rows = [(place, row) for place, row in enumerate(usable) if place in wanted]
    for place, row in track(rows, "log-probabilities"):
        try:
            gaps.append(_gap(policy, place, row, root))
        except (RefusedRowError, RefusedRowsError, ImageError, UserError) as reason:
            refused.append(f"row {row.number}: {reason}")
    return gaps, refused


def describe_gaps(
    gaps: Sequence[Gap], refused: Sequence[str], groups: Sequence[int], name: str
) -> list[Fact]:
    """The share of pairs whose chosen answer is more likely, and the mean gap, in both ways."""
    section = f"Log-probabilities under {name}"
    if not gaps:
        why = refused[0] if refused else "no pair has an image"
        return [Fact(section, "Log-probability gap", None, "number", note=f"no pair: {why}")]
    of = [groups[gap.pair] for gap in gaps]
    left = f"{counted(len(refused), 'pairs')} left out, such as {refused[0]}" if refused else ""
    return [
        share(section, "Chosen is more likely, with the image",
              [_prefers(gap.own) for gap in gaps], of, left),
        share(section, "Chosen is more likely, without it",
              [_prefers(gap.gray) for gap in gaps], of, "plain gray in place of the image"),
        mean_fact(section, "Gap with the image, nats", [gap.own for gap in gaps], of),
        mean_fact(section, "Gap without it, nats", [gap.gray for gap in gaps], of),
        mean_fact(
            section, "What the image adds to the gap, nats", [g.own - g.gray for g in gaps], of
        ),
    ]  # fmt: skip


def _prefers(gap: float) -> float:
    return 0.5 + 0.5 * float(np.sign(gap))


def _group(policy: Policy, row: Row, root: Path) -> Group:
    assert row.record is not None
    images: list[ImageLike] = []
    for image in row.record["images"]:
        if image["bytes"]:
            images.append(decode_image(image["bytes"]))
        else:
            images.append(resolve_image_path(str(image["path"]), root.resolve()))
    if not images:
        raise RefusedRowError("it has no image")
    answers = [row.record["chosen"], row.record["rejected"]]
    return render_group(policy, row.id, images, row.record["prompt"], answers)


def _gap(policy: Policy, place: int, row: Row, root: Path) -> Gap:
    found = []
    group = _group(policy, row, root)
    for one in (group, with_gray_images(group)):
        with torch.no_grad():
            sums = response_logps(policy.model, row_batch(policy, [one])).sums[0]
        found.append(float(sums[0] - sums[1]))
    return Gap(place, row.number, *found)
