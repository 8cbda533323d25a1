"""Scores of a judge before training: why there are none is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.judges.judging import Case, Verdict
from veridical.runtime.errors import UserError
from veridical.train.rl.scale import scores_of

CASES = [Case(Prompt(name, (), [user_message("What?")]), ["A dog."]) for name in ("a", "b")]


def test_a_judge_that_can_score_nothing_says_why() -> None:
    def judge(cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict(problem=f"no list for {case.prompt.id}.jpg") for case in cases]

    with pytest.raises(UserError, match=r"no prompt of the first 2 \(a: no list for a.jpg\)"):
        scores_of(judge, CASES)


def test_what_can_be_scored_is_taken() -> None:
    def judge(cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict(ratings=({"exact": 0.5},)), Verdict(problem="no list")]

    assert scores_of(judge, CASES) == [0.5]
