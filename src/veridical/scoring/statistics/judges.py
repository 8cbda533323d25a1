"""How much of a judged score's uncertainty is the judge's own, where it is asked more than once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class JudgeVariance:
    """The variance of replies to the same answer, beside that between answers.

    Attributes:
        answers: judged more than once.
        replies: to these.
        disagreement: standard deviation of replies to the same answer.
        agreement: intraclass correlation, the share of the replies' variance that is between
            answers; 1 is a judge that always says the same, 0 or less one that says anything.
        of_mean: standard error that the disagreement gives the mean of these answers, with replies
            taken as independent. Replies in two orders are not repeats: a preference for a place,
            which asking again would not change, counts as disagreement.
    """

    answers: int
    replies: int
    disagreement: float
    agreement: float
    of_mean: float

    def as_about(self) -> dict[str, str | float]:
        """Entries for `scores.json`."""
        return {
            "judge/answers_judged_again": float(self.answers),
            "judge/disagreement": self.disagreement,
            "judge/agreement": self.agreement,
            "judge/standard_error": self.of_mean,
        }

    @property
    def line(self) -> str:
        """The same in words."""
        return (
            f"Of {self.answers} answers that were judged more than once, replies differ by "
            f"{self.disagreement:.3g} (standard deviation; agreement {self.agreement:.2f}). "
            f"Their disagreement, a preference for a place in the order included, gives the mean a "
            f"standard error of {self.of_mean:.2g}."
        )


def judge_variance(replies: Sequence[Sequence[float]]) -> JudgeVariance | None:
    """Components of variance of a one-way layout: answers, and replies within them.

    With k replies to each of n answers: within is the mean square of replies about their answer's
    mean, between is (mean square of the answers' means times k, minus within) / k (Searle, Casella
    and McCulloch 1992; for unequal numbers k is the usual mean of numbers, weighted).

    Args:
        replies: the numbers of each answer; those with fewer than two say nothing here.

    Returns:
        None where fewer than two answers have two replies.
    """
    several = [np.asarray(own, dtype=np.float64) for own in replies if len(own) > 1]
    if len(several) < 2:
        return None
    counts = np.array([len(own) for own in several], dtype=np.float64)
    means = np.array([own.mean() for own in several])
    total, answers = float(counts.sum()), len(several)
    inside = sum(float(((own - own.mean()) ** 2).sum()) for own in several)
    within = inside / (total - answers)
    whole = float((counts * means).sum()) / total
    among = float((counts * (means - whole) ** 2).sum()) / (answers - 1)
    usual = (total - float((counts**2).sum()) / total) / (answers - 1)
    between = (among - within) / usual
    spread = between + within
    agreement = between / spread if spread > 0 else 1.0
    of_mean = math.sqrt(within * float((1 / counts).sum())) / answers
    return JudgeVariance(answers, int(total), math.sqrt(within), agreement, of_mean)
