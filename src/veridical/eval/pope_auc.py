"""How well a model tells what is there from what is not, wherever its answers flip (POPE).

Accuracy mixes what a model sees with where it puts the border between yes and no. The area under
the ROC curve leaves the border out: it is the chance that a question whose answer is yes gets a
larger margin of "Yes" over "No" than one whose answer is no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veridical.errors import UserError
from veridical.eval.answers import Query, Settings, load_asked
from veridical.progress import track
from veridical.randomness import generator
from veridical.statistics import LEVEL, RESAMPLES, Difference, Estimate, FloatArray, ratio

WORDS = ("Yes", "No")


def yes_margins(queries: Sequence[Query], settings: Settings) -> list[float]:
    """Log p("Yes") - log p("No") as the first token of the answer, in nats.

    Raises:
        UserError: the model begins both words with the same token, or its log-probabilities are
            NaN or infinite.
    """
    # PyTorch takes seconds to import, and answers made elsewhere are scored without it.
    import torch

    from veridical.finite import require_finite
    from veridical.logprobs import collate, response_logps
    from veridical.messages import assistant_message, user_message
    from veridical.prefix_sharing import sharing
    from veridical.rendering import render_group
    from veridical.steering import steered

    policy = load_asked(settings)
    answers = [[assistant_message(word)] for word in WORDS]
    groups = [
        render_group(
            policy, query.id, [query.image],
            steered([user_message(query.prompt)], settings.steer, policy.processor), answers, 1,
        )
        for query in queries
    ]  # fmt: skip
    if groups and groups[0].response_ids[0].equal(groups[0].response_ids[1]):
        raise UserError(
            f"{settings.model} begins {WORDS[0]!r} and {WORDS[1]!r} with the same token, so that "
            "no margin can be had from it. Leave --auc out."
        )
    margins: list[float] = []
    with torch.no_grad():
        share = bool(groups) and sharing(policy, groups[:1]).allowed
        for start in track(range(0, len(groups), settings.batch_size), "margins"):
            batch = collate(policy, groups[start : start + settings.batch_size], share)
            sums = response_logps(policy.model, batch).sums.double()
            require_finite(policy, sums, 'log-probabilities of "Yes" and "No"')
            margins += (sums[:, 0] - sums[:, 1]).tolist()
    return margins


def auc_estimate(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Estimate:
    """Area under the ROC curve of `margin`, with a percentile bootstrap interval over images.

    Args:
        rows: `image_id`, `label` and `margin`; ties count half.
        seed: of the resamples.
    """
    images = _images(rows)
    value = float(_areas(rows, images, np.ones((1, len(images))))[0])
    if np.isnan(value):
        note = "undefined: only one of yes and no was asked for"
        return Estimate(None, None, None, len(rows), len(images), note)
    if len(images) < 2:
        note = "one cluster: an interval needs at least two"
        return Estimate(value, None, None, len(rows), len(images), note)
    low, high, note = _interval(_areas(rows, images, _draws(len(images), seed)))
    return Estimate(value, low, high, len(rows), len(images), note)


def auc_difference(
    arm: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], seed: int = 0
) -> Difference:
    """Arm's area minus the baseline's; the interval is of draws of images that both keep.

    There is no p: two models' margins are on different scales, so that swapping them image by image
    would mix two rankings.

    Args:
        arm: rows as for `auc_estimate`.
        baseline: the other model's, of the same images.
        seed: of the resamples.
    """
    images = _images(arm)
    once, draws = np.ones((1, len(images))), _draws(len(images), seed)
    ours, theirs = (float(_areas(rows, images, once)[0]) for rows in (arm, baseline))
    if np.isnan(ours) or np.isnan(theirs):
        note = "undefined: only one of yes and no was asked for"
        return Difference(None, None, None, None, None, None, len(images), note)
    value, low, high, note = ours - theirs, None, None, "one cluster: an interval needs two"
    if len(images) > 1:
        low, high, note = _interval(_areas(arm, images, draws) - _areas(baseline, images, draws))
    return Difference(value, low, high, None, ours, theirs, len(images), note)


def _images(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({str(row["image_id"]) for row in rows})


def _draws(images: int, seed: int) -> FloatArray:
    """How often each image is drawn: (resamples, images)."""
    shares = np.full(images, 1 / images)
    return generator(seed, "auc").multinomial(images, shares, RESAMPLES).astype(np.float64)


def _areas(
    rows: Sequence[Mapping[str, Any]], images: Sequence[str], counts: FloatArray
) -> FloatArray:
    """The area for each row of counts by image; NaN where only one of yes and no is left."""
    wins, yes, no = _won(rows, {image: place for place, image in enumerate(images)})
    return ratio(((counts @ wins) * counts).sum(axis=1), (counts @ yes) * (counts @ no))


def _interval(drawn: FloatArray) -> tuple[float | None, float | None, str]:
    """Percentiles; draws with only one of yes and no are left out, and counted in the note."""
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    note = f"undefined in {lost} of {len(drawn)} resamples, which are left out" if lost else ""
    if len(defined) < len(drawn) / 2:
        return None, None, note
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), note


def _won(
    rows: Sequence[Mapping[str, Any]], place: Mapping[str, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pairs won by an image's yes questions against an image's no questions, and both counts."""
    from scipy.stats import rankdata  # a second at every start, else

    order = rankdata([row["margin"] for row in rows], method="dense")
    wins = np.zeros((len(place), len(place)))
    yes, no = np.zeros(len(place)), np.zeros(len(place))
    negatives = [(order[i], place[str(r["image_id"])]) for i, r in enumerate(rows)
                 if r["label"] == "no"]  # fmt: skip
    ranks = np.array([rank for rank, _ in negatives])
    owners = np.array([owner for _, owner in negatives], dtype=np.int64)
    np.add.at(no, owners, 1)
    for number, row in enumerate(rows):
        if row["label"] == "yes":
            own = place[str(row["image_id"])]
            yes[own] += 1
            beaten = (order[number] > ranks) + 0.5 * (order[number] == ranks)
            np.add.at(wins[own], owners, beaten)
    return wins, yes, no
