"""How much of a preference can be guessed without an image, on pairs whose images were not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from veridical.inspection.facts import Fact, share
from veridical.inspection.fields import coded_alike
from veridical.inspection.pairs import FIRST_TOKENS, Pairs
from veridical.runtime.randomness import generator

SECTION = "Shortcuts: right without the image"
FOLDS = 5
FEWEST = 20  # pairs, and groups of images: below, nothing is learned
COIN = 0.5
"""Share of right answers of who throws a coin."""
MOST = 50_000
"""Pairs that the guesses learn from and are tested on, drawn at random from larger sets."""


def describe_shortcuts(pairs: Pairs, groups: NDArray[np.int64], seed: int = 0) -> list[Fact]:
    """Held-out accuracy of guesses from words, from lengths, from first words, and from the author.

    Every field of the rows' sources that has a category for each of the two answers is tried, by
    whatever name it goes.
    """
    kept = np.arange(len(pairs))
    if len(pairs) > MOST:
        kept = np.sort(generator(seed, "shortcuts").choice(len(pairs), MOST, replace=False))
    guesses: list[tuple[str, Any, str]] = [
        ("Words of the answers", pairs.bags, "which words occur, in any order"),
        ("Lengths alone", _lengths(pairs), "words, letters, lines"),
        (f"First {FIRST_TOKENS} words alone", pairs.begins, ""),
    ]
    for name, two in pairs.fields.authors().items():
        chosen, rejected, number = coded_alike(two, len(pairs))
        features = _one_hot(chosen, number) - _one_hot(rejected, number)
        note = "{:.1f} % where it is learned from the pairs that it is tested on"
        fitted = _fitted(features.tocsr()[kept], seed)
        guesses.append((f"Field {name} alone", features, note.format(100 * fitted)))
    facts = [_guess(label, x.tocsr()[kept], groups[kept], seed, note) for label, x, note in guesses]
    if not pairs.fields.authors():
        note = "no field of the source has a category for each answer"
        facts.append(Fact(SECTION, "Author alone", None, note=note))
    return facts


def best_guess(facts: Sequence[Fact]) -> tuple[Fact | None, bool]:
    """The most accurate guess, and whether it is above chance.

    It is the best of those whose interval lies above one half, where there are any.
    """
    guesses = [fact for fact in facts if fact.section == SECTION and fact.value is not None]
    above = [fact for fact in guesses if fact.low is not None and fact.low > COIN]
    best = max(above or guesses, key=lambda fact: fact.value or 0.0, default=None)
    return best, bool(above)


def _guess(label: str, features: object, groups: NDArray[np.int64], seed: int, note: str) -> Fact:
    if len(groups) < FEWEST or len(np.unique(groups)) < FEWEST:
        return Fact(SECTION, label, None, note=f"fewer than {FEWEST} groups of images")
    return share(SECTION, label, held_out(features, groups, seed).tolist(), groups.tolist(), note)


def held_out(features: Any, groups: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Whether a logistic regression on the other folds prefers the chosen answer: 1, 0, or a half.

    A half where it has no preference. No group is in two folds.

    Args:
        features: of the chosen answer minus those of the rejected. Shape: (pairs, features).
        groups: of the pairs.
        seed: of the order.
    """
    from sklearn.model_selection import GroupKFold

    right = np.empty(len(groups))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(groups, groups=groups):
        right[test] = _right(features[test], _weights(features[train], seed))
    return right


def _fitted(features: object, seed: int) -> float:
    """Accuracy on the pairs that were learned from."""
    return float(_right(features, _weights(features, seed)).mean())


def _weights(features: Any, seed: int) -> NDArray[np.float64]:
    """Weights of a logistic regression that prefers the chosen answers."""
    from sklearn.linear_model import LogisticRegression

    # Half of the pairs are turned around: which answer comes first says nothing.
    signs = generator(seed, "turned around").choice([-1.0, 1.0], features.shape[0])
    model = LogisticRegression(fit_intercept=False, max_iter=100, tol=1e-3)
    model.fit(scipy.sparse.diags(signs) @ features, signs)
    weights: NDArray[np.float64] = model.coef_[0]
    return weights


def _right(features: Any, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = features @ weights
    return 0.5 + 0.5 * np.sign(np.where(np.abs(scores) < 1e-9, 0.0, scores))


def _one_hot(codes: Sequence[int], number: int) -> Any:
    ones, rows = np.ones(len(codes), dtype=np.float32), np.arange(len(codes))
    return scipy.sparse.csr_matrix((ones, (rows, codes)), (len(codes), number))


def _lengths(pairs: Pairs) -> object:
    """Differences of lengths, each in units of its spread; and their signs."""
    found = np.array(
        [
            (p.chosen_words - p.rejected_words, p.chosen_letters - p.rejected_letters, p.lines)
            for p in pairs.differences
        ],
        dtype=np.float32,
    )
    spread = np.sqrt((found**2).mean(axis=0))
    scaled = found / np.where(spread > 0, spread, 1.0)
    return scipy.sparse.csr_matrix(np.hstack([scaled, np.sign(found)]))
