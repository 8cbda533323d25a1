"""Scores of a judge: why there are none is told, and equal texts earn the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.judges.judging import Case, Verdict
from veridical.judges.symbolic import Symbolic
from veridical.runtime.errors import UserError
from veridical.train.prompts import TrainingPrompt
from veridical.train.rl.rewarding import Rewarder, reward
from veridical.train.rl.scale import scores_of

PROMPT = TrainingPrompt(Prompt("a", (), [user_message("What?")]), "", (), None, ())


def said(text: str) -> Response:
    return Response(text, (1, 2), (-1.0, -1.0), "end")


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


def test_equal_texts_earn_the_same() -> None:
    """Also where the judge computes in half precision: rounding depends on the place in a batch."""
    seen = []

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        seen.extend([list(case.responses) for case in cases])
        marks = [{"reward": len(text) + 0.01 * place} for place, text in enumerate(seen[-1])]
        return [Verdict(ratings=tuple(marks))]

    texts = ["A dog.", "A cat and a dog.", "A dog.", "A dog."]
    (found,) = reward(Rewarder(judge, None, Symbolic(), 9), [PROMPT], [list(map(said, texts))])
    assert seen == [texts[:2]]
    assert found.scores == found.rewards == (6.0, 16.01, 6.0, 6.0)
