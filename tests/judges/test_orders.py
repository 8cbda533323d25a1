"""The place in which a response is shown cancels out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.judges.judging import Case, Cost, PairwiseVerdict, Verdict
from veridical.judges.orders import compare_pairs, mark

PROMPT = [user_message("What?")]
CASE = Case(Prompt("a", (), PROMPT), ["long answer", "short"])


def test_numbers_lose_the_bias_of_the_place() -> None:
    """Merit 0.5 for the second, 2 for whoever is first: 1.5 and 2.5; half the difference -0.5."""

    def look(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        margins = [2 + (0.5 if case.responses[0] == "short" else -0.5) for case in cases]
        return [PairwiseVerdict(0, margin, cost=Cost(output_tokens=1)) for margin in margins]

    [both] = compare_pairs(look, [CASE])
    assert (both.margin, both.better, both.agreed) == (-0.5, 1, False)
    assert (both.first_won, both.cost.output_tokens) == ((True, True), 2)
    assert compare_pairs(look, [CASE], swap=False)[0].better == 0
    assert compare_pairs(look, [CASE], least_margin=0.5)[0].tie == "judge"


@pytest.mark.parametrize(
    ("verdicts", "better", "tie", "agreed"),
    [
        ((0, 1), 0, "", True),
        ((1, 0), 1, "", True),
        ((0, 0), None, "order", False),
        ((None, None), None, "judge", True),
        ((None, 1), None, "order", False),
    ],
)
def test_words_have_to_agree(
    verdicts: tuple[int | None, int | None], better: int | None, tie: str, agreed: bool
) -> None:
    [found] = compare_pairs(
        lambda cases: [PairwiseVerdict(verdict) for verdict in verdicts], [CASE]
    )
    assert (found.better, found.tie, found.agreed) == (better, tie, agreed)


def test_a_problem_in_one_order_is_no_verdict() -> None:
    [found] = compare_pairs(
        lambda cases: [PairwiseVerdict(0), PairwiseVerdict(problem="nonsense")], [CASE]
    )
    assert (found.better, found.tie, found.agreed, found.problem) == (None, "", None, "nonsense")


def test_marks_come_back_to_their_responses_and_are_averaged() -> None:
    """Length is marked, and the place shown first gets 1 more: the means gain one half each."""

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        return [
            Verdict(
                tuple(
                    {"Length": float(len(text) + (place == 0))}
                    for place, text in enumerate(case.responses)
                ),
                ("why",),
            )
            for case in cases
        ]

    cases = [Case(Prompt(str(i), (), PROMPT), ["long answer", "short"]) for i in range(20)]
    single = mark(judge, cases, seed=0)
    assert {one.orders for one in single} == {((0, 1),), ((1, 0),)}
    for one in single:
        first = one.orders[0][0]
        wanted = [11.0 + (first == 0), 5.0 + (first == 1)]
        assert [rating["Length"] for rating in one.verdict.ratings] == wanted
    for one in mark(judge, cases, seed=0, swap=True):
        assert [rating["Length"] for rating in one.verdict.ratings] == [11.5, 5.5]
        assert one.equal == (0, 2)
        assert one.orders[0] == one.orders[1][::-1]
