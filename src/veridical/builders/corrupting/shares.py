"""Weights under which each kind of mistake comes to the share that was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from veridical.builders.corrupting.sites import MistakeKind

ROUNDS = 500
"""Rounds of scaling; where the shares can be had, each halves the error or better."""
SMALLEST = 1e-9
"""Least weight beside a largest one of 1, where a share can't be had."""


def balanced_weights(
    offers: Mapping[tuple[MistakeKind, ...], int], weights: Mapping[MistakeKind, float]
) -> dict[MistakeKind, float]:
    """Weights whose draws are expected to give each kind its share of the mistakes.

    Iterative proportional scaling. A kind that too few answers allow comes as near to its share as
    they let it.

    Args:
        offers: kinds that an answer allows, to the number of such answers.
        weights: of the kinds, in proportion to the shares that are asked for.
    """
    able = {kind for kinds in offers for kind in kinds if weights[kind] > 0}
    asked = {kind: weights[kind] for kind in weights if kind in able}
    groups = [([kind for kind in asked if kind in kinds], n) for kinds, n in offers.items()]
    groups = [(kinds, n) for kinds, n in groups if kinds]
    answers = sum(n for _, n in groups)
    scaled, whole = dict(asked), sum(asked.values())
    for _ in range(ROUNDS):
        made = dict.fromkeys(asked, 0.0)
        for kinds, n in groups:
            sum_of = sum(scaled[kind] for kind in kinds)
            for kind in kinds:
                made[kind] += n * scaled[kind] / sum_of
        scaled = {k: w * asked[k] / whole * answers / made[k] for k, w in scaled.items()}
        largest = max(scaled.values())
        scaled = {kind: max(weight / largest, SMALLEST) for kind, weight in scaled.items()}
    return {kind: scaled.get(kind, weights[kind]) for kind in weights}
