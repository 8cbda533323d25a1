"""How far judges agree: aspects and scores within a set, and sets that hold the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, islice

import numpy as np

from veridical.inspection.facts import Fact
from veridical.inspection.pairs import Pairs

AGREEMENT = "Agreement between judges"
MOST_JUDGES = 8
FEWEST = 10  # pairs that two judges share

Votes = Mapping[bytes, int]
"""By pair: 1 where the first answer in a fixed order is better, -1 the second, 0 for a tie."""


def votes_of(pairs: Pairs) -> dict[str, Votes]:
    """What each judge says: the set's own choice, each rated aspect, each pair of scores."""
    judges: dict[str, Votes] = {
        "the set's choice": {key: 1 if first else -1 for key, first in pairs.orientation}
    }
    scored = {**pairs.ratings, **pairs.fields.scores}
    for name, values in islice(scored.items(), MOST_JUDGES):
        votes = {}
        for place, (chosen, rejected) in values.items():
            key, first = pairs.orientation[place]
            votes[key] = int(np.sign(chosen - rejected)) * (1 if first else -1)
        judges[name] = votes
    return judges


def describe_agreement(judges: Mapping[str, Votes]) -> list[Fact]:
    """Cohen's kappa of every two judges, and Krippendorff's alpha (nominal) of all together."""
    import krippendorff
    from sklearn.metrics import cohen_kappa_score

    facts = []
    for one, other in combinations(judges, 2):
        shared = sorted(judges[one].keys() & judges[other].keys())
        if len(shared) < FEWEST:
            continue
        left, right = ([judges[name][key] for key in shared] for name in (one, other))
        same = float(np.mean(np.array(left) == np.array(right)))
        kappa = None if len({*left, *right}) < 2 else float(cohen_kappa_score(left, right))
        note = f"they agree on {100 * same:.1f} % of {len(shared):,} pairs"
        facts.append(
            Fact(
                AGREEMENT,
                f"Cohen's kappa: {one}, {other}",
                kappa,
                "number",
                n=len(shared),
                note=note,
            )
        )
    if len(judges) > 1 and facts:
        table = _table(judges)
        alpha = None  # where every vote is the same, there is no disagreement to expect
        if len(np.unique(table[~np.isnan(table)])) > 1:
            level = "nominal"
            alpha = float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))
        label = f"Krippendorff's alpha of all {len(judges)}"
        facts.append(Fact(AGREEMENT, label, alpha, "number", n=table.shape[1]))
    return facts


def between_sets(sets: Sequence[Pairs]) -> list[Fact]:
    """Agreement of sets on the pairs that they have in common, whoever chose."""
    judges = {pairs.name: votes_of(pairs)["the set's choice"] for pairs in sets}
    return describe_agreement(judges) if len(judges) > 1 else []


def _table(judges: Mapping[str, Votes]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    keys = sorted(set().union(*(votes.keys() for votes in judges.values())))
    table = np.full((len(judges), len(keys)), np.nan)
    place = {key: number for number, key in enumerate(keys)}
    for row, votes in enumerate(judges.values()):
        for key, vote in votes.items():
            table[row, place[key]] = vote
    voted = (~np.isnan(table)).sum(axis=0) > 1
    return table[:, voted]
