"""Kappa and alpha against other libraries, and by hand."""

from __future__ import annotations

import random

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from veridical.scoring.agreement import cohen_kappa, krippendorff_alpha


def test_agreement_is_that_of_the_libraries_and_its_intervals_cover() -> None:
    chance = random.Random(0)
    labels: list[list[str | None]] = []
    for _ in range(60):
        truth = chance.choice("abc")
        labels.append([
            None if chance.random() < 0.3 else chance.choice(truth * 6 + "abc")
            for _ in range(3)
        ])  # fmt: skip
    alpha = krippendorff_alpha(labels)
    codes = [[np.nan if one is None else "abc".index(one) for one in row] for row in labels]
    expected = krippendorff.alpha(np.array(codes).T, level_of_measurement="nominal")
    assert alpha.value == pytest.approx(expected, abs=1e-12)
    two = [(row[0], row[1]) for row in labels]
    both = [(one, other) for one, other in two if one is not None and other is not None]
    kappa = cohen_kappa(two)
    assert kappa.value == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)), abs=1e-12)
    assert kappa.units == len(both)
    for found in (alpha, kappa):
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high  # type: ignore[operator]
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]).value is None
    assert krippendorff_alpha([["a", None]]).units == 0
    # Two of ten differ: observed 0.8, chance 0.5, so kappa is 0.6.
    assert cohen_kappa([("a", "a")] * 4 + [("b", "b")] * 4 + [("a", "b"), ("b", "a")]).value == (
        pytest.approx(0.6)
    )
