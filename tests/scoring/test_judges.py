"""The judge's part of the variance, by hand and with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from veridical.scoring.statistics.judges import judge_variance


def test_components_by_hand() -> None:
    """Three answers with replies (1, 3), (5, 5), (9, 7), and one that was judged once.

    Inside: 2 + 0 + 2 over 3 = 4/3. Means 2, 5, 8 about 5: 2 x 18 / 2 = 18; between (18 - 4/3) / 2
    = 25/3. Agreement 25 / 29. The mean's part: sqrt(4/3 x 3/2) / 3.
    """
    found = judge_variance([[1, 3], [5, 5], [9, 7], [4]])
    assert found is not None
    assert (found.answers, found.replies) == (3, 6)
    assert found.disagreement == pytest.approx(math.sqrt(4 / 3))
    assert found.agreement == pytest.approx(25 / 29)
    assert found.of_mean == pytest.approx(math.sqrt(2) / 3)
    assert "3 answers" in found.line
    assert found.as_about()["judge/disagreement"] == found.disagreement


def test_what_has_no_variance() -> None:
    assert judge_variance([[1, 2], [3]]) is None and judge_variance([]) is None
    same = judge_variance([[2, 2], [2, 2]])
    assert same is not None and same.agreement == 1 and same.of_mean == 0


def test_known_components_are_found() -> None:
    """Answers spread by 2, replies by 1: agreement 0.8; some answers have three replies."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2, 4000)
    replies = [list(one + rng.normal(0, 1, 2 + n % 2)) for n, one in enumerate(truth)]
    found = judge_variance(replies)
    assert found is not None
    assert found.disagreement == pytest.approx(1, abs=0.03)
    assert found.agreement == pytest.approx(0.8, abs=0.01)
