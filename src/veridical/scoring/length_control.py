"""Win rates without the advantage of length (Dubois et al. 2024, Length-Controlled AlpacaEval).

A logistic regression explains each preference by the difference in length, how hard the instruction
is, and which model answered. Its predictions at equal lengths are the length-controlled
preferences. Preferences for a baseline that was made longer and shorter on purpose hold the
regression: from these the model can't learn, only lengths differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from veridical.scoring.statistics import FloatArray

GAMED_WEIGHT = 0.2 / 2
"""Of a preference for a baseline of another length; the published rule's, which has two such."""
FOLDS = 5
SEED = 123
"""Liblinear shuffles coordinates; the published rule's seed gives its coefficients exactly."""
SMALLEST = 1e-15
LEAST_LEFT = 0.1
"""Of a comparison's error, where it decides a coefficient nearly alone (ours)."""


@dataclass(frozen=True)
class Comparisons:
    """Preferences with what explains them; arrays of one length.

    Attributes:
        lengths: baseline's length minus the answer's, over the standard deviation of these
            differences.
        difficulties: of the instructions, as published.
        plain: 1 where the model's own answers were compared, 0 for a gamed baseline.
        preferences: for the answer over the baseline, 0 to 1; NaN for none.
    """

    lengths: FloatArray
    difficulties: FloatArray
    plain: FloatArray
    preferences: FloatArray

    def design(self, at_equal_lengths: bool = False) -> FloatArray:
        """Columns of the regression, (rows, 3): length, difficulty, model."""
        lengths = np.zeros_like(self.lengths) if at_equal_lengths else np.tanh(self.lengths)
        return np.stack([lengths, self.difficulties, self.plain], axis=1)


@dataclass(frozen=True)
class LengthControlled:
    """Preferences at equal lengths.

    Attributes:
        preferences: for each of the model's comparisons, 0 to 1; their mean is the win rate.
        moved: how much each comparison moves that mean, directly and through the regression, which
            would be another without it; the gamed baselines and the penalty are taken as given.
        coefficients: of length, difficulty and model.
    """

    preferences: FloatArray
    moved: FloatArray
    coefficients: FloatArray


def standardized(differences: FloatArray) -> FloatArray | None:
    """Differences in length over their standard deviation; None where they do not vary."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    return np.asarray(differences / differences.std(ddof=1), dtype=np.float64)


def control_lengths(own: Comparisons, gamed: Comparisons) -> LengthControlled:
    """Fit the published regression to a model's comparisons, and predict at equal lengths.

    L1-penalized, without an intercept, its penalty chosen by cross-validated log loss among
    scikit-learn's ten.

    Args:
        own: the model's.
        gamed: those of the gamed baselines, as published.
    """
    design = np.concatenate([gamed.design(), own.design()])
    wanted = np.concatenate([gamed.preferences, own.preferences])
    weights = np.concatenate(
        [np.where(gamed.plain > 0, 1.0, GAMED_WEIGHT), np.ones(len(own.preferences))]
    )
    known = ~np.isnan(wanted)
    coefficients = _fit(design[known], wanted[known], weights[known])
    at_equal = own.design(at_equal_lengths=True)
    predicted = expit(at_equal @ coefficients)
    # One step of Newton's from the fit without a comparison (Pregibon 1981). Its own weight in the
    # fit makes its error look smaller than it would be without it, by its leverage.
    chances = expit(design @ coefficients)
    spread = np.where(known, weights * chances * (1 - chances), 0.0)
    active = coefficients != 0
    curvature = (design[:, active] * spread[:, None]).T @ design[:, active]
    slope = ((predicted * (1 - predicted))[:, None] * at_equal[:, active]).mean(axis=0)
    own_chances = chances[len(gamed.preferences) :]
    errors = np.where(np.isnan(own.preferences), 0.0, own.preferences - own_chances)
    inverse, placed = np.linalg.pinv(curvature), own.design()[:, active]
    leverage = spread[len(gamed.preferences) :] * ((placed @ inverse) * placed).sum(axis=1)
    through = errors / np.maximum(1 - leverage, LEAST_LEFT) * (placed @ (inverse @ slope))
    moved = (predicted - predicted.mean()) / len(predicted) + through
    return LengthControlled(predicted, moved, coefficients)


def _fit(design: FloatArray, wanted: FloatArray, weights: FloatArray) -> FloatArray:
    """Coefficients: each row once as a win and once as a loss, weighted by its preference."""
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(wanted))
    won = np.concatenate([np.ones(len(rows), dtype=int), np.zeros(len(rows), dtype=int)])
    shares = np.concatenate([wanted * weights, (1 - wanted) * weights])
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_score, response_method="predict_proba")
        model = LogisticRegressionCV(
            Cs=10, cv=GroupKFold(FOLDS), scoring=scorer.set_score_request(shares="shares"),
            solver="liblinear", l1_ratios=(1.0,), fit_intercept=False, random_state=SEED,
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)  # fmt: skip
        model.fit(
            np.concatenate([design, design]), won, sample_weight=shares,
            groups=np.concatenate([rows, rows]), shares=shares,
        )  # fmt: skip
    return np.asarray(model.coef_[0], dtype=np.float64)


def _score(won: Any, chances: Any, shares: Any) -> float:
    """Weighted log-likelihood by row; a sum over folds of unlike weight would choose otherwise."""
    bounded = np.clip(chances, SMALLEST, 1 - SMALLEST)
    likelihood = np.where(np.asarray(won) == 1, np.log(bounded), np.log(1 - bounded))
    return float(np.mean(shares * likelihood))
