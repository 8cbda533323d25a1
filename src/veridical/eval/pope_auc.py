"""How well a model tells what is there from what is not, wherever its answers flip (POPE).

Accuracy mixes what a model sees with where it puts the border between yes and no. The area under
the ROC curve leaves the border out: it is the chance that a question whose answer is yes gets a
larger margin of "Yes" over "No" than one whose answer is no.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from veridical.data.messages import Message
from veridical.data.prompts import Prompt
from veridical.eval.answers import AnswerSettings
from veridical.runtime.errors import UserError
from veridical.runtime.progress import track
from veridical.scoring.statistics import Difference, Estimate, FloatArray
from veridical.scoring.statistics.intervals import area_score_interval
from veridical.scoring.statistics.paired import as_difference
from veridical.scoring.statistics.signs import Test, sign_test
from veridical.scoring.statistics.single import BOUND, METHODS, ONE_CLUSTER, usual_event

WORDS = ("Yes", "No")
ONE_LABEL = "undefined: only one of yes and no was asked for"
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def yes_margins(prompts: Sequence[Prompt], settings: AnswerSettings) -> list[float]:
    """Log p("Yes") - log p("No") as the first token of the answer, in nats.

    Raises:
        UserError: the model begins both words with the same token, or its log-probabilities are
            NaN or infinite.
    """
    # PyTorch takes seconds to import, and answers made elsewhere are scored without it.
    import torch

    from veridical.checks.prefix_sharing import sharing
    from veridical.data.messages import assistant_message
    from veridical.data.steering import steered
    from veridical.models.batching import collate
    from veridical.models.finite import require_finite
    from veridical.models.logprobs import response_logps
    from veridical.models.rendering import render_group

    policy = settings.model.policy

    def steered_question(prompt: Prompt) -> list[Message]:
        return steered(prompt.messages, settings.steer, policy.processor)

    answers = [[assistant_message(word)] for word in WORDS]
    groups = [
        render_group(
            policy, prompt.id, prompt.images,
            steered_question(prompt), answers, 1,
        )
        for prompt in prompts
    ]  # fmt: skip
    if groups and groups[0].response_ids[0].equal(groups[0].response_ids[1]):
        raise UserError(
            f"{settings.model.name} begins {WORDS[0]!r} and {WORDS[1]!r} with the same token, so "
            "that no margin can be had from it. Leave --auc out."
        )
    margins: list[float] = []
    with torch.no_grad():
        share = bool(groups) and sharing(policy, groups[:1]).allowed
        for start in track(range(0, len(groups), settings.batch_size), "margins"):
            batch = collate(policy, groups[start : start + settings.batch_size], share)
            sums = response_logps(policy.model, batch).sums.cpu().double()
            require_finite(policy, sums, 'log-probabilities of "Yes" and "No"')
            margins += (sums[:, 0] - sums[:, 1]).tolist()
    return margins


@dataclass(frozen=True)
class Area:
    """The area, and what its interval is made of.

    Attributes:
        value: the area; NaN where only one of yes and no was asked for.
        moved: how much each image moves it, (images,).
        items: questions of the rarer kind: with one of them wrong, the area can fall by 1 / items.
        others: questions of the other kind.
        size: how many of those an image has, on average over them.
    """

    value: float
    moved: FloatArray
    items: float
    others: float
    size: float


def auc_estimate(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """Area under the ROC curve of `margin`, with an interval clustered by image.

    The variance is Obuchowski's (1997) of clustered areas; the interval, that of a share.

    Args:
        rows: `image_id`, `label` and `margin`; ties count half.
    """
    images = _images(rows)
    area = area_of(rows, images)
    if np.isnan(area.value):
        return Estimate(None, None, None, len(rows), len(images), ONE_LABEL)
    if len(images) < 2:
        return Estimate(area.value, None, None, len(rows), len(images), ONE_CLUSTER)
    low, high = area_interval(area)
    note = BOUND if area.value in (0.0, 1.0) else ""
    method = METHODS["area"]
    return Estimate(area.value, low, high, len(rows), len(images), note, method)


def auc_difference(
    arm: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> Difference:
    """Arm's area minus the baseline's, paired by image; interval and p are those of one test.

    Args:
        arm: rows as for `auc_estimate`.
        baseline: the other model's, of the same images.
    """
    images = _images(arm)
    ours, theirs = area_of(arm, images), area_of(baseline, images)
    if np.isnan(ours.value) or np.isnan(theirs.value):
        return Difference(None, None, None, None, None, None, len(images), ONE_LABEL)
    value = ours.value - theirs.value
    if len(images) < 2:
        return Difference(
            value, None, None, None, ours.value, theirs.value, len(images), ONE_CLUSTER
        )
    differing = _differing(arm, baseline)
    several = area_test([ours], [theirs], [differing])
    test = Test(several.low[0], several.high[0], several.p[0])
    return as_difference(test, ours.value, theirs.value, len(images), differing)


def area_interval(area: Area) -> tuple[float, float]:
    """Both ends for one area of two images or more."""
    images = len(area.moved)
    variance = (area.moved**2).sum() * images / (images - 1)
    value, items, others, size = (
        np.array(x) for x in (area.value, area.items, area.others, area.size)
    )
    low, high = area_score_interval(value, variance, (items, others), size)
    return float(low), float(high)


def _differing(arm: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> int:
    """How many images have other margins; one that changes moves the ranks of the others too."""
    ours, theirs = (
        Counter((str(row["image_id"]), row["label"], float(row["margin"])) for row in rows)
        for rows in (arm, baseline)
    )
    return len({image for image, _, _ in (ours - theirs) + (theirs - ours)})


def area_test(ours: Sequence[Area], theirs: Sequence[Area], differing: Sequence[int]) -> Test:
    """The test of the difference of two areas on the same images, of which so many differ.

    Of several such pairs at once, all of as many images; the numbers are arrays, (pairs,).
    """
    value = np.array([one.value - other.value for one, other in zip(ours, theirs, strict=True)])
    moved = [one.moved - other.moved for one, other in zip(ours, theirs, strict=True)]
    gains = np.array(moved) + value[:, None] / len(moved[0])
    event = usual_event(np.array([[*one.moved, *other.moved]
                                  for one, other in zip(ours, theirs, strict=True)]))  # fmt: skip
    event = np.where(event > 0, event, [area.size / area.items for area in ours])
    test = sign_test(value, gains, event, np.array(differing, dtype=np.float64))
    return Test(np.maximum(test.low, -1.0), np.minimum(test.high, 1.0), test.p)


def area_of(rows: Sequence[Mapping[str, Any]], images: Sequence[str]) -> Area:
    """The area of rows about these images, ties counted half."""
    place = {image: number for number, image in enumerate(images)}
    margins = np.array([float(row["margin"]) for row in rows])
    owners = np.array([place[str(row["image_id"])] for row in rows])
    yes = np.array([row["label"] == "yes" for row in rows])
    return clustered_area(margins, yes, owners, len(images))


def clustered_area(margins: FloatArray, yes: BoolArray, owners: IntArray, images: int) -> Area:
    """The area of questions, in arrays: margin, whether yes is right, and number of the image."""
    if not yes.any() or yes.all():
        return Area(math.nan, np.zeros(images), 0.0, 0.0, 0.0)
    beaten = _share_below(margins[~yes], margins[yes])
    beating = 1 - _share_below(margins[yes], margins[~yes])
    value = float(beaten.mean())
    moved = np.zeros(images)
    for side, placed in ((yes, beaten), (~yes, beating)):
        np.add.at(moved, owners[side], (placed - value) / side.sum())
    counts = [np.bincount(owners[side], minlength=images) for side in (yes, ~yes)]
    rarer = min(counts, key=lambda count: int(count.sum()))
    items = float(rarer.sum())
    return Area(value, moved, items, len(yes) - items, float((rarer**2).sum()) / items)


def _share_below(values: FloatArray, bars: FloatArray) -> FloatArray:
    """For each bar the share of values below it, ties counted half."""
    ordered = np.sort(values)
    ends = [np.searchsorted(ordered, bars, side) for side in SIDES]
    return np.asarray((ends[0] + ends[1]) / (2 * len(values)), dtype=np.float64)


def _images(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return sorted({str(row["image_id"]) for row in rows})
