"""How far a judge agrees with itself, beside the scores of a benchmark that asks it twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from veridical.eval.asks import Remarks
from veridical.scoring.statistics.judges import judge_variance


def with_judge_variance(remarks: Remarks, replies: Sequence[Sequence[float]]) -> Remarks:
    """Remarks with the judge's part of the variance, if it was asked twice about some answers.

    Args:
        remarks: what else is remarked.
        replies: the numbers that the judge's readable replies give each answer.
    """
    found = judge_variance(replies)
    if found is None:
        return remarks
    about = {**remarks.about, **found.as_about()}
    return replace(remarks, about=about, lines=[*remarks.lines, found.line])
